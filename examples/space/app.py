"""Try a model in a browser, on a Hugging Face Space or here: pip install gradio && python app.py.

The variable MODEL names what `trmml.load_model` takes: a bundled model, or one on the Hub.
"""

import os
from typing import Any

import gradio as gr

import trmml

MODEL = trmml.load_model(os.environ.get("MODEL", "everyday-tiny"))
MOST_HEATMAPS, NEAREST = 12, 5


def tag(photo: str | None) -> tuple[list[list[Any]], list[tuple[Any, str]]]:
    """Return rows of label, score, threshold and whether it is a tag, and the heatmaps of the tags."""
    if photo is None:
        return [], []
    try:
        seen = MODEL.predict(photo, heatmaps=True).shrunk()
    except trmml.ImageError as error:
        raise gr.Error(str(error)) from error
    thresholds = dict(zip(seen.labels, seen.thresholds, strict=True))
    tags = dict(seen.positive)
    others = [name for name, _ in seen.top(len(seen)) if name not in tags]
    shown = [*tags, *others[:NEAREST]]
    rows = [
        [
            name,
            round(seen[name], 3),
            round(float(thresholds[name]), 3),
            "yes" if name in tags else "",
        ]
        for name in shown
    ]
    if not MODEL.matching.has_evidence:
        return rows, []
    return rows, [
        (seen.overlay(name), name) for name in shown[: min(len(tags) or 1, MOST_HEATMAPS)]
    ]


with gr.Blocks(title="Tags of a photo") as demo:
    gr.Markdown(f"Drop a photo: **{MODEL.source}** knows {len(MODEL.labels)} labels.")
    with gr.Row():
        photo = gr.Image(type="filepath", label="Photo", sources=["upload", "clipboard"])
        table = gr.Dataframe(
            headers=["label", "score", "threshold", "tag"],
            label="Tags, and the nearest of the other labels",
            interactive=False,
        )
    heatmaps = gr.Gallery(
        label="Where in the photo speaks for each tag", columns=3, object_fit="contain"
    )
    photo.change(tag, photo, [table, heatmaps], api_name="tag")

if __name__ == "__main__":
    demo.launch()
