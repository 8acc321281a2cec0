"""Learn your own labels
=====================

From a table in which most cells are blank.

    python examples/finetune_own_photos.py labels.csv photos/ runs/mine

The small CLIP of the package makes this run anywhere; for better results name a larger one as the
last argument, such as ViT-B-16/datacomp_xl_s13b_b90k.
"""

import sys

import trmml


def main(table: str, photos: str, output: str, backbone: str | None = None) -> None:
    """Look at the table, train, and tag a photo with the result."""
    dataset = trmml.read_dataset(table, images=photos)
    print(dataset.summary())
    model = trmml.finetune(dataset, backbone=backbone, output=output, resume=True)
    print(trmml.predict(dataset.photos[0], model))
    print(f'Later: trmml.load_model("{output}")')


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) < 4 else main(*sys.argv[1:5])
