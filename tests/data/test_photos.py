import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as sample
from torchvision import tv_tensors

from trmml.config.groups import PhotoConfig
from trmml.data.finding import find_photos
from trmml.data.photos import load_photo
from trmml.data.tensors import load_tensor, photo_tensor
from trmml.errors import ConfigError, ImageError

HEIGHT, WIDTH = 5, 7
ORIENTATION = 0x0112
Image.init()
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")  # the last: not in every Pillow
CONFIG = PhotoConfig(image_size=17, mean=(0.5, 0.25, 0.125), std=(0.2, 0.3, 0.7))


@pytest.fixture
def pixels() -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, size=(HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(picture: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixel(source: Any) -> tuple[int, ...]:
    photo = load_photo(source)
    assert photo.mode == "RGB"
    return tuple(np.asarray(photo)[0, 0].tolist())


def test_a_photo_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    lines = ("%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 9 9", "%%EndComments", "showpage", "")
    (tmp_path / "a.jpg").write_text("\n".join(lines))
    with pytest.raises(ImageError, match="is not a picture in a known format"):
        load_photo(tmp_path / "a.jpg")
    assert not started.exists()


def test_pictures_that_cannot_be_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.JPG", "b.heic", "c.HEIC", "d.dng", "e.txt", ".f.heic"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in find_photos(tmp_path)] == ["a.JPG"]
    assert "3 pictures in" in caplog.text
    assert ".dng, .heic cannot be read" in caplog.text


def test_a_photo_is_the_same_from_every_kind_of_source(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "日本語.png"
    path.write_bytes(encoded(pixels))
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        Image.open(path),
        pixels,
        pixels[:, ::-1][:, ::-1],
        tensor,
        tensor.double() / 255,
        (tensor / 255).requires_grad_(),
        tv_tensors.Image(tensor),  # a tensor class of another package
    ]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(load_photo(source)), pixels)


def test_grey_arrays_and_tensors_become_three_equal_channels(pixels: np.ndarray) -> None:
    grey = pixels[:, :, 0]
    expected = np.stack([grey] * 3, axis=2)
    for source in (grey, grey[:, :, None], torch.from_numpy(grey)[None]):
        np.testing.assert_array_equal(np.asarray(load_photo(source)), expected)


def test_a_picture_that_is_handed_over_stays_as_it_was(pixels: np.ndarray) -> None:
    image = Image.open(io.BytesIO(encoded(pixels)))
    load_photo(image).putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, np.fliplr),
        (3, lambda stored: np.rot90(stored, 2)),
        (4, np.flipud),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
        (8, np.rot90),
    ],
)
def test_a_photo_stands_upright(
    pixels: np.ndarray, orientation: int, upright: Callable[[np.ndarray], np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    photo = load_photo(encoded(pixels, exif=exif))
    np.testing.assert_array_equal(np.asarray(photo), upright(pixels))


def test_a_broken_exif_block_does_not_make_a_photo_unreadable(pixels: np.ndarray) -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        assert load_photo(encoded(pixels, "JPEG", exif=broken)).size == (WIDTH, HEIGHT)


def exif_block(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return an EXIF block of (tag, type, count, value); no library would write some of them."""
    base, table, more = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, kind, count, value in sorted(entries):
        inline = value if len(value) <= 4 else struct.pack("<I", base + len(more))
        more += value if len(value) > 4 else b""
        table += struct.pack("<HHI", tag, kind, count) + inline.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return b"Exif\0\0" + head + table + bytes(4) + more


TURNED = (ORIENTATION, 3, 1, struct.pack("<H", 6))
RESOLUTION, UNIT, MAKE, EXPOSURE, EXIF_PLACE = 0x011A, 0x0128, 0x010F, 0x829A, 0x8769


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("tag", [RESOLUTION, UNIT, MAKE, EXPOSURE, EXIF_PLACE])
@pytest.mark.parametrize(
    "value",
    [
        (10, 1, struct.pack("<ii", -1, 0)),
        (5, 1, struct.pack("<II", 0, 0)),
        (2, 6, b"hello\0"),
        (11, 1, struct.pack("<f", float("nan"))),
        (12, 1, struct.pack("<d", float("-inf"))),
        (9, 1, struct.pack("<i", -5)),
        (3, 1, struct.pack("<H", 65535)),
    ],
    ids=["-1/0", "0/0", "text", "nan", "-inf", "negative", "65535"],
)
def test_of_the_exif_only_the_orientation_is_read(
    pixels: np.ndarray, form: str, tag: int, value: tuple[int, int, bytes]
) -> None:
    options = {"lossless": True} if form == "WEBP" else {}
    data = encoded(pixels, form, exif=exif_block(TURNED, (tag, *value)), **options)
    for source in (data, Image.open(io.BytesIO(data))):
        photo = load_photo(source)
        assert photo.size == (HEIGHT, WIDTH)
        if form != "JPEG":
            np.testing.assert_array_equal(np.asarray(photo), np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "entry",
    [
        (ORIENTATION, 2, 2, b"6\0"),
        (ORIENTATION, 11, 1, struct.pack("<f", float("nan"))),
        (ORIENTATION, 10, 1, struct.pack("<ii", -1, 0)),
        (ORIENTATION, 9, 1, struct.pack("<i", -6)),
        (ORIENTATION, 3, 1, struct.pack("<H", 99)),
    ],
)
def test_an_orientation_that_makes_no_sense_turns_nothing(pixels: np.ndarray, entry: Any) -> None:
    photo = load_photo(encoded(pixels, exif=exif_block(entry)))
    np.testing.assert_array_equal(np.asarray(photo), pixels)


def palette_picture() -> Image.Image:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putpalette([200, 0, 100, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("CMYK", (3, 2), (0, 255, 255, 0)), "TIFF"), (255, 0, 0)),
        (encoded(palette_picture()), (200, 0, 100)),
        (encoded(palette_picture(), transparency=b"\x33\xff"), (244, 204, 224)),
        (encoded(Image.new("RGBA", (3, 2), (255, 0, 0, 51))), (255, 204, 204)),
        (encoded(Image.new("LA", (3, 2), (0, 51))), (204, 204, 204)),
        (encoded(Image.new("RGB", (3, 2), (9, 8, 7)), transparency=(9, 8, 7)), (255, 255, 255)),
        (encoded(np.full((2, 3), 0x80FF, dtype=np.uint16)), (128, 128, 128)),
        (encoded(np.full((2, 3), 0xFF00, dtype=np.uint16), "TIFF"), (255, 255, 255)),
        (b"P5 3 2 65535\n" + b"\x80\xff" * 6, (128, 128, 128)),
        (encoded(Image.new("1", (3, 2), 1)), (255, 255, 255)),
        (encoded(Image.new("L", (3, 2), 77)), (77, 77, 77)),
    ],
    ids=[
        "cmyk",
        "palette",
        "palette-alpha",
        "rgba",
        "la",
        "key",
        "png16",
        "tiff16",
        "pgm16",
        "1-bit",
        "L",
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data: bytes, expected: tuple[int, ...]) -> None:
    assert pixel(data) == expected


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I;16", "P"])
def test_strips_of_a_large_picture_are_what_it_is_whole(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (11, 7, 8), dtype=np.uint8)
    picture = {
        "RGBA": lambda: Image.fromarray(values[:, :, :4].copy()),
        "LA": lambda: Image.merge("LA", [Image.fromarray(values[:, :, i].copy()) for i in (0, 1)]),
        "I;16": lambda: Image.fromarray(values[:, :, :2].copy().view(np.uint16)[:, :, 0]),
        "P": lambda: Image.fromarray(values[:, :, :3].copy()).quantize(9),
    }[mode]()
    options = {"transparency": bytes(range(0, 252, 28))} if mode == "P" else {}
    data = encoded(picture, **options)
    whole = np.asarray(load_photo(data))
    assert np.ptp(whole) > 100
    for num_pixels in (1, 20):
        monkeypatch.setattr("trmml.data.pixels.STRIP_PIXELS", num_pixels)
        np.testing.assert_array_equal(np.asarray(load_photo(data)), whole)


def test_greys_of_fewer_bits_than_their_file_are_pointed_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    load_photo(encoded(np.array([[7, 4000]], dtype=np.uint16)))
    assert "16-bit greys from 7 to 4000 of 65535, and so is nearly black" in caplog.text
    assert (
        "set TRMML_GREY_RANGE=0-4095, or scale them first, as (greys / 4095 * 255)" in caplog.text
    )
    caplog.clear()
    for honest in ([[7, 40_000]], [[0, 0]]):
        load_photo(encoded(np.array(honest, dtype=np.uint16)))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("bounds", "greys", "expected"),
    [
        ("0-4095", [0, 2048, 4095, 5000], [0, 128, 255, 255]),
        ("1000-1999", [0, 1000, 1500, 1999], [0, 0, 128, 255]),
        ("", [0, 255, 256, 65535], [0, 0, 1, 255]),
        ("0-65535", [511, 512, 32768, 65535], [1, 2, 128, 255]),
    ],
)
def test_greys_can_have_a_range_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bounds: str,
    greys: list[int],
    expected: list[int],
) -> None:
    monkeypatch.setenv("TRMML_GREY_RANGE", bounds)
    for kind in ("PNG", "TIFF"):
        photo = load_photo(encoded(np.array([greys], dtype=np.uint16), kind))
        assert np.asarray(photo)[0, :, 0].tolist() == expected
    # Only greys of 16 bits are meant.
    assert pixel(np.full((2, 3), 7, dtype=np.uint8)) == (7, 7, 7)
    assert "nearly black" not in caplog.text


@pytest.mark.parametrize("bounds", ["4095", "9-3", "0-70000", "a-b", "0-0", "-5-10"])
def test_a_range_of_greys_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, bounds: str
) -> None:
    monkeypatch.setenv("TRMML_GREY_RANGE", bounds)
    with pytest.raises(ConfigError, match="must be the values of black and white, as 0-4095, got"):
        load_photo(encoded(np.array([[7, 4000]], dtype=np.uint16)))


def test_alpha_of_an_array_is_laid_over_white() -> None:
    assert pixel(np.full((2, 3, 4), (0, 100, 255, 51), dtype=np.uint8)) == (204, 224, 255)


# A PNG of one pixel whose header claims another size.
def forged_png(width: int, height: int) -> bytes:
    header = struct.pack(">II", width, height)
    data = bytearray(encoded(Image.new("RGB", (1, 1))))
    data[16:24] = header
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


NOISE = encoded(np.random.default_rng(0).integers(0, 256, size=(53, 59, 3), dtype=np.uint8), "JPEG")


@pytest.mark.parametrize("num_bytes", [1, 2, 3, 5, 11, 17])
@pytest.mark.parametrize("byte", [b"x", b"\n", b"\0", b"\xff", b"R", b"\x89"])
def test_a_few_bytes_are_no_picture(byte: bytes, num_bytes: int) -> None:
    with pytest.raises(ImageError, match=r"is not a picture in a known format\.$"):
        load_photo(byte * num_bytes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", r"The photo \(0 bytes\) is empty \(0 bytes\)"),
        (b"image,dog\na.png,1\n", r"The photo \(18 bytes\) is not a picture in a known format"),
        (NOISE[: len(NOISE) // 2], "cannot be read: image file is truncated"),
        (Image.open(io.BytesIO(NOISE[: len(NOISE) // 2])), "The PIL image cannot be read: .*trunc"),
        (forged_png(20_000, 20_000), "has 20000 × 20000 pixels; the most is 178956970"),
        (forged_png(0, 5), r"The photo \(\d+ bytes\) is damaged|not a picture"),
        (Image.new("RGB", (0, 5)), "has 0 × 5 pixels"),
        (Image.new("F", (3, 2)), "has the pixel format 'F'; convert it to 8-bit RGB"),
        (
            encoded(Image.new("I", (3, 2), 200), "TIFF"),
            "has the pixel format 'I'; convert it to 8-",
        ),
        ("https://example.org/a.jpg", "is a URL; download the photo and pass its path"),
        ("a\0.jpg", "embedded null byte"),
        ("~no such file.jpg", r"^~no such file\.jpg: No such file or directory\.$"),
        (5, "must be a path, bytes, a PIL image, .*; got int"),
        (None, "got NoneType"),
        (np.zeros((2, 3, 3), dtype=np.int64), r"must be uint8, or float .*, got int64 \(2, 3, 3\)"),
        (np.full((2, 3, 3), 255.0), r"values in \[0, 1\], got 255 to 255; .*astype\('uint8'\)"),
        (np.full((2, 3, 3), np.nan), r"values in \[0, 1\], got nan to nan"),
        (
            np.zeros((3, 5, 7), dtype=np.uint8),
            r"\(3, 5, 7\)\. Turn it with array\.transpose\(1, 2, 0\)",
        ),
        (
            "photos/*.jpg",
            r"Patterns are not followed; pass sorted\(glob\.glob\('photos/\*\.jpg'\)\)",
        ),
        ("photos/[ab].png", "Patterns are not followed"),
        (io.StringIO("photo"), "was opened as text; open a photo with mode 'rb'"),
        (io.BytesIO(), r"\(0 bytes\) is empty"),
        ({"image": b"x"}, "got dict; pass what it holds under the name of the photo"),
        (np.zeros((3, 2, 5), dtype=np.uint8), r"3 or 4 channels last, got shape \(3, 2, 5\)"),
        (np.zeros((2, 2, 3, 3), dtype=np.uint8), r"got uint8 \(2, 2, 3, 3\)"),
        (np.zeros((0, 3, 3), dtype=np.uint8), r"got uint8 \(0, 3, 3\)"),
        (torch.zeros(2, 3, 5, 7), r"must be 3 × height × width, got \(2, 3, 5, 7\)"),
        (torch.zeros(5, 7, 3), r"must be 3 × height × width, got \(5, 7, 3\)"),
        (torch.zeros(3, 5, 7, dtype=torch.int64), r"must be uint8 or float, got torch\.int64"),
        (torch.full((3, 5, 7), 1.01), r"values in \[0, 1\], before any normalization"),
        (torch.full((3, 5, 7), -0.01), r"values in \[0, 1\]"),
        (torch.full((3, 5, 7), float("nan")), r"values in \[0, 1\]"),
        (torch.zeros(3, 0, 7), r"got uint8 \(0, 7, 3\)"),
    ],
)
def test_what_is_no_photo_is_refused_with_the_reason(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_photo(source)


def test_a_path_without_a_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no photo")
    for name, message in [
        ("empty.jpg", r"empty\.jpg is empty \(0 bytes\)"),
        ("text.jpg", r"text\.jpg is not a picture in a known format"),
        ("missing.jpg", r"missing\.jpg: No such file or directory\.$"),
        ("", "is a folder, not a photo"),
    ]:
        with pytest.raises(ImageError, match=message):
            load_photo(tmp_path / name)


def test_a_file_whose_name_starts_with_a_tilde_is_a_photo_like_others(
    pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~a.png").write_bytes(encoded(pixels))
    np.testing.assert_array_equal(np.asarray(load_photo("~a.png")), pixels)


@pytest.mark.parametrize("form", [form for form in FORMATS if form in Image.SAVE])
def test_damage_anywhere_in_a_file_is_an_image_error_if_any(form: str) -> None:
    generator = np.random.default_rng(0)
    data = encoded(Image.open(io.BytesIO(NOISE)), form)
    failures = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(53):
            damaged = bytearray(data)
            for place in generator.integers(0, min(len(data), 401), size=3):
                damaged[place] = generator.integers(256)
            try:
                load_photo(bytes(damaged[: generator.integers(1, 2 * len(data))]))
            except ImageError:
                failures += 1
    assert failures > 0


def test_photos_are_found_below_a_folder_in_order(tmp_path: Path) -> None:
    folder = tmp_path / ".kept"  # only what lies below can be hidden
    names = ("b.JPG", "a.png", "sub/c.webp", ".hidden.png", "notes.txt", "png", "d.png/e.gif")
    for name in (*names, "sub/.thumbnails/large/c.webp", ".Trash-1000/files/gone.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    found = [path.relative_to(folder).as_posix() for path in find_photos(folder)]
    assert found == ["a.png", "b.JPG", "d.png/e.gif", "sub/c.webp"]


def test_a_photo_is_squashed_to_the_square_and_nothing_is_cut_off() -> None:
    pixels = np.zeros((34, 68, 3), dtype=np.uint8)
    pixels[:, :20, 0] = pixels[:, -20:, 1] = 255
    red, green, _ = photo_tensor(Image.fromarray(pixels), CONFIG)
    # The resizing blurs the columns beside an edge.
    torch.testing.assert_close(red[:, :4], torch.full((17, 4), (1 - 0.5) / 0.2))
    torch.testing.assert_close(red[:, 7:], torch.full((17, 10), (0 - 0.5) / 0.2))
    torch.testing.assert_close(green[:, -4:], torch.full((17, 4), (1 - 0.25) / 0.3))
    torch.testing.assert_close(green[:, :-7], torch.full((17, 10), (0 - 0.25) / 0.3))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_tensor_is_the_resized_photo_normalized(pixels: np.ndarray, interpolation: str) -> None:
    config = PhotoConfig(
        image_size=17, mean=CONFIG.mean, std=CONFIG.std, interpolation=interpolation
    )
    photo = Image.fromarray(pixels)
    resized = np.asarray(photo.resize((17, 17), Image.Resampling[interpolation.upper()]))
    expected = torch.stack(
        [
            (torch.tensor(resized[:, :, c]).double() / 255 - config.mean[c]) / config.std[c]
            for c in range(3)
        ]
    )
    torch.testing.assert_close(photo_tensor(photo, config), expected.float())


def test_a_large_jpeg_is_decoded_small_and_says_the_same() -> None:
    picture = Image.fromarray(sample.astronaut()).resize((1600, 1200), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = encoded(picture, "JPEG", quality=90, exif=exif)
    assert load_photo(file).size == (1200, 1600)
    assert load_photo(file, 601).size == (1200, 1600)  # a half would be less than twice that side
    assert load_photo(file, 300).size == (600, 800)
    assert load_photo(file, 70).size == (150, 200)  # an eighth is the least that there is
    for side in (70, 100, 224):
        config = PhotoConfig(image_size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        difference = (load_tensor(file, config) - photo_tensor(load_photo(file), config)).abs()
        assert difference.mean() < 1 / 255


def test_other_formats_come_whole() -> None:
    picture = Image.fromarray(sample.astronaut())
    assert load_photo(encoded(picture), 20).size == picture.size
    assert load_photo(picture, 20).size == picture.size


def test_a_photo_that_would_take_too_much_memory_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alpha = bytearray(forged_png(13_000, 13_000))
    alpha[25] = 6  # four channels
    alpha[29:33] = struct.pack(">I", zlib.crc32(alpha[12:29]))
    with pytest.raises(
        ImageError, match="13000 × 13000 pixels, 676 MB when decoded; the most is 400"
    ):
        load_photo(bytes(alpha))
    picture = Image.new("RGB", (1000, 1000), "red")
    monkeypatch.setenv("TRMML_MAX_PHOTO_MB", "2")
    with pytest.raises(
        ImageError, match=r"3 MB when decoded; the most is 2 MB\. .*TRMML_MAX_PHOTO_MB"
    ):
        load_photo(encoded(picture))
    assert load_photo(encoded(picture, "JPEG"), 64).size == (
        250,
        250,
    )  # decoded at a part of its size
    monkeypatch.setenv("TRMML_MAX_PHOTO_MB", "3")
    assert load_photo(encoded(picture)).size == (1000, 1000)
    monkeypatch.setenv("TRMML_MAX_PHOTO_MB", "much")
    with pytest.raises(ConfigError, match="must be a whole number, got 'much'"):
        load_photo(encoded(picture))


def test_a_camera_photo_of_many_pixels_is_no_attack() -> None:
    data = encoded(Image.new("L", (12_000, 9_000), 70), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_photo(data, 224).size == (1500, 1125)


def test_an_open_file_is_a_photo_from_its_start(pixels: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")  # which leaves it at its end
    with (tmp_path / "a.png").open("rb") as file:
        for source in (file, file, written, written):
            np.testing.assert_array_equal(np.asarray(load_photo(source)), pixels)
    with pytest.raises(ImageError, match=r"The open file cannot be read: .*closed file"):
        load_photo(file)


def test_a_float_array_is_a_photo_as_a_float_tensor_is(pixels: np.ndarray) -> None:
    for kind in (np.float16, np.float32, np.float64):
        found = np.asarray(load_photo(pixels.astype(np.float64).__truediv__(255).astype(kind)))
        np.testing.assert_allclose(found.astype(int), pixels, atol=int(kind is np.float16))


@pytest.mark.parametrize("kind", ["file", "bytes", "image", "array", "tensor"])
def test_a_photo_of_too_many_pixels_is_refused_however_it_comes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trmml.data.photos.MAX_PIXELS", 7 * 5 - 1)
    pixels = np.zeros((5, 7, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    source = {
        "file": tmp_path / "a.png",
        "bytes": encoded(pixels),
        "image": Image.fromarray(pixels),
        "array": pixels,
        "tensor": torch.from_numpy(pixels).permute(2, 0, 1),
    }[kind]
    with pytest.raises(ImageError, match="has 7 × 5 pixels; the most is 34"):
        load_photo(source)


def test_a_pipe_or_device_in_the_place_of_a_photo_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zeros.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zeros.jpg"):
        with pytest.raises(ImageError, match=r"is empty|cannot be read"):
            load_photo(tmp_path / name)
    assert find_photos(tmp_path) == []
