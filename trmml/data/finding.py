"""Photos in folders: which files are some, and which are a system's own."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

logger = logging.getLogger(__name__)

PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".jpx", ".png", ".apng", ".webp"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
OTHER_SUFFIXES = (
    *(".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef"),
    *(".psd", ".xcf", ".jxl", ".jxr", ".svg", ".eps", ".tga", ".pcx", ".exr", ".hdr", ".ico"),
)
"""Pictures as well, of kinds that are not read; a folder of nothing else should not look empty."""
SYSTEM_FOLDERS = (
    *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "__pycache__"),
)
"""Folders of macOS' archives, of network disks' thumbnails, and bins."""


def is_system_file(path: PurePath) -> bool:
    """Say whether a path, relative to what the user named, is hidden or lies in a system's folder.

    As macOS' shadows of files in archives, `__MACOSX` and `._1.jpg`.
    """
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.parts)


def find_photos(folder: Path) -> list[Path]:
    """Return the photos below a folder, also through links, sorted by path.

    What is hidden or in a system's folder is left out. How many pictures are left out, also those of
    kinds that are not read, is logged as a warning.
    """
    kinds = (*PHOTO_SUFFIXES, *OTHER_SUFFIXES)
    found = (path for path in files_below(folder) if path.suffix.lower() in kinds)
    files = [path for path in found if path.is_file()]
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    others = sorted({path.suffix.lower() for path in files} - set(PHOTO_SUFFIXES))
    if others:
        logger.warning(
            "%d pictures in %s are left out: %s cannot be read; convert them to JPEG or PNG.",
            len(files) - len(photos), folder, ", ".join(others),
        )  # fmt: skip
    note = system_note(folder)
    if note:
        logger.warning("%s: %s", folder, note)
    return sorted(photos)


def system_note(folder: Path) -> str:
    """Say how many pictures and XML files below a folder are a system's, and where; empty if none."""
    counts = Counter[str]()
    for place, _, names in os.walk(folder):
        inner = Path(place).relative_to(folder)
        for name in names:
            path = inner / name
            if path.suffix.lower() in (*PHOTO_SUFFIXES, *OTHER_SUFFIXES, ".xml"):
                part = next((part for part in path.parts if is_system_file(PurePath(part))), None)
                if part is not None:
                    counts[part if part in SYSTEM_FOLDERS else "hidden"] += 1
    where = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f"{counts.total()} files of systems are left out ({where})." if counts else ""


def files_below(folder: Path) -> Iterator[Path]:
    """Return the files below a folder, also through links, but hidden ones and those of systems."""
    # A link may lead to a folder that was seen, or to one above itself: each is gone through once,
    # and under its own name if it has one here.
    seen = {os.path.realpath(folder)}
    links: list[Path] = [folder]
    while links:
        for place, folders, files in os.walk(links.pop(0)):
            inner = sorted(name for name in folders if not is_system_file(PurePath(name)))
            linked = [name for name in inner if Path(place, name).is_symlink()]
            links += [Path(place, name) for name in linked]
            folders[:] = [name for name in inner if name not in linked]
            seen |= {os.path.realpath(Path(place, name)) for name in folders}
            yield from (Path(place, name) for name in files if not is_system_file(PurePath(name)))
        while links and os.path.realpath(links[0]) in seen:
            links.pop(0)
        seen |= {os.path.realpath(link) for link in links[:1]}
