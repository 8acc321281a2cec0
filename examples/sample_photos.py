"""Make a small set of photos with a label table
=============================================

Crops of four free photos of scikit-image, and tables in which most cells are blank.

python examples/sample_photos.py [FOLDER]
"""

import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

PHOTOS = {"person": data.astronaut, "cat": data.chelsea, "cup": data.coffee, "rocket": data.rocket}
SPLITS = {"labels": (80, 0.4), "val": (80, 1), "test": (16, 1), "calib": (80, 1)}  # known share


def main(folder: str = "sample") -> None:
    """Write `photos/` and `labels.csv`, `val.csv`, `test.csv` and `calib.csv`."""
    random, names, photos = np.random.default_rng(0), list(PHOTOS), Path(folder, "photos")
    photos.mkdir(parents=True, exist_ok=True)
    for split, (count, share) in SPLITS.items():
        with Path(folder, f"{split}.csv").open("w", newline="") as file:
            (writer := csv.writer(file)).writerow(["image", *names])
            for i in range(count):
                image = Image.fromarray(PHOTOS[names[i % len(names)]]())
                side = random.uniform(0.7, 1) * min(image.size)
                left, top = random.uniform(0, 1, 2) * (image.width - side, image.height - side)
                image = image.resize((224, 224), box=(left, top, left + side, top + side))
                image.save(photos / (name := f"{split}-{i:02}.jpg"))
                states = (int(i % len(names) == j) for j in range(len(names)))
                writer.writerow([name, *(s if random.random() < share else "" for s in states)])


if __name__ == "__main__":
    main(*sys.argv[1:2])
