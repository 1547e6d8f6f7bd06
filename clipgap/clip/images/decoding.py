"""Pixels out of bytes that nobody has checked.

What comes out is what open_clip and webdataset see, `Image.convert("RGB")`: alpha is dropped,
palettes are resolved, CMYK is converted, the first frame stands for an animation, and an EXIF
orientation is not applied. One thing differs: 16-bit grey is scaled to 8 bits, where `convert`
would turn nearly all of it white.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from clipgap.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 89_478_485
"""A quarter of a gigabyte when decoded; also where Pillow begins to warn."""

LARGEST_RATIO = 256
"""Of the sides. A model's preprocessing enlarges the shorter one, and the longer one with it."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_WIDE = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class Unusable(InputError):
    """A sample that cannot be used; `reason` says why, the message also where."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}")
        self.where = where
        self.reason = reason

    def __reduce__(self) -> tuple[type[Unusable], tuple[str, str]]:
        return type(self), (self.where, self.reason)


class BadImage(Unusable):
    """An image of which there are no pixels to be had."""


def decode(data: bytes, where: str) -> Image:
    """The image in `data` as RGB; `where` (file, key) is what a `BadImage` names."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise BadImage(where, "the image is empty")
    # Decoders meet bytes that were made to break them, and raise whatever comes to them.
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadImage(where, f"its header claims more than {MOST_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise BadImage(where, f"not an image (known are {', '.join(_FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(where, f"its header cannot be read: {error}") from error
    _check_size(image.size, where)
    try:
        image.load()
        if image.mode in _WIDE:
            image = _narrow(image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except MemoryError:  # the machine's fault, not the image's
        raise
    except Exception as error:
        raise BadImage(where, f"cannot be decoded: {error}") from error


def _check_size(size: tuple[int, int], where: str) -> None:
    """Before anything is decoded: how large would it get?"""
    width, height = size
    if width * height > MOST_PIXELS:
        reason = f"{width:,} × {height:,} pixels, more than {MOST_PIXELS:,}"
        raise BadImage(where, reason)
    if max(size) > LARGEST_RATIO * min(size):
        reason = f"{width:,} × {height:,} pixels, one side over {LARGEST_RATIO} times the other"
        raise BadImage(where, reason)


def _narrow(image: Image) -> Image:
    """Grey of 16 bits as grey of 8: the upper byte."""
    import numpy as np
    from PIL import Image

    values = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))
