import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import untrained
from PIL import Image

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.data.dataset import MultiLabelDataset
from trmml.errors import ConfigError, DataError, DependencyError, ImageError
from trmml.evaluation.measuring import dump_scores, evaluate, measure
from trmml.evaluation.metrics import mean_average_precision
from trmml.evaluation.requirements import shared_labels
from trmml.labels import NEGATIVE, UNKNOWN
from trmml.matcher.model import TextRegionMatcher
from trmml.matcher.prediction import Prediction
from trmml.reports import drawing

Maker = Callable[..., MultiLabelDataset]
LABELS = ("red", "green", "blue")


@pytest.fixture
def model(backbone: FrozenCLIP) -> TextRegionMatcher:
    model = untrained(backbone, LABELS, num_context_tokens=2)
    with torch.no_grad():  # a fresh model attends to all patches alike
        generator = torch.Generator().manual_seed(0)
        torch.nn.init.normal_(model.matching.regions.query_map.weight, generator=generator)
    return model


def made(scores: list[float], thresholds: list[float], **rest: object) -> Prediction:
    arrays = (np.array(values, dtype=np.float32) for values in (scores, thresholds))
    return Prediction(LABELS, *arrays, **rest)


def test_positive_labels_reach_their_own_threshold_best_first() -> None:
    prediction = made([0.6, 0.9, 0.4], [0.6, 0.95, 0.3])
    assert [tag.label for tag in prediction.positive] == ["red", "blue"]
    assert [tag.label for tag in prediction.top(2)] == ["green", "red"]
    assert prediction["blue"] == pytest.approx(0.4)
    assert prediction.to_dict()["positive"] == ["red", "blue"]


def test_a_prediction_is_a_mapping_from_label_to_score_in_their_order() -> None:
    scores = [0.5, 0.875, 0.25]
    prediction = made(scores, [0.6, 0.95, 0.3])
    assert isinstance(prediction, Mapping)
    assert list(prediction) == list(prediction.keys()) == list(LABELS)
    assert dict(prediction) == dict(zip(LABELS, scores, strict=True))
    assert list(prediction.items()) == list(zip(LABELS, scores, strict=True))
    assert list(prediction.values()) == scores
    assert len(prediction) == 3
    assert "green" in prediction
    assert "greene" not in prediction
    assert 0 not in prediction
    assert prediction.get("greene", -1.0) == -1.0
    assert max(prediction, key=prediction.get) == "green"
    # What held before it was a mapping.
    assert prediction != made(scores, [0.6, 0.95, 0.3])
    assert len({prediction, prediction}) == 1
    assert bool(made(scores, [1.0] * 3))


def test_predictions_make_a_table() -> None:
    table = pandas.DataFrame(
        [made([0.5, 0.875, 0.25], [0.5] * 3), made([0.0, 0.5, 1.0], [0.5] * 3)]
    )
    assert list(table.columns) == list(LABELS)
    assert table.to_numpy().tolist() == [[0.5, 0.875, 0.25], [0.0, 0.5, 1.0]]


def test_labels_go_by_name_and_not_by_number() -> None:
    # In a process of its own: here the checker of shapes would be first to object.
    program = """
import numpy as np
from trmml.matcher.prediction import Prediction
prediction = Prediction(("red", "green"), np.zeros(2, np.float32), np.zeros(2, np.float32))
for ask in (prediction.__getitem__, prediction.heatmap, prediction.overlay):
    try:
        ask(0)
    except KeyError as error:
        print(error.args[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    line = "Labels go by name, got 0 (int). Known: red, green."
    assert done.stdout.splitlines() == [line] * 3


def test_a_prediction_shows_itself_in_one_short_line(model: TextRegionMatcher) -> None:
    assert repr(made([0.6, 0.9, 0.4], [0.5] * 3)) == "Prediction(green 0.90, red 0.60, 3 labels)"
    shown = repr(made([0.1, 0.3, 0.2], [0.5] * 3, source="cat.jpg"))
    assert shown == (
        "Prediction('cat.jpg', no label over its threshold (nearest: green 0.30 of 0.50), 3 labels)"
    )
    failed = made([np.nan] * 3, [0.5] * 3, source="a.jpg", error="a.jpg is empty.")
    assert repr(failed) == "Prediction('a.jpg', error='a.jpg is empty.', 3 labels)"
    many = Prediction(
        tuple(f"label {i}" for i in range(500)),
        np.full(500, 0.75, dtype=np.float32),
        np.full(500, 0.5, dtype=np.float32),
    )
    assert repr(many).endswith("label 4 0.75, … (500 in all), 500 labels)")
    assert str(many).endswith("label 499 0.75")
    photo = Image.new("RGB", (20, 20), "red")
    assert len(repr(trmml.predict(photo, model, heatmaps=True))) < 150


def test_a_prediction_prints_as_one_readable_line() -> None:
    assert str(made([0.6, 0.9, 0.4], [0.5] * 3)) == "green 0.90, red 0.60"
    nothing = made([0.1, 0.3, 0.2], [0.5] * 3, source="cat.jpg")
    assert str(nothing) == "cat.jpg: no label over its threshold (nearest: green 0.30 of 0.50)"


def test_an_unknown_label_comes_with_the_nearest_one() -> None:
    with pytest.raises(KeyError, match="Did you mean 'green'"):
        made([0.6, 0.9, 0.4], [0.5] * 3)["greene"]


def test_heatmaps_need_to_be_asked_for(model: TextRegionMatcher) -> None:
    prediction = trmml.predict(Image.new("RGB", (20, 20)), model)
    with pytest.raises(ValueError, match="predict with heatmaps=True"):
        prediction.heatmap("red")


def test_a_heatmap_has_the_size_of_the_photo_and_peaks_where_the_evidence_does(
    model: TextRegionMatcher,
) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8))
    prediction = trmml.predict(photo, model, heatmaps=True)
    heat = prediction.heatmap("green")
    assert heat.shape == (50, 90)
    assert (heat.min(), heat.max()) == (0, 1)
    grid = prediction._evidence[1]
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    peak = np.unravel_index(grid.argmax(), grid.shape)
    assert (row * 4 // 50, column * 4 // 90) == peak
    overlay = prediction.overlay("green")
    assert overlay.size == photo.size
    shown, plain = np.asarray(overlay), np.asarray(photo)
    np.testing.assert_array_equal(shown[heat == 0], plain[heat == 0])
    assert not np.array_equal(shown[row, column], plain[row, column])


def test_heatmaps_are_written_as_a_sheet_and_a_picture_for_each_positive_label(
    model: TextRegionMatcher, tmp_path: Path
) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 90, 3), dtype=np.uint8))
    photo.save(tmp_path / "a b.png")
    prediction = trmml.predict(tmp_path / "a b.png", model, heatmaps=True, top_k=2)
    sheet, *overlays = prediction.save_heatmaps(tmp_path / "seen")
    assert sheet.name == "a b.png"
    assert [path.name for path in overlays] == [f"a b-{tag.label}.png" for tag in prediction.top(2)]
    with Image.open(overlays[0]) as picture:
        # Enlarged so that the caption can be read, and with a colour scale below.
        assert picture.size == (320 + 24, round(320 * 50 / 90) + 46 + 24)
        scale = np.asarray(picture)[-20, 60:200].astype(int)
    assert (np.diff(scale.sum(axis=1)) >= -1).all()
    assert scale[-1].sum() > scale[0].sum() + 200
    with Image.open(sheet) as picture:
        assert picture.size == (2 * (320 + 12) + 12, 2 * (178 + 46 + 12) + 12)


def test_file_names_of_heatmaps_stay_in_their_folder(tmp_path: Path) -> None:
    evidence = np.eye(4, dtype=np.float32)[None]
    labels, ones = ("../cat/dog",), np.ones(1, dtype=np.float32)
    prediction = Prediction(
        labels, ones, ones, _evidence=evidence, _photo=Image.new("RGB", (40, 40))
    )
    files = prediction.save_heatmaps(tmp_path / "seen", name="/etc/x")
    assert {path.parent for path in files} == {tmp_path / "seen"}
    assert sorted(path.name for path in files) == ["_etc_x-_cat_dog.png", "_etc_x.png"]


def seen_as(source: str, labels: tuple[str, ...], photo: Image.Image | None = None) -> Prediction:
    ones, evidence = np.ones(len(labels), dtype=np.float32), np.eye(4, dtype=np.float32)
    return Prediction(
        *(labels, ones, ones, source),
        _evidence=evidence[None].repeat(len(labels), axis=0),
        _photo=photo or Image.new("RGB", (40, 40)),
    )


def test_no_heatmap_replaces_another(tmp_path: Path) -> None:
    long = "n" * 120
    sources = ["x/a.jpg", "y/a.jpg", "y/a 2.jpg", "street.jpg", "street-green.jpg", "A.jpg"]
    taken: set[str] = set()
    files = [
        file
        for source in [*sources, f"{long}1.jpg", f"{long}2.jpg"]
        for file in seen_as(source, ("green", "a/b", "a:b")).save_heatmaps(tmp_path, taken=taken)
    ]
    assert len({file.name.casefold() for file in files}) == 8 * 4
    assert sorted(files) == sorted(tmp_path.iterdir())
    names = [file.name for file in files]
    assert names[:4] == ["a.png", "a-green.png", "a-a_b.png", "a-a_b 2.png"]
    assert names[4:6] == ["a 2.png", "a 2-green.png"]
    assert names[16] == "street-green 2.png"


@pytest.mark.skipif(os.name == "nt", reason="Windows counts characters")
def test_names_of_heatmaps_are_short_enough_in_any_script(tmp_path: Path) -> None:
    files = seen_as(f"{'写' * 78}.jpg", ("犬" * 200,)).save_heatmaps(tmp_path)
    assert [file.name for file in files] == [f"{'写' * 33}.png", f"{'写' * 33}-{'犬' * 33}.png"]


@pytest.mark.parametrize("size", [(3200, 1600), (30_000, 3)])
def test_heatmaps_of_a_large_photo_are_drawn_over_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    overlaid, overlay = [], drawing.overlay
    monkeypatch.setattr(
        drawing, "overlay", lambda photo, heat: overlaid.append(photo.size) or overlay(photo, heat)
    )
    ramp = np.tile(np.linspace(0, 255, size[0]).astype(np.uint8), (size[1], 1))
    large = seen_as("a.png", ("green",), Image.fromarray(ramp).convert("RGB"))
    files = large.save_heatmaps(tmp_path)
    assert {max(size) for size in overlaid} == {640}
    full = large.overlay("green")
    assert full.size == size
    expected = np.asarray(drawing.captioned(full, "green", "1.00")).astype(int)
    with Image.open(files[1]) as picture:
        assert np.abs(np.asarray(picture) - expected).mean() < 1


def test_a_caption_too_long_for_its_picture_is_shortened() -> None:
    wide = drawing.captioned(Image.new("RGB", (400, 100)), "label " * 60)
    assert wide.width == 400 + 24


def test_even_evidence_and_what_speaks_against_have_no_heat() -> None:
    assert not drawing.heatmap(np.full((3, 3), 1 / 9, dtype=np.float32), 10, 20).any()
    half = np.tile(np.float32([-5, -5, 0, 0, 0, 0, 1, 1]), (8, 1))
    heat = drawing.heatmap(half, 80, 80)
    assert heat[:, 45:50].max() < 0.1 * heat.max()
    assert heat[:, :30].max() == heat[:, :30].min() == 0


def test_one_photo_in_one_prediction_out_whatever_its_form(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    path = make_dataset(1).photos[0]
    photo = Image.open(path).convert("RGB")
    array = np.asarray(photo)
    forms = [path, str(path), path.read_bytes(), photo, array]
    forms += [torch.from_numpy(array.copy()).permute(2, 0, 1)]
    forms += [forms[-1].float() / 255]
    expected = trmml.predict(path, model).scores
    for form in forms:
        prediction = trmml.predict(form, model)
        assert isinstance(prediction, Prediction)
        np.testing.assert_array_equal(prediction.scores, expected)


@pytest.mark.parametrize("heatmaps", [False, True])
def test_an_open_file_is_one_photo(
    model: TextRegionMatcher, make_dataset: Maker, heatmaps: bool
) -> None:
    path = make_dataset(1).photos[0]
    expected = trmml.predict(path, model)
    memory = io.BytesIO(path.read_bytes())
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        for form in (memory, file, raw):
            prediction = trmml.predict(form, model, heatmaps=heatmaps)
            assert isinstance(prediction, Prediction)
            np.testing.assert_array_equal(prediction.scores, expected.scores)
            assert prediction.source == (None if form is memory else str(path))
        for prediction in trmml.predict([file, memory, file], model):
            np.testing.assert_allclose(prediction.scores, expected.scores, atol=1e-6)
    with path.open(encoding="latin-1") as text, pytest.raises(ImageError, match="mode 'rb'"):
        trmml.predict(text, model)


def test_what_holds_photos_under_names_is_refused_and_says_what_to_pass(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    path = make_dataset(1).photos[0]
    with pytest.raises(ImageError, match=r"got dict; pass the photos that it holds: list\(photos"):
        trmml.predict({"image": path}, model)
    with pytest.raises(ImageError, match=r"got DataFrame; pass the column of the photos"):
        trmml.predict(pandas.DataFrame({"image": [str(path)]}), model)
    with pytest.raises(ImageError, match="Patterns are not followed"):
        trmml.predict(f"{path.parent}/*.png", model)
    (failed,) = trmml.predict([{"image": path}], model)
    assert "got dict; pass what it holds" in failed.error


def test_a_column_or_an_array_of_paths_is_a_list(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    names = [str(photo) for photo in make_dataset(2).photos]
    expected = [prediction.scores.tolist() for prediction in trmml.predict(names, model)]
    for form in (
        np.array(names),
        np.array(names, dtype=object),
        pandas.Series(names),
        tuple(names),
    ):
        predictions = trmml.predict(form, model)
        assert [prediction.scores.tolist() for prediction in predictions] == expected


def test_a_model_predicts_by_itself(model: TextRegionMatcher, make_dataset: Maker) -> None:
    paths = make_dataset(2).photos
    expected = trmml.predict(paths, model, top_k=1)
    for predictions in (model.predict(paths, top_k=1), model(paths, top_k=1)):
        for found, same in zip(predictions, expected, strict=True):
            assert found.positive == same.positive
    one = model(str(paths[0]))
    assert isinstance(one, Prediction)
    np.testing.assert_array_equal(one.scores, model.predict(paths[0]).scores)
    assert len(model(paths[0].parent)) == 2
    with pytest.raises(ImageError, match=r"gone\.jpg: No such file"):
        model("gone.jpg")
    # A batch of tensors is what a network takes, as before.
    with torch.no_grad():
        assert model(torch.zeros(5, 3, 64, 64)).logits.shape == (5, 3)


def test_a_folder_in_a_list_out_sorted_by_path(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    photos = make_dataset(5).photos
    predictions = trmml.predict(photos[0].parent, model)
    assert [prediction.source for prediction in predictions] == [str(photo) for photo in photos]


def test_a_bad_photo_does_not_stop_a_list(model: TextRegionMatcher, make_dataset: Maker) -> None:
    photos = [*make_dataset(3).photos]
    photos.insert(1, photos[0].parent / "gone.png")
    predictions = trmml.predict(photos, model, batch_size=2)
    assert [prediction.error is None for prediction in predictions] == [True, False, True, True]
    assert "gone.png" in predictions[1].error
    assert predictions[1].positive == []
    assert np.isnan(predictions[1].scores).all()
    assert predictions[1].to_dict() == {"source": str(photos[1]), "error": predictions[1].error}
    np.testing.assert_allclose(
        predictions[2].scores, trmml.predict(photos[2], model).scores, atol=1e-6
    )


def test_a_single_bad_photo_is_an_error(model: TextRegionMatcher, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png: No such file"):
        trmml.predict(tmp_path / "gone.png", model)
    with pytest.raises(ImageError, match=r"~nobody\.png: No such file"):
        trmml.predict("~nobody.png", model)
    with pytest.raises(ImageError, match="File name too long"):
        trmml.predict("a" * 300 + ".jpg", model)
    with pytest.raises(ImageError, match="There is no photo in the folder"):
        trmml.predict(tmp_path, model)
    with pytest.raises(ImageError, match="Expected a photo, a folder or a list, got int"):
        trmml.predict(7, model)


def test_one_open_picture_may_come_many_times(model: TextRegionMatcher, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 255, (600, 600, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as picture:
        predictions = trmml.predict([picture] * 8, model)
    assert [prediction.error for prediction in predictions] == [None] * 8
    scores = np.stack([prediction.scores for prediction in predictions])
    np.testing.assert_allclose(scores, np.tile(scores[:1], (8, 1)), atol=1e-6)


def test_threshold_and_top_k_decide_what_is_positive(model: TextRegionMatcher) -> None:
    photo = Image.new("RGB", (20, 20), "red")
    assert len(trmml.predict(photo, model, threshold=0.0).positive) == 3
    assert trmml.predict(photo, model, threshold=1.0).positive == []
    assert trmml.predict(photo, model, top_k=2).positive == trmml.predict(photo, model).top(2)
    assert trmml.predict(photo, model, top_k=2, threshold=1.0).positive == []


def test_the_model_can_be_named_by_its_folder(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path
) -> None:
    trmml.save_model(model, tmp_path / "model")
    photo = make_dataset(1).photos[0]
    named = trmml.predict(photo, tmp_path / "model")
    np.testing.assert_array_equal(named.scores, trmml.predict(photo, model).scores)


def test_labels_go_with_the_name_of_a_model(model: TextRegionMatcher) -> None:
    photo = Image.new("RGB", (20, 20), "red")
    labels = ["person", "bus"]
    prediction = trmml.predict(photo, labels=labels)
    assert list(prediction) == labels
    expected = trmml.load_model(labels=labels).predict(photo)
    np.testing.assert_array_equal(prediction.scores, expected.scores)
    assert len(trmml.predict(photo)) == 209
    with pytest.raises(ConfigError, match=r"this one is loaded: load_model\(name, labels=…\)"):
        trmml.predict(photo, model, labels=labels)


def test_photos_are_seen_upright(model: TextRegionMatcher) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    turned, exif = photo.rotate(90, expand=True), Image.Exif()
    exif[0x0112] = 6  # to be turned 90° clockwise for viewing
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    np.testing.assert_allclose(
        trmml.predict(file.getvalue(), model).scores, trmml.predict(photo, model).scores, atol=1e-6
    )


def test_evaluation_measures_the_predictions(model: TextRegionMatcher, make_dataset: Maker) -> None:
    data = make_dataset(11).hide_labels(0.8)
    evaluation = evaluate(model, data, batch_size=3)
    scores = np.stack([p.scores for p in model.predict_many(data.photos)])
    np.testing.assert_allclose(evaluation.scores, scores, atol=1e-6)
    expected = mean_average_precision(evaluation.scores, data.states)
    assert evaluation.mean_average_precision == expected
    assert repr(evaluation).startswith(f"Evaluation({len(data)} photos, 3 labels, mAP ")
    assert evaluation.to_dict()["mAP"] == expected


def test_categories_may_be_fewer_and_in_another_order(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(7)
    every = evaluate(model, data)
    some = evaluate(model, data.with_labels(("blue", "red")))
    assert some.average_precision.tolist() == every.average_precision[[2, 0]].tolist()


def test_labels_that_model_and_table_share_are_measured_and_the_others_named(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(9)
    every = evaluate(model, data)
    assert (every.unknown_to_model, every.not_in_data) == ((), ())
    renamed = replace(data, labels=("red", "gren", "blue"))
    found = evaluate(model, renamed)
    assert found.labels == ("red", "blue")
    assert (found.unknown_to_model, found.not_in_data) == (("gren",), ("green",))
    assert found.average_precision.tolist() == every.average_precision[[0, 2]].tolist()
    assert found.at_thresholds == evaluate(model, data.with_labels(("red", "blue"))).at_thresholds
    values = found.to_dict()
    assert (values["labels_scored"], values["labels_unknown_to_model"]) == (2, ["gren"])
    assert "over 2 labels (1 of the data unknown to the model; 1 of the model not" in str(found)
    assert str(shared_labels(renamed, model.labels)) == (
        "2 labels are in both model and table; left out: the model does not know 'gren' (is it "
        "'green'?) of the table; the table does not name 'green'."
    )
    assert str(shared_labels(data, model.labels)) == ""


def test_scores_of_shared_labels_are_dumped_with_their_own_states(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(5)
    mixed = replace(data, labels=("sky", "blue", "red"))  # as if the columns were called so
    dump_scores(evaluate(model, mixed), mixed, tmp_path / "s.csv", data.photos[0].parent)
    header, *lines = (tmp_path / "s.csv").read_text().splitlines()
    assert header == "image,score:blue,score:red,label:blue,label:red"
    states = [[int(cell) for cell in line.split(",")[3:]] for line in lines]
    np.testing.assert_array_equal(states, data.states[:, 1:])


@pytest.mark.parametrize("rest", [None, np.zeros(3, dtype=np.int8)])
def test_a_table_that_shares_no_label_with_the_model_is_refused(
    model: TextRegionMatcher, make_dataset: Maker, rest: np.ndarray | None
) -> None:
    """Also where all that it never names is negative: that would be all there is to measure."""
    data = replace(make_dataset(3), labels=("reed", "sky", "Blue"), rest=rest)
    with pytest.raises(
        DataError, match=r"knows: 'reed' \(is it 'red'\?\), 'sky', 'Blue' \(is it 'bl"
    ):
        evaluate(model, data)


def test_positives_alone_say_nothing_about_precision(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(5)
    data.states[data.states == NEGATIVE] = UNKNOWN
    found = evaluate(model, data)
    assert found.to_dict()["at_top_3"]["label_f1"] is None
    assert "mAP – over 0 labels" in str(found)
    assert "nan" not in str(found)


def test_nothing_to_measure_is_an_error(model: TextRegionMatcher, make_dataset: Maker) -> None:
    data = make_dataset(3)
    data.states[:] = UNKNOWN
    with pytest.raises(DataError, match="no known label to evaluate against"):
        evaluate(model, data)


def test_unreadable_photos_are_left_out_of_the_measurement(
    model: TextRegionMatcher, make_dataset: Maker
) -> None:
    data = make_dataset(7)
    rest = evaluate(model, data.subset(np.arange(1, 7)))
    data.photos[0].write_bytes(b"")
    evaluation = evaluate(model, data)
    assert evaluation.num_images == 6
    assert "000.png is empty" in evaluation.skipped[0]
    np.testing.assert_allclose(evaluation.average_precision, rest.average_precision)


def test_a_report_leaves_out_what_cannot_be_scored() -> None:
    states = np.array([[1, 0], [0, 0], [1, -1]], dtype=np.int8)
    scores = np.array([[0.9, 0.2], [0.8, 0.1], [0.7, 0.3]], dtype=np.float32)
    evaluation = measure(scores, states, ("dog", "cat"), (0.5, 0.5))
    report = evaluation.to_dict()
    assert report["mAP"] == pytest.approx((1 + 2 / 3) / 2)
    assert report["labels_left_out"] == 1
    assert report["per_label"]["cat"] == {
        "AP": None,
        "AP_interpolated": None,
        "known_positives": 0,
        "known_labels": 2,
    }
    assert "mAP 83.33 over 1 labels (1 left out: no known positive or negative)" in str(evaluation)


def test_dumped_scores_are_exact(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path
) -> None:
    data = make_dataset(5).hide_labels(0.5)
    evaluation = evaluate(model, data)
    folder = data.photos[0].parent
    dump_scores(evaluation, data, tmp_path / "scores.csv", folder)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "image,score:red,score:green,score:blue,label:red,label:green,label:blue"
    cells = [line.split(",") for line in lines[1:]]
    assert [row[0] for row in cells] == [photo.name for photo in data.photos]
    scores = np.array([[float(cell) for cell in row[1:4]] for row in cells])
    np.testing.assert_array_equal(scores.astype(np.float32), evaluation.scores)
    labels = [[UNKNOWN if cell == "" else int(cell) for cell in row[4:]] for row in cells]
    np.testing.assert_array_equal(labels, data.states)


def test_a_score_is_never_one(model: TextRegionMatcher, make_dataset: Maker) -> None:
    with torch.no_grad():
        model.logit_bias.fill_(100.0)
    prediction = trmml.predict(make_dataset(1).photos[0], model, threshold=1.0)
    assert (prediction.scores > 0.9999).all()
    assert prediction.positive == []  # a threshold of 1 means never


def test_a_folder_that_changed_is_loaded_again(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path
) -> None:
    photo = make_dataset(1).photos[0]
    trmml.save_model(model, tmp_path / "shop")
    before = trmml.predict(photo, tmp_path / "shop")
    shutil.rmtree(tmp_path / "shop")
    with torch.no_grad():
        model.logit_bias.add_(1.0)
    trmml.save_model(model, tmp_path / "shop")
    assert (trmml.predict(photo, tmp_path / "shop").scores > before.scores).all()


def test_many_predictions_are_a_table_with_a_row_per_photo(
    model: TextRegionMatcher, make_dataset: Maker, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no photo")
    photos = [*make_dataset(3).photos, tmp_path / "bad.png"]
    predictions = model.predict(photos)
    table = trmml.to_pandas(predictions)
    assert list(table.columns) == list(LABELS)
    assert table.index.name == "image"
    assert list(table.index) == [str(photo) for photo in photos]
    np.testing.assert_array_equal(
        table.to_numpy(np.float32), np.stack([p.scores for p in predictions])
    )
    assert table.loc[str(photos[3])].isna().all()
    pandas.testing.assert_frame_equal(trmml.to_pandas(model.predict_many(photos)), table)


def test_one_prediction_of_no_file_and_none_are_tables_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = trmml.to_pandas(made([0.5, 0.25, 1.0], [0.5, 0.5, 0.5]))
    assert one.to_dict("records") == [{"red": 0.5, "green": 0.25, "blue": 1.0}]
    assert list(one.index) == [None]
    assert trmml.to_pandas([]).empty
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match="pip install pandas"):
        trmml.to_pandas([])
