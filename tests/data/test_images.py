from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from llmdiff.data.images import Crop, load_image
from llmdiff.data.rejects import BadRow
from tests.data.pictures import encoded, picture


def test_the_centred_square_is_kept() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # the centre is white, the sides are black
    square, crop = load_image(encoded(Image.fromarray(wide)), 20)
    assert square.shape == (20, 20, 3)
    assert square.dtype == np.uint8
    assert square.min() == 255
    assert crop == Crop(width=40, height=20, left=10, top=0)


@pytest.mark.parametrize(("width", "height"), [(41, 401), (401, 41), (7, 7), (1, 1), (64, 65), (1271, 8)])
@pytest.mark.parametrize("size", [8, 64])
def test_any_aspect_ratio_gives_the_square(width: int, height: int, size: int) -> None:
    square, crop = load_image(encoded(picture(width, height)), size)
    assert square.shape == (size, size, 3)
    assert (crop.width, crop.height) == (width, height)
    assert min(crop.left, crop.top) == 0


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "PA", "I;16", "YCbCr", "F"])
def test_every_colour_mode_becomes_rgb(mode: str) -> None:
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF", "PA": "TIFF"}.get(mode, "PNG")
    source = picture(16, 16, "L" if mode in ("L", "LA", "I;16", "F", "1") else "RGB")
    image = source.convert("I").point(lambda v: v * 257).convert("I;16") if mode == "I;16" else source.convert(mode)
    square, _ = load_image(encoded(image, kind), 16)
    assert square.shape == (16, 16, 3)
    if mode in ("L", "I;16", "F"):
        np.testing.assert_allclose(square, np.asarray(source.convert("RGB")), atol=1)


def test_transparent_parts_become_white() -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    square, _ = load_image(encoded(clear), 8)
    assert (square == 255).all()


def test_a_turned_photograph_is_set_upright() -> None:
    upright = picture(30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    square, crop = load_image(encoded(turned, "PNG", exif=exif), 30)
    assert (crop.width, crop.height) == (30, 40)
    np.testing.assert_array_equal(square, np.asarray(upright)[5:35])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.9])
def test_a_cut_file_is_refused_with_its_reason(kind: str, keep: float) -> None:
    data = encoded(picture(200, 200), kind)
    cut = data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)]
    with pytest.raises(BadRow) as caught:
        load_image(cut, 32)
    assert caught.value.reason == ("broken_image" if keep == 0 or (kind, keep) == ("PNG", 10) else "truncated_image")


def test_a_damaged_file_is_not_a_truncated_one() -> None:
    data = bytearray(encoded(picture(200, 200)))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadRow, match="broken_image: "):
        load_image(bytes(data), 32)


@pytest.mark.parametrize(("width", "height", "fine"), [(16, 400, True), (15, 400, False), (400, 15, False)])
def test_a_picture_with_a_side_too_short_is_refused(width: int, height: int, fine: bool) -> None:
    data = encoded(picture(width, height))
    if fine:
        assert load_image(data, 64, min_side=16)[0].shape == (64, 64, 3)
        return
    with pytest.raises(BadRow, match=f"at least 16 pixels, found {width}x{height}") as caught:
        load_image(data, 64, min_side=16)
    assert caught.value.reason == "too_small"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_kinds_of_files_that_data_come_in(kind: str) -> None:
    source = picture(32, 32)
    square, _ = load_image(encoded(source, kind, quality=95), 32)
    np.testing.assert_allclose(square.astype(float), np.asarray(source).astype(float), atol=24)


def test_what_is_no_picture_is_told_by_how_it_begins() -> None:
    with pytest.raises(BadRow, match="expected a picture, found bytes that begin b'<html><body>'"):
        load_image(b"<html><body>404</body></html>", 32)


@pytest.mark.parametrize("side", [11_000, 14_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(side: int) -> None:
    bomb = encoded(Image.new("1", (side, side)))
    assert len(bomb) < 100_000
    with pytest.raises(BadRow, match="pixels") as caught:
        load_image(bomb, 32)
    assert caught.value.reason == "image_too_large"
