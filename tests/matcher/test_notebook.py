import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import trained_like, untrained
from PIL import Image
from shown_html import HOSTILE, Shown

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.matcher.prediction import Prediction
from trmml.matcher.thresholds import NEVER, Calibration

Maker = Callable[..., MultiLabelDataset]


def said(
    scores: dict[str, float], threshold: float = 0.5, *, seen: bool = False, **rest: Any
) -> Prediction:
    """Return a prediction; one that is `seen` holds a photo and evidence of its first label."""
    values = np.array(list(scores.values()), dtype=np.float32)
    if seen:
        rest["_photo"] = Image.new("RGB", (800, 600), (40, 90, 40))
        rest["_evidence"] = np.eye(4, dtype=np.float32)[None].repeat(len(scores), axis=0)
    return Prediction(tuple(scores), values, np.full(len(scores), threshold, np.float32), **rest)


def pictures(html: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]*)"', html)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_tags_come_first_and_the_nearest_others_fill_up_to_five_rows() -> None:
    scores = {"a": 0.1, "b": 0.75, "c": 0.4, "d": 0.3, "e": 0.2, "f": 0.9, "g": 0.05}
    shown = Shown(said(scores)._repr_html_())
    assert "2 of 7 labels" in shown.texts
    best = {"f": "0.90", "b": "0.75", "c": "0.40", "d": "0.30", "e": "0.20"}
    assert shown.rows[1:] == [[label, score, "0.50"] for label, score in best.items()]
    bars = [found["aria-label"] for _, found in shown.elements if "aria-label" in found]
    assert bars[0] == "0.90, threshold 0.50"
    widths = [found["style"] for _, found in shown.elements if "width:90.0%" in str(found)]
    assert len(widths) == 1


def test_without_a_tag_the_nearest_labels_are_shown_as_such() -> None:
    shown = Shown(said({"dog": 0.25, "cat": 0.125}, seen=True)._repr_html_())
    assert "No label over its threshold; the nearest of 2:" in shown.texts
    assert "Heatmaps: what in the photo speaks for dog" in shown.texts


def test_tags_are_those_of_the_prediction_and_not_the_highest_scores() -> None:
    prediction = Prediction(
        ("dog", "cat"), np.float32([0.9, 0.6]), np.float32([0.95, 0.5]), max_positive=1
    )
    text = " ".join(Shown(prediction._repr_html_()).texts)
    assert "1 of 2 labels" in text
    assert text.endswith("cat 0.60 0.50 dog 0.90 0.95")


def test_hundreds_of_tags_make_no_page_of_them() -> None:
    html = said({f"label {i}": 0.9 for i in range(300)}, seen=True)._repr_html_()
    shown = Shown(html)
    assert "… and 270 more tags, in" in shown.texts
    assert shown.count("tr") == 1 + 30
    assert len(pictures(html)) == 1 + 12


def test_the_photo_that_it_holds_is_small_and_heatmaps_open_on_request() -> None:
    photo, *heatmaps = pictures(said({"dog": 0.9, "cat": 0.7, "bus": 0.1}, seen=True)._repr_html_())
    assert photo.size == (360, 270)
    assert [picture.size for picture in heatmaps] == [(220, 165)] * 2
    # The evidence lies on the diagonal, where the heatmap is bright.
    pixels = np.asarray(heatmaps[0]).astype(int).sum(axis=2)
    assert pixels[20, 27] > pixels[20, 200] + 100
    shown = Shown(said({"dog": 0.9}, seen=True)._repr_html_())
    (details,) = (found for tag, found in shown.elements if tag == "details")
    assert "open" not in details
    assert {found.get("alt") for tag, found in shown.elements if tag == "img"} == {
        "the photo",
        "heatmap of dog",
    }


def test_a_photo_is_read_from_where_it_came_from_if_it_is_still_there(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (720, 90), (200, 30, 30)).save(path)
    prediction = said({"dog": 0.9}, source=str(path))
    (photo,) = pictures(prediction._repr_html_())
    assert photo.size == (360, 45)
    assert photo.getpixel((100, 20))[0] > 180
    assert str(path) in Shown(prediction._repr_html_()).texts
    path.write_bytes(b"no photo any more")
    assert pictures(prediction._repr_html_()) == []
    path.unlink()
    assert pictures(prediction._repr_html_()) == []
    assert pictures(said({"dog": 0.9})._repr_html_()) == []


def test_a_photo_that_could_not_be_read_says_why() -> None:
    nan = {"dog": float("nan"), "cat": float("nan")}
    shown = Shown(said(nan, source="a.jpg", error="a.jpg is <empty>.")._repr_html_())
    assert shown.texts == ["a.jpg", "This photo could not be read.", "a.jpg is <empty>."]
    assert "nan" not in said(nan)._repr_html_()


@pytest.mark.parametrize("name", [*HOSTILE, "日本語", "a" * 500, "\udcff.jpg"])
@pytest.mark.parametrize("seen", [False, True])
def test_names_of_labels_and_files_are_text(name: str, seen: bool) -> None:
    shown = Shown(said({name: 0.9, "dog": 0.1}, source=name, seen=seen)._repr_html_())
    told = name.encode(errors="replace").decode()
    assert shown.texts[0] == told  # the file
    assert shown.texts.count(told) == 2 + seen  # and the label, and below its heatmap
    assert shown.count("tr") == 3


def test_a_model_shows_its_figures_and_its_labels(backbone: FrozenCLIP) -> None:
    model = trained_like(backbone, num_heads=2)
    model.source = "runs/<shop>"
    shown = Shown(model._repr_html_())
    assert shown.texts[0] == "runs/<shop>"
    assert shown.texts[1].startswith("3 labels, text-region matching on a frozen")
    assert "Nothing was measured of it." in shown.texts
    assert " ".join(shown.texts).endswith(
        "Labels (3) label threshold red 0.20 green 0.40 blue 0.60"
    )
    model.calibration = Calibration(thresholds=(0.2, NEVER, 0.6))
    measured = {"images": 50, "mAP": 0.625, "at_thresholds": {"label_f1": 0.5, "overall_f1": 0.75}}
    measured |= {"per_label": {"red": {"AP": 0.8125}, "green": {"AP": None}}}
    trained = {"data": {"labels": {"red": {"positive": 7, "negative": 3, "unknown": 0}}}}
    for first in ("validation", "test"):
        metrics = {first: measured, "test": measured, "validation": measured | {"mAP": 0.5}}
        model.report = {"metrics": metrics, "finetune": trained}
        text = " ".join(Shown(model._repr_html_()).texts)
        assert "test 50 62.5 50.0 75.0" in text
        assert "validation 50 50.0 50.0 75.0" in text
        assert text.endswith(
            "training positives AP on test red 0.20 7 81.2 green never – – blue 0.60 – –"
        )


@pytest.mark.parametrize("label", HOSTILE)
def test_whatever_a_strange_model_names_itself_and_its_labels_is_text(
    label: str, backbone: FrozenCLIP
) -> None:
    model = untrained(backbone, (label, "dog"))
    model.source = label
    figures = {"mAP": 0.5, "images": label, "at_thresholds": label, "per_label": {label: {"AP": 1}}}
    model.report = {"metrics": {label: figures}, "finetune": {"data": {"labels": {label: 3}}}}
    shown = Shown(model._repr_html_())
    assert shown.texts[0] == label
    assert shown.texts.count(label) == 3  # itself, what it was measured on, and a label
    assert "100.0" in shown.texts


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"metrics": {"test": 5, "validation": {"mAP": "high"}}, "finetune": {"data": [1]}},
        {"metrics": {"test": {"mAP": 10**400}}, "finetune": {}},
        {"metrics": {"test": {"mAP": float("nan")}}, "finetune": {"data": {"labels": None}}},
        {"metrics": {"test": {"mAP": True}}, "finetune": {}},
    ],
)
def test_a_report_of_another_form_shows_no_figures(
    report: dict[str, Any], backbone: FrozenCLIP
) -> None:
    model = untrained(backbone)
    model.report = report
    assert "Nothing was measured of it." in Shown(model._repr_html_()).texts


def test_a_loaded_model_knows_what_its_folder_says_of_it() -> None:
    model = trmml.load_model("coco18-tiny")
    assert model.report is not None
    assert model.report["metrics"]["validation"]["images"] == 2500
    text = " ".join(Shown(model._repr_html_()).texts)
    per_cent = 100 * model.report["metrics"]["validation"]["mAP"]
    assert f"validation 2500 {per_cent:.1f}" in text
    # Figures of other labels would be wrong.
    assert trmml.load_model("coco18-tiny", labels=["dog", "tree"]).report is None


@pytest.mark.parametrize("content", [b"[1]", b"{", b'{"a": "' + b"x" * 9_000_000 + b'"}'])
def test_a_report_that_cannot_be_read_costs_nobody_the_model(
    content: bytes, backbone: FrozenCLIP, tmp_path: Path
) -> None:
    model = trained_like(backbone, num_heads=2)
    trmml.save_model(model, tmp_path / "model", facts={"metrics": {}})
    assert trmml.load_model(tmp_path / "model").report == {"metrics": {}, "finetune": {}}
    (tmp_path / "model" / "metrics.json").write_bytes(content)
    loaded = trmml.load_model(tmp_path / "model")
    assert loaded.report is None
    assert "Nothing was measured of it." in Shown(loaded._repr_html_()).texts
