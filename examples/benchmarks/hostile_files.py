"""Files that nobody should have: photos, tables, recipes, models and CLIPs, broken by a seed.

`Maker` writes one of each kind into a folder and returns the command that a user would run on it.
"""

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
from PIL import Image, PngImagePlugin

from trmml.data.readers.rows import TableFormat

SIZE = (60, 44)
LABELS = ("dog", "cat", "bus")
STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, -1e308, float("nan"), float("inf"), 2**31, 2**63),
    *(10**30, -(10**400), "", " ", "x" * 100_000, "../../etc/passwd", "/proc/self/mem", "\0", "\ud800"),
    *("hf-hub:org/name", "local-dir:/etc", "http://localhost:9/x", "1e999", "nan", "Ünḯçødé", "\u202e"),
    *([], {}, [[]], [None], {"a": {"b": []}}, [1] * 20_000, {"": ""}, [[1, 2], [3]], "=1+1", "\r\n,\""),
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 0.0, 0.5, 0.99, 1.0, 1e-12, 1e3, 1e12, 10**6, -1, -0.5, 2**31)
SPECIAL = ("folder", "loop", "nowhere", "fifo", "zeros", "memory", "empty")


def mangled(data: bytes, rng: Random) -> bytes:
    """Return bytes as a bad disk, a bad transfer or a bad editor leaves them."""
    place, other = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    start, end = sorted((place, other))
    how = rng.randrange(12)
    if how == 0:
        return data[:place]
    if how == 1:
        return data[place:]
    if how <= 4:
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 8, 64)) if data else 0):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    return {
        5: data[:place] + bytes(rng.choice((1, 7, 4096))) + data[place:],
        6: data[:start] + data[end:],
        7: data[:start] + data[start:end] * rng.choice((2, 50)) + data[end:],
        8: data[:place] + rng.randbytes(rng.choice((1, 16, 1000))) + data[place:],
        9: data + data,
        10: b"\xff\xfe" + data,
        11: rng.randbytes(rng.choice((0, 10, 2000))),
    }[how]


def put_special(path: Path, rng: Random) -> None:
    """Put something in the place of a file that is none, or one without end."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    what = rng.choice(SPECIAL)
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "empty":
        path.touch()
    else:
        targets = {"loop": path, "nowhere": "/nowhere/at/all", "zeros": "/dev/zero"}
        path.symlink_to(targets.get(what, "/proc/self/mem"))


def strange_json(value: Any, rng: Random, depth: int = 0) -> Any:
    """Return a JSON value with one part replaced, taken away or added."""
    deeper = 0.95 if depth == 0 else 0.85
    if isinstance(value, dict) and value and rng.random() < deeper:
        key = rng.choice(list(value))
        how = rng.randrange(10)
        if how == 0:
            return {k: v for k, v in value.items() if k != key}
        if how == 1:
            return value | {
                rng.choice(("", "new", "\0", "__class__", key.upper())): rng.choice(STRANGE)
            }
        return value | {key: strange_json(value[key], rng, depth + 1)}
    if isinstance(value, list) and value and rng.random() < deeper:
        i = rng.randrange(len(value))
        return [*value[:i], strange_json(value[i], rng, depth + 1), *value[i + 1 :]]
    return rng.choice(STRANGE)


def as_strange_text(value: Any, rng: Random) -> bytes:
    """Write JSON with a strange part, in a strange encoding now and then."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        value = strange_json(value, rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.05:
        deep = rng.choice((50, 2000, 200_000))
        text = text.replace("0", "[" * deep + "]" * deep, 1)
    if rng.random() < 0.05:
        text = text.replace("{", '{"image": 1, "image": [],', 1)
    encoding = rng.choices(("utf-8", "utf-16", "latin-1", "utf-7", "utf-8-sig"), (20, 1, 1, 1, 1))[
        0
    ]
    data = text.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    return mangled(data, rng) if rng.random() < 0.15 else data


def picture(rng: Random, mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Return a picture of noise in some mode."""
    generator = np.random.default_rng(rng.randrange(2**32))
    if mode == "F":
        values = generator.normal(0, 1e3, size[::-1]).astype(np.float32)
        values[0, 0] = rng.choice((np.nan, np.inf, -np.inf, 1e38))
        return Image.fromarray(values)
    if mode in ("I;16", "I"):
        kind = np.uint16 if mode == "I;16" else np.int32
        return Image.fromarray(
            generator.integers(0, rng.choice((200, 4096, 65536)), size[::-1]).astype(kind)
        )
    noise = Image.fromarray(generator.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    return noise.convert(mode)


FORMATS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("JPEG", ("RGB", "L", "CMYK", "YCbCr")),
    ("PNG", ("RGB", "RGBA", "P", "1", "L", "LA", "I;16", "I")),
    ("TIFF", ("RGB", "RGBA", "P", "1", "L", "LA", "I;16", "I", "F", "CMYK", "LAB", "YCbCr")),
    ("WEBP", ("RGB", "RGBA")),
    ("GIF", ("P", "L", "RGB")),
    ("BMP", ("RGB", "P", "1", "L")),
    ("PPM", ("RGB", "L", "1")),
    ("JPEG2000", ("RGB", "L", "RGBA")),
    ("AVIF", ("RGB", "RGBA")),
)


def photo_bytes(rng: Random) -> tuple[bytes, str]:
    """Return a photo in some format and mode, odd in itself now and then, and its suffix."""
    kind, modes = rng.choice(FORMATS)
    size = rng.choice((SIZE, SIZE, SIZE, (1, 1), (1, 3000), (4000, 1), (17, 1031)))
    photo, options = picture(rng, rng.choice(modes), size), dict[str, Any]()
    if kind in ("JPEG", "PNG", "WEBP", "TIFF") and rng.random() < 0.3:
        options["exif"] = strange_exif(rng)
    if kind in ("JPEG", "PNG", "WEBP") and rng.random() < 0.2:
        options["icc_profile"] = rng.randbytes(rng.choice((1, 128, 70_000)))
    if kind in ("GIF", "TIFF", "WEBP", "PNG") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [photo.copy()] * rng.choice((1, 3, 200))}
    if kind == "JPEG":
        options["progressive"] = rng.random() < 0.3
    if kind == "TIFF":
        options["compression"] = rng.choice((None, "tiff_lzw", "tiff_adobe_deflate", "packbits"))
    if kind == "PNG" and rng.random() < 0.15:
        options["pnginfo"] = info = PngImagePlugin.PngInfo()
        info.add_text("comment", "a" * rng.choice((10, 200_000, 60_000_000)), zip=True)
    buffer = io.BytesIO()
    try:
        photo.save(buffer, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, struct.error, RuntimeError):
        buffer = io.BytesIO()  # Pillow does not write every mode in every way
        photo.convert("RGB").save(buffer, kind)
    suffix = {"JPEG": ".jpg", "JPEG2000": ".jp2"}.get(kind, f".{kind.lower()}")
    return buffer.getvalue(), suffix


def strange_exif(rng: Random) -> bytes:
    """Return an EXIF block of a few entries with any tags, types and counts."""
    entries = b""
    for _ in range(rng.choice((1, 3, 30))):
        tag = rng.choice((0x0112, 0x0112, 0x011A, 0x8769, 0x8825, 0x927C, rng.randrange(65536)))
        value = rng.choice(
            (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\6\0\0\0", rng.randbytes(4), b"\0\0\6\0")
        )
        counts = (0, 1, 2, 70_000, 2**32 - 1)
        entries += struct.pack("<HHI", tag, rng.randrange(15), rng.choice(counts)) + value
    count = rng.choice((len(entries) // 12, 65535))
    following = rng.choice((0, 8, 2**32 - 1))  # 8 is this very directory
    block = struct.pack("<HI", 0x2A, 8) + struct.pack("<H", count) + entries
    return b"Exif\0\0II" + block + struct.pack("<I", following) + rng.randbytes(rng.choice((0, 64)))


def with_size(data: bytes, rng: Random) -> bytes:
    """Return a picture whose header states another size than it has."""
    width, height = (
        rng.choice((0, 1, 65535, 30_000, 2**31 - 1, 2**32 - 1, 13_000)) for _ in range(2)
    )
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<II", width, height) + data[26:]
    if data[:3] == b"GIF":
        return data[:6] + struct.pack("<HH", width & 65535, height & 65535) + data[10:]
    if data[:2] in (b"P6", b"P5", b"P4"):
        return data[:3] + f"{width} {height}\n".encode() + data[3:]
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        if marker in data:
            i = data.index(marker) + 5
            return data[:i] + struct.pack(">HH", height & 65535, width & 65535) + data[i + 4 :]
    return mangled(data, rng)


class Maker:
    """Writes hostile files around a good photo, a good table, a tiny model and a tiny CLIP."""

    def __init__(self, base: Path) -> None:
        """Name the folder of the good ones: `photos`, `model` and `clip`."""
        self.base = base
        self.good = sorted((base / "photos").iterdir())
        self.kinds: dict[str, Callable[[Path, Random], list[str]]] = {
            "photo": self.photo,
            "table": self.table,
            "recipe": self.recipe,
            "model": self.model,
            "clip": self.clip,
        }

    def photo(self, folder: Path, rng: Random) -> list[str]:
        """Write a hostile photo beside a good one."""
        shutil.copy(self.good[0], folder / "good.png")
        data, suffix = photo_bytes(rng)
        how = rng.randrange(10)
        if how < 5:
            data = mangled(data, rng)
        elif how < 7:
            data = with_size(data, rng)
        elif how == 7:
            suffix = rng.choice((".jpg", ".png", ".tif", ".webp", ".gif"))
        path = folder / f"strange{suffix}"
        path.write_bytes(data)
        if rng.random() < 0.04:
            put_special(path, rng)
        command = ["predict", str(folder), "--model", str(self.base / "model"), "--format", "jsonl"]
        if rng.random() < 0.15:
            command += ["--heatmaps", str(folder.with_name(f"{folder.name}-heat"))]
        return command

    def recipe(self, folder: Path, rng: Random) -> list[str]:
        """Write a hostile recipe beside a small table."""
        table = folder / "labels.csv"
        rows = [f"{photo},{i % 2},{(i + 1) % 2}" for i, photo in enumerate(self.good)]
        table.write_text("image,dog,cat\n" + "\n".join(rows) + "\n")
        settings: dict[str, dict[str, Any]] = {
            "training": {"batch_size": 4, "learning_rate": 1e-3, "ema_decay": 0.9, "seed": 3,
                         "views": "plain", "features": "cached", "val_fraction": 0.3, "num_workers": 0,
                         "cache_gb": 1.0, "weight_decay": 0.0, "train_prompts": True},
            "matching": {"num_context_tokens": 2, "num_heads": 2, "way": "text-region"},
            "loss": {"distillation": 0.1, "clip": 0.0, "gamma_negative": 1.0},
            "pseudo_labels": {"weight": 0.4, "positive_threshold": 0.9, "modalities": "visual"},
        }  # fmt: skip
        for _ in range(rng.choice((1, 1, 2))):
            group = rng.choice(list(settings))
            name = rng.choice([*settings[group], "new"])
            settings[group][name] = rng.choice(NUMBERS if rng.random() < 0.6 else STRANGE)
        lines = []
        for group, values in settings.items():
            lines += [f"[{group}]", *(f"{k} = {_toml(v)}" for k, v in values.items())]
        data = "\n".join(lines).encode("utf-8", "replace")
        data = mangled(data, rng) if rng.random() < 0.3 else data
        path = folder / "recipe.toml"
        path.write_bytes(data)
        if rng.random() < 0.03:
            put_special(path, rng)
        start = ["--backbone", f"local-dir:{self.base / 'clip'}", "--config", str(path)]
        return [
            "finetune",
            str(table),
            *start,
            "--set",
            "training.epochs=1",
            "-o",
            str(folder / "out"),
        ]

    def model(self, folder: Path, rng: Random) -> list[str]:
        """Write a hostile model folder."""
        place = shutil.copytree(self.base / "model", folder / "model")
        for _ in range(rng.choice((1, 1, 2))):
            name = rng.choice(
                ("config.json", "config.json", "calibration.json", "model.safetensors")
            )
            self._spoil(place / name, rng)
        photo = str(self.good[0])
        command = rng.choice(
            (["predict", photo, "--model"], ["predict", photo, "--model"], ["models", "info"])
        )
        return [*command, str(place), *(["--format", "jsonl"] if command[0] == "predict" else [])]

    def clip(self, folder: Path, rng: Random) -> list[str]:
        """Write a hostile CLIP folder."""
        place = shutil.copytree(self.base / rng.choice(("clip", "clip-timm")), folder / "clip")
        for _ in range(rng.choice((1, 1, 2))):
            self._spoil(
                place / rng.choice(("open_clip_config.json", "open_clip_model.safetensors")), rng
            )
        source = ["--backbone", f"local-dir:{place}", "--labels", "dog,cat"]
        return ["predict", str(self.good[0]), *source, "--format", "jsonl"]

    def _spoil(self, path: Path, rng: Random) -> None:
        if not path.is_file() or rng.random() < 0.03:
            put_special(path, rng)
        elif path.suffix == ".json":
            path.write_bytes(as_strange_text(_read_json(path), rng))
        else:
            path.write_bytes(strange_tensors(path.read_bytes(), rng))

    def table(self, folder: Path, rng: Random) -> list[str]:
        """Write a hostile label table with its photos."""
        from hostile_tables import write_table

        for photo in self.good[:12]:
            shutil.copy(photo, folder / photo.name)
        place = write_table(folder, [photo.name for photo in self.good[:12]], rng)
        command = ["data", "check", str(place)]
        if rng.random() < 0.7:
            command = ["data", "convert", str(place), str(folder / "converted.jsonl")]
        form = place.name.rpartition(".")[2]
        if rng.random() < (0.95 if form in ("voc", "labelled", "json") else 0.15):
            command += ["--unlabeled", rng.choice(("negative", "unknown"))]
        if rng.random() < 0.1:
            command += ["--separator", rng.choice((";", ",", " ", "|", "\t", "ab"))]
        if rng.random() < 0.1:
            command += ["--table-format", rng.choice(get_args(TableFormat))]
        return command


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # spoilt before
        return {}


def _toml(value: Any) -> str:
    if isinstance(value, float) and value != value:
        return "nan"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return {None: "null", float("inf"): "inf"}.get(value) or json.dumps(value)


def strange_tensors(data: bytes, rng: Random) -> bytes:
    """Return a safetensors file with a broken header, other shapes or values that are none."""
    how = rng.randrange(10)
    try:
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
    except (ValueError, struct.error):
        return mangled(data, rng)
    if how < 2:
        return mangled(data, rng)
    if how == 2:
        return struct.pack("<Q", rng.choice((0, 1, length - 1, 2**40, 2**64 - 1))) + data[8:]
    body = bytearray(data[8 + length :])
    name = rng.choice([n for n in header if n != "__metadata__"] or [""])
    entry = header.get(name)
    if isinstance(entry, dict) and how < 6:  # values
        start, end = entry["data_offsets"]
        values = np.frombuffer(bytes(body[start:end]), np.float32).copy()
        if len(values):
            strange = rng.choice((np.nan, np.inf, -np.inf, 1e30, 9.9e5, -9.9e5, 1e-45, 0.0))
            values[:: rng.choice((1, max(len(values), 1)))] = strange
        body[start:end] = values.tobytes()
    elif how == 6:
        header[rng.choice(("x", name + "2", ""))] = header.pop(name)
    elif how == 7 and isinstance(entry, dict):
        shapes = ([], [0], [2**40], [-1], [1, 1, 1, 1, 1, 1, 1, 1, 1], entry["shape"][::-1], None)
        entry["shape"] = rng.choice(shapes)
    elif how == 8 and isinstance(entry, dict):
        entry["dtype"] = rng.choice(("F16", "I64", "BOOL", "F8_E4M3", "XX", "U8", "F64"))
    else:
        header = strange_json(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(body)
