"""The picture of a report for README and docs: its first page and its gallery, side by side.

python scripts/report_picture.py REPORT docs/images/report.png
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ARGUMENTS = "--no-sandbox --disable-gpu --disable-background-networking --no-first-run".split()
WIDTH, HEIGHT, SCALE = 1180, 1240, 1.5
GAP, WIDE = 24, 1800  # pixels between the pages, and of the whole
PAGES = (("index.html", "light"), ("gallery.html", "dark"))


def shots(report: Path) -> list[Image.Image]:
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS, headless=True
        )
        for name, scheme in PAGES:
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT},
                device_scale_factor=SCALE,
                color_scheme=scheme,
            )
            page.goto((report / name).resolve().as_uri())
            if name == "gallery.html":
                page.wait_for_selector(".point")
                page.select_option("#set", index=page.locator("#set option").count() - 1)
                page.wait_for_timeout(500)
                if page.locator("#moved").is_visible():
                    page.check("#moved")
            page.wait_for_timeout(1000)
            found.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    left, right = shots(options.report)
    whole = Image.new("RGB", (left.width + GAP + right.width, left.height), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width + GAP, 0))
    small = whole.resize((WIDE, round(WIDE * whole.height / whole.width)), Image.Resampling.LANCZOS)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    small.quantize(192, dither=Image.Dither.NONE).save(options.picture, optimize=True)
    print(f"{options.picture}: {options.picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
