"""From keywords to a model and back: read a photo library, train, write tags as sidecars.

`python examples/benchmarks/photo_library.py photos/ runs/library` works on a library of yours and leaves
the tags there; `--undo` takes them out again at the end, and says whether every file is what it was, to
the byte. exiftool, if it is installed, reads the sidecars back.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path

import trmml
from trmml.tasks.tagging import remove_tags, write_tags


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def read_back(folder: Path) -> dict[str, set[str]]:
    """Return what exiftool reads of `dc:subject` in each sidecar."""
    command = ["exiftool", "-q", "-q", "-r", "-j", "-ext", "xmp", "-XMP-dc:Subject", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout or "[]")
    subjects = {row["SourceFile"]: row.get("Subject", []) for row in rows}
    return {
        path: set(map(str, value if isinstance(value, list) else [value]))
        for path, value in subjects.items()
    }


def main() -> None:
    """Go the whole way once, and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("output", help="new folder for the model")
    parser.add_argument("--leave-out", nargs="*", default=["@people", "@places"])
    parser.add_argument("--top-k", type=int, help="at most so many tags a photo")
    parser.add_argument("--undo", action="store_true")
    arguments = parser.parse_args()

    before, started = digests(arguments.photos), time.perf_counter()
    library = trmml.read_dataset(arguments.photos, format="keywords", leave_out=arguments.leave_out)
    print(library.summary())
    print(f"read in {time.perf_counter() - started:.1f} s")
    model = trmml.finetune(library, output=arguments.output)

    roots = [arguments.photos]
    predictions = model.predict_many(library.photos, top_k=arguments.top_k)
    found = list(write_tags(predictions, arguments.output, roots))
    changes = {str(item.change.sidecar): item.change for item in found if item.change is not None}
    written = {place: change for place, change in changes.items() if change.tags}
    print(
        f"{sum(len(change.tags) for change in written.values())} tags in {len(written)} sidecars, "
        f"{sum(change.before is None for change in written.values())} of them new; "
        f"{len(found) - len(changes)} photos could not be tagged"
    )
    after = digests(arguments.photos)
    touched = {name for name in before if after.get(name) != before[name]}
    print(
        f"files that changed and are no sidecar: {sorted(n for n in touched if n[-4:] != '.xmp')}"
    )
    if shutil.which("exiftool"):
        seen = read_back(arguments.photos)
        good = sum(set(change.tags) <= seen.get(place, set()) for place, change in written.items())
        print(f"exiftool reads all tags of {good} of {len(written)} sidecars")
    if arguments.undo:
        undone = list(remove_tags(roots, roots))
        same = digests(arguments.photos) == before
        print(f"tags taken out of {len(undone)} sidecars; every file is what it was: {same}")


if __name__ == "__main__":
    main()
