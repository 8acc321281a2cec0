"""Tag a folder into a table
=========================

Photos that cannot be read are named and skipped.

python examples/predict_folder.py holiday/ tags.csv
"""

import csv
import sys
from pathlib import Path

import trmml
from trmml.data.finding import find_photos


def main(folder: str, table: str) -> None:
    """Write one row per photo, as the model goes through them."""
    model = trmml.load_model()
    with Path(table).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "tags", *model.labels])
        for prediction in model.predict_many(find_photos(Path(folder))):
            if prediction.error is not None:
                print(f"skipped: {prediction.error}", file=sys.stderr)
                continue
            tags = "|".join(tag.label for tag in prediction.positive)
            scores = (f"{score:.3f}" for score in prediction.scores)
            writer.writerow([prediction.source, tags, *scores])


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) < 3 else main(*sys.argv[1:3])
