"""See what speaks for a label
===========================

And what the model thought of the others.

python examples/explain_prediction.py photo.jpg dog dog.png
"""

import sys

import numpy as np

import trmml


def main(photo: str, label: str, picture: str) -> None:
    """Write what speaks for one label over the photo and name its peak."""
    prediction = trmml.predict(photo, heatmaps=True)
    heat = prediction.heatmap(label)
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    print(f"{label} {prediction[label]:.2f}, most evidence at x={column}, y={row}")
    for name, score in prediction.top(3):
        print(f"  {name:<14} {score:.2f}")
    prediction.overlay(label).save(picture)


if __name__ == "__main__":
    sys.exit(__doc__) if len(sys.argv) < 4 else main(*sys.argv[1:4])
