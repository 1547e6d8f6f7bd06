"""Images that nobody has checked: the same pixels as open_clip sees, or a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clipgap.clip.images import decoding as images
from clipgap.clip.images.decoding import BadImage, decode
from tests.clip_worlds import encoded, render
from tests.thorough import examples


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims to have this size and holds hardly anything."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")]
    )


def reason(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data, "a.tar, key 7")
    assert str(caught.value) == f"a.tar, key 7: {caught.value.reason}"
    return caught.value.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_pixels_are_those_of_convert(form: str, mode: str) -> None:
    image = render(2, 5).convert(mode)
    if (form, mode) == ("JPEG", "P"):
        image = image.convert("L")
    data = encoded(image, form)
    wanted = Image.open(io.BytesIO(data)).convert("RGB")
    got = decode(data, "here")
    assert got.mode == "RGB"
    assert np.array_equal(np.asarray(got), np.asarray(wanted))


def test_cmyk_is_converted() -> None:
    got = np.asarray(decode(encoded(Image.new("CMYK", (9, 9), (0, 255, 255, 0))), "here"))
    assert np.abs(got.astype(int) - [255, 0, 0]).max() < 20


def test_alpha_is_dropped_not_blended() -> None:
    image = Image.new("RGBA", (4, 4), (200, 10, 20, 0))
    got = np.asarray(decode(encoded(image, "PNG"), ""))
    assert np.array_equal(got, np.full((4, 4, 3), [200, 10, 20]))


def test_sixteen_bits_of_grey_are_scaled() -> None:
    values = np.array([[0, 255, 256, 0x1234, 0x8000, 0xFFFF]], np.uint16)
    got = np.asarray(decode(encoded(Image.fromarray(values), "PNG"), ""))
    assert got[0].tolist() == [[value >> 8] * 3 for value in values[0].tolist()]


def test_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = encoded(render(0, 1).resize((40, 20)), quality=95, exif=exif)
    assert decode(data, "").size == (40, 20)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_first_frame_stands_for_an_animation(form: str) -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encoded(red, form, save_all=True, append_images=[blue, blue], duration=100)
    got = np.asarray(decode(data, "")).astype(int)
    assert np.abs(got - [255, 0, 0]).max() < 10


def test_size_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoding(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding)
    assert "pixels" in reason(png_of(60_000, 60_000))  # Pillow stops it
    monkeypatch.setattr(images, "MOST_PIXELS", 10_000)
    assert reason(png_of(101, 100)) == "101 × 100 pixels, more than 10,000"  # we do
    # The shorter side would be enlarged to some 224 pixels, and the other one with it.
    assert "one side over 256 times the other" in reason(png_of(1, 257))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "the image is empty"),
        (b"no image at all", "not an image"),
        (b"<svg/>", "not an image"),
        (encoded(render(1, 1))[:700], "cannot be decoded"),
        (encoded(render(1, 1), "PNG")[:-30], "cannot be decoded"),
        (encoded(render(1, 1), "WEBP")[:60], "its header cannot be read"),
        (png_of(40, 40), "cannot be decoded"),
        (encoded(render(1, 1), "TIFF"), "not an image (known are JPEG, PNG"),
        (encoded(render(1, 1), "EPS"), "not an image"),
    ],
)
def test_bad_images_are_told_apart(data: bytes, why: str) -> None:
    assert reason(data).startswith(why)


def test_reason_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(BadImage("here", "truncated")))
    assert (error.where, error.reason, str(error)) == ("here", "truncated", "here: truncated")


@given(
    form=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]),
    changes=st.lists(st.tuples(st.integers(0, 4_000), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 4_000),
)
@examples(60)
def test_damage_is_an_image_or_a_reason(
    form: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encoded(render(3, 3), form))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert decode(bytes(data[: max(cut, 1)]), "here").mode == "RGB"
    except BadImage as bad:
        assert bad.reason
