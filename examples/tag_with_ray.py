"""Tag any number of photos, on one machine or a Ray cluster, into Parquet: PHOTOS TAGS [--help].

Run again after a stop, or with more photos: it tags those that are not in the folder TAGS yet.
"""

from pathlib import Path

import pyarrow.parquet as pq
import ray
import typer

import trmml
from trmml.data.finding import find_photos


def tag(batch: dict, model: str) -> dict[str, list]:
    """Return tags, parted by |, and scores of each photo, or why it cannot be read."""
    seen = trmml.predict(photos := batch["photo"].tolist(), model)  # loaded once a process
    tags = ["|".join(tag.label for tag in photo.positive) for photo in seen]
    scores, errors = [p.scores.tolist() for p in seen], [p.error or "" for p in seen]
    return {"photo": photos, "tags": tags, "scores": scores, "error": errors}


def main(photos: Path, tags: Path, model: str = "everyday-tiny", gpus: float = 0, part: int = 5000):
    """Tag photos, so many a part; a part is there whole or not at all."""
    old, tags = sorted(tags.glob("part-*")), tags.resolve()  # on a disk that all machines see
    done = {name for o in old for name in pq.read_table(o, columns=["photo"])["photo"].to_pylist()}
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    left = [photo for photo in map(str, find_photos(photos.resolve())) if photo not in done]
    number = 1 + int(old[-1].name.removeprefix("part-")) if old else 0
    for start in range(0, len(left), part):
        table = ray.data.from_items([{"photo": photo} for photo in left[start : start + part]])
        table = table.map_batches(tag, fn_kwargs={"model": model}, num_gpus=gpus)
        table.write_parquet(f"{tags}/.partial", mode=ray.data.SaveMode.OVERWRITE)
        Path(tags, ".partial").rename(tags / f"part-{number + start // part:06d}")


if __name__ == "__main__":
    typer.run(main)
