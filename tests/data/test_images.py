from __future__ import annotations

import io
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms

from llmdiff.data.budget import SharedBudget
from llmdiff.data.images import Crop, load_image
from llmdiff.data.rejects import BadRow
from tests.data.pictures import encoded, picture

Colour = tuple[float, float, float]


def test_the_centred_square_is_kept() -> None:
    wide = np.zeros((20, 40, 3), np.uint8)
    wide[:, 10:30] = 255  # the centre is white, the sides are black
    square, crop = load_image(encoded(Image.fromarray(wide)), 20)
    assert square.shape == (20, 20, 3)
    assert square.dtype == np.uint8
    assert square.min() == 255
    assert crop == Crop(width=40, height=20, left=10, top=0)


@pytest.mark.parametrize(("width", "height"), [(41, 401), (401, 41), (7, 7), (1, 1), (64, 65), (399, 8)])
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


def test_a_strip_that_would_grow_to_too_many_pixels_is_refused() -> None:
    strip = encoded(Image.new("L", (400, 8)))
    with pytest.raises(BadRow, match="found 400x8, 204800 when its shorter side is 64"):
        load_image(strip, 64, max_pixels=100_000)
    load_image(strip, 8, max_pixels=100_000)


@pytest.mark.parametrize(("width", "height"), [(780_000, 128), (8, 401)])
def test_a_strip_of_which_nothing_would_be_kept_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    bomb = encoded(Image.new("L", (width, height)))
    tracemalloc.start()
    with pytest.raises(BadRow, match=f"at most 50 times the shorter, found {width}x{height} pixels") as caught:
        load_image(bomb, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "extreme_aspect"
    assert peak < 10**6


@pytest.mark.parametrize("start", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", b"qoif" + bytes(20)])
def test_formats_that_are_not_named_are_not_read(start: bytes) -> None:
    """Pillow hands PostScript to another program."""
    with pytest.raises(BadRow, match="expected a picture, found bytes that begin") as caught:
        load_image(start, 8)
    assert caught.value.reason == "broken_image"


def test_pictures_wait_for_room() -> None:
    budget, entered = SharedBudget(10), []

    def take(amount: int) -> None:
        with budget.take(amount):
            entered.append(amount)

    with ThreadPoolExecutor(2) as threads:
        with budget.take(8):
            small, large = threads.submit(take, 2), threads.submit(take, 100)
            small.result(timeout=10)
            assert not large.done()
            entered.append(8)
        large.result(timeout=10)
    assert entered == [2, 8, 100]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_converted_by_the_pictures_own_profile(mode: str) -> None:
    wide = icc((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407), 2.2)  # Display P3
    drawn = Image.new(mode, (16, 16), (60, 160, 80, 255)[: len(mode)])
    profiles = ImageCms.ImageCmsProfile(io.BytesIO(wide)), ImageCms.createProfile("sRGB")
    expected = ImageCms.profileToProfile(drawn.convert("RGB"), *profiles)
    assert expected is not None
    square, _ = load_image(encoded(drawn, "PNG", icc_profile=wide), 16)
    assert np.abs(square[0, 0].astype(int) - (60, 160, 80)).max() > 20
    np.testing.assert_allclose(square, np.asarray(expected), atol=1)


@pytest.mark.parametrize("whole", [True, False])
def test_colours_of_srgb_stay_and_a_broken_profile_is_none(whole: bool) -> None:
    source = picture(16, 16)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() if whole else b"no profile"
    square, _ = load_image(encoded(source, "PNG", icc_profile=profile), 16)
    np.testing.assert_allclose(square, np.asarray(source), atol=1)


def icc(red: Colour, green: Colour, blue: Colour, gamma: float) -> bytes:
    """The smallest ICC profile of three primaries and a gamma."""
    tags = {name: xyz(value) for name, value in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue))}
    tags |= {b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text\0\0\0\0none\0"}
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 2) + b"p\0" + bytes(78)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    head = bytearray(128)
    head[8:12], head[12:24], head[36:40] = b"\x02\x10\0\0", b"mntrRGB XYZ ", b"acsp"
    head[68:80] = xyz((0.9642, 1.0, 0.8249))[8:]
    head[:4] = struct.pack(">I", 128 + len(table) + len(body))
    return bytes(head) + table + body


def xyz(colour: Colour) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in colour)


@pytest.mark.parametrize(
    ("values", "white"), [((0.0, 1.0), 255), ((0.0, 0.5), 128), ((0.0, 255.0), 255), ((3.0, 9.0), 9)]
)
def test_grey_numbers_are_scaled(values: tuple[float, float], white: int) -> None:
    grey = np.linspace(*values, 4096, dtype=np.float32).reshape(64, 64)
    assert load_image(encoded(Image.fromarray(grey), "TIFF"), 64)[0].max() == white


@pytest.mark.parametrize("value", [-1.0, 256.0, float("nan"), float("inf")])
def test_grey_numbers_that_are_no_brightness_are_refused(value: float) -> None:
    grey = np.zeros((16, 16), np.float32)
    grey[3, 4] = value
    with pytest.raises(BadRow, match="broken_image: expected grey values from 0 to "):
        load_image(encoded(Image.fromarray(grey), "TIFF"), 16)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(20), "a HEIC picture, which Pillow reads with the package pillow-heif"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "found a pointer of Git LFS: `git lfs pull` fetches it"),
        (b"\xff\n" + bytes(20), "a JPEG XL picture, which Pillow reads with the package pillow-jxl-plugin"),
    ],
)
def test_what_is_needed_for_a_picture_is_named(data: bytes, message: str) -> None:
    with pytest.raises(BadRow, match=message):
        load_image(data, 16)
