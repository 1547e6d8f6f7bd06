"""Digits written by people, from scikit-learn, and the same in type.

scikit-learn brings 1,797 handwritten digits of 8 × 8 pixels (UCI, by E. Alpaydin and C. Kaynak);
nothing is downloaded. The fonts are those that come with matplotlib.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipgap.packages import missing
from clipgap.synthetic.styles import Mask

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def handwritten(size: int) -> tuple[list[Mask], list[int]]:
    """All of them, enlarged, ink = 1, and what each is."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing("sklearn") from error
    from PIL import Image

    data = load_digits()
    images: list[Mask] = []
    for pixels in data.images:
        small = Image.fromarray((pixels / 16 * 255).astype(np.uint8))
        large = small.resize((size, size), Image.Resampling.BICUBIC)
        images.append(np.asarray(large, np.float32) / 255)
    return images, [int(label) for label in data.target]


def fonts() -> list[Path]:
    """Typefaces with digits in them, in a fixed order."""
    try:
        import matplotlib
    except ImportError as error:
        raise missing("matplotlib") from error
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    # The "Display" faces hold a few symbols, and no digits.
    found = [*folder.glob("DejaVu*.ttf"), *folder.glob("STIXGeneral*.ttf")]
    return sorted(font for font in found if not font.stem.endswith("Display"))


def typed(digit: int, font: Path, size: int, random: np.random.Generator) -> Mask:
    """A digit in type, ink = 1, somewhere near the middle and slightly turned."""
    from PIL import Image, ImageDraw, ImageFont

    canvas = Image.new("L", (size, size), 0)
    face = ImageFont.truetype(str(font), int(size * random.uniform(0.65, 0.95)))
    at = size * (0.5 + random.uniform(-0.06, 0.06, 2))
    ImageDraw.Draw(canvas).text(tuple(at), str(digit), fill=255, font=face, anchor="mm")
    turned = canvas.rotate(float(random.uniform(-10, 10)), Image.Resampling.BICUBIC)
    return np.asarray(turned, np.float32) / 255
