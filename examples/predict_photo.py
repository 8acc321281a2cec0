"""Tag a photo
===========

A real photo, at once: no download, no training. `pip install ".[examples]"` brings the photo.

python examples/predict_photo.py [PHOTO]
"""

import sys
from pathlib import Path

from PIL import Image
from skimage import data

import trmml


def main(photo: str | None = None) -> None:
    """Print the labels of a photo and write what in it speaks for them."""
    image = Image.fromarray(data.astronaut()) if photo is None else Image.open(photo)
    prediction = trmml.predict(image, heatmaps=True)
    print(prediction)
    for label, score in prediction.top(5):
        print(f"  {label:<14} {score:.2f}")
    sheet = Path("heatmaps") / f"{Path(photo).stem if photo else 'astronaut'}.png"
    prediction.save_heatmaps(sheet.parent, sheet.stem)
    print(f"What speaks for each label: {sheet}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
