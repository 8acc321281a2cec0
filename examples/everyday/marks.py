"""Judge the tags of everyday-tiny by eye: draw sheets to look at, and count what was marked.

    python examples/everyday/marks.py sheets everyday-tiny coco18 sheets/  # photos with tags to judge
    python examples/everyday/marks.py measure everyday-tiny coco18         # by marks.json, beside this

A caption names few of the things in a photo, so precision cannot be counted with captions.
`marks.json` holds, for 200 validation photos, evenly chosen, which tags are right (true) and which are
wrong (false), as somebody said who looked at the photos; it was made with more tags than are shown.
"""

import argparse
import csv
import json
import subprocess
from pathlib import Path

import numpy as np
from make_table import positives_of, read_labels
from PIL import Image, ImageDraw

import trmml
from trmml.reports.drawing import font_for

MARKS = Path(__file__).with_name("marks.json")
NUM_PHOTOS, MOST_TAGS = 200, 10
SIDE, PER_SHEET = 330, 6


def chosen_photos(folder: Path) -> dict[str, str]:
    """Return 200 validation photos, evenly chosen, with their captions."""
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    places = np.linspace(0, len(rows) - 1, NUM_PHOTOS).astype(int)
    return {rows[i]["image"]: rows[i]["caption"] for i in places}


def draw_sheets(model: trmml.TextRegionMatcher, folder: Path, output: Path, lower: float) -> None:
    """Write pictures of six photos each, with their tags from thresholds `lower` times as high."""
    output.mkdir(parents=True, exist_ok=True)
    photos = list(chosen_photos(folder))
    thresholds = lower * np.array(model.calibration.thresholds)
    listed: dict[str, list[str]] = {}
    predictions = list(model.predict_many([folder / photo for photo in photos]))
    for start in range(0, len(photos), PER_SHEET):
        sheet = Image.new("RGB", (3 * (SIDE + 16), 2 * (SIDE + 130)), "white")
        draw = ImageDraw.Draw(sheet)
        for i, prediction in enumerate(predictions[start : start + PER_SHEET]):
            left, top = i % 3 * (SIDE + 16) + 8, i // 3 * (SIDE + 130) + 4
            name = photos[start + i]
            with Image.open(folder / name) as photo:
                scale = SIDE / max(photo.size)
                size = (round(photo.width * scale), round(photo.height * scale))
                sheet.paste(photo.convert("RGB").resize(size), (left, top))
            order = np.argsort(-prediction.scores)
            shown = [k for k in order if prediction.scores[k] >= thresholds[k]][:MOST_TAGS]
            tags = [model.labels[k] for k in shown]
            listed[name] = tags
            draw.text((left, top + SIDE), Path(name).stem, "black", font_for("", 16))
            for line, part in enumerate((tags[:4], tags[4:7], tags[7:])):
                place = (left, top + SIDE + 22 + 24 * line)
                draw.text(place, ", ".join(part), "black", font_for("", 17))
        sheet.save(output / f"{start // PER_SHEET:02}.png")
    (output / "tags.json").write_text(json.dumps(listed, indent=1), encoding="utf-8")


def measure(model: trmml.TextRegionMatcher, folder: Path) -> dict[str, object]:
    """Return precision by the marks, tags a photo, and the recall of the captions' words."""
    marks: dict[str, dict[str, bool]] = json.loads(MARKS.read_text(encoding="utf-8"))
    captions, labels = chosen_photos(folder), read_labels(Path(__file__).with_name("labels.toml"))
    right = wrong = named = found = 0
    unmarked: list[str] = []
    for photo, caption in captions.items():
        shown = {tag.label for tag in next(model.predict_many([folder / photo])).positive}
        for label in shown:
            if label not in marks[photo]:
                unmarked.append(f"{photo}: {label}")
            right += marks[photo].get(label, False)
            wrong += not marks[photo].get(label, True)
        words = set(positives_of(caption, labels)) & set(model.labels)
        named, found = named + len(words), found + len(words & shown)
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "photos": len(captions),
        "labels": len(model.labels),
        "precision": round(right / max(right + wrong, 1), 4),
        "right_tags_per_photo": round(right / len(captions), 2),
        "recall_of_caption_words": round(found / max(named, 1), 4),
        "unmarked": unmarked,
        "commit": commit,
    }


def main() -> None:
    """Draw or measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["sheets", "measure"])
    parser.add_argument("model")
    parser.add_argument("data", type=Path, help="folder with captions.csv")
    parser.add_argument("output", type=Path, nargs="?", default=Path("sheets"))
    parser.add_argument("--lower", type=float, default=0.6, help="share of the model's thresholds")
    args = parser.parse_args()
    model = trmml.load_model(args.model)
    if args.what == "sheets":
        draw_sheets(model, args.data, args.output, args.lower)
    else:
        print(json.dumps(measure(model, args.data), indent=2))


if __name__ == "__main__":
    main()
