"""Show tags of several photos in one picture
==========================================

Four free photos of scikit-image (public domain or CC0), what the default model says of each, and what
in it speaks for the best label. The picture of the README is made so.

python examples/contact_sheet.py [PICTURE]
"""

import sys

from PIL import Image, ImageOps
from skimage import data

import trmml
from trmml.reports.drawing import Panel, contact_sheet


def main(picture: str = "examples/contact_sheet.jpg") -> None:
    """Draw the photos with their tags above, and the evidence below."""
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    squares = [ImageOps.fit(Image.fromarray(photo), (400, 400)) for photo in photos]
    tagged, explained = [], []
    for square, seen in zip(squares, trmml.predict(squares, heatmaps=True), strict=True):
        (best, score), *_ = seen.top(1)
        tags = ", ".join(f"{tag.label} {tag.score:.2f}" for tag in seen.positive[:2])
        tagged.append(Panel(square, tags or "no tag", has_scale=False))
        caption = best if tags else f"nearest: {best}"
        explained.append(Panel(seen.overlay(best), caption, f"{score:.2f}"))
    contact_sheet([*tagged, *explained], columns=len(photos)).save(picture, quality=88)


if __name__ == "__main__":
    main(*sys.argv[1:2])
