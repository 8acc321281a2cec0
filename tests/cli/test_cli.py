import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_command as run
from sklearn.metrics import average_precision_score

import trmml
from trmml.backbone.clip import FrozenCLIP
from trmml.cli.calibrate import _rounded
from trmml.config.groups import MatchingConfig
from trmml.data.dataset import MultiLabelDataset
from trmml.labels import NEGATIVE, POSITIVE, UNKNOWN
from trmml.zoo.loading import make_config

Maker = Callable[..., MultiLabelDataset]
QUICK = [
    *("--set", "training.epochs=1", "--set", "training.batch_size=5"),
    *("--set", "matching.num_context_tokens=2", "--set", "matching.num_heads=2"),
]


def write_wide(data: MultiLabelDataset, path: Path) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *data.labels])
        for photo, labels in zip(data.photos, data.states, strict=True):
            cells = ["" if label == UNKNOWN else int(label) for label in labels]
            writer.writerow([photo.name, *cells])
    return path


@pytest.fixture
def table(make_dataset: Maker, tmp_path: Path) -> Path:
    data = make_dataset(16).hide_labels(0.8)
    return write_wide(data, data.photos[0].parent / "labels.csv")


@pytest.fixture
def model(backbone: FrozenCLIP, tmp_path: Path) -> Path:
    settings = MatchingConfig(num_heads=2, num_context_tokens=2)
    made = trmml.TextRegionMatcher(
        make_config(backbone, ("red", "green", "blue"), settings), backbone
    )
    made.start_from_text()
    return trmml.save_model(made, tmp_path / "model")


def test_the_whole_path(
    table: Path, backbone_source: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "runs" / "colours"
    assert run("finetune", table, "--backbone", backbone_source, "-o", out, *QUICK) == 0
    shown = capsys.readouterr()
    best = json.loads((out / "metrics.json").read_text())["validation"]["mAP"]
    assert shown.out.startswith(f"{out}: 3 labels, validation mAP {100 * best:.2f} (")
    assert "16 photos, 3 labels" in shown.err
    again = ("--backbone", backbone_source, "-o", out, "--resume", *QUICK)
    assert run("finetune", table, *again) == 0
    assert capsys.readouterr().out == shown.out  # a finished run says what it said
    assert run("evaluate", out, table, "--format", "json", "--dump-scores", tmp_path / "s.csv") == 0
    report = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    expected = []
    for name in ("red", "green", "blue"):
        known = [row for row in rows if row[f"label:{name}"] != ""]
        labels = [int(row[f"label:{name}"]) for row in known]
        expected.append(
            average_precision_score(labels, [float(row[f"score:{name}"]) for row in known])
        )
    assert report["mAP"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert run("predict", table.parent, "--model", out, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 16
    assert set(rows[0]) == {"image", "positive", "red", "green", "blue"}


def test_a_table_of_another_form_is_converted(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo = next(table.parent.glob("*.png")).name
    coco = {
        "images": [{"id": 1, "file_name": photo}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 2}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }
    (tmp_path / "c.json").write_text(json.dumps(coco))
    options = ("--images", table.parent, "--unlabeled", "unknown")
    assert run("data", "convert", tmp_path / "c.json", tmp_path / "c.csv", *options) == 0
    assert (tmp_path / "c.csv").read_text() == f"image,red,blue\n{photo},,1\n"
    assert "50.0 % of the cells known" in capsys.readouterr().out


def test_settings_come_from_a_recipe_and_are_overruled_on_the_command_line(
    table: Path, backbone_source: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[training]\nepochs = 2\nbatch_size = 7\n[matching]\nway = "text-image"\n')
    out = tmp_path / "out"
    arguments = ["--backbone", backbone_source, "-o", out, "-c", recipe]
    assert run("finetune", table, *arguments, "--set", "training.epochs=1") == 0
    settings = json.loads((out / "finetune.json").read_text())["settings"]
    assert settings["training"]["epochs"] == 1
    assert settings["training"]["batch_size"] == 7
    assert settings["matching"]["way"] == "text-image"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files must be UTF-8")
def test_names_of_photos_need_not_be_utf_8(
    table: Path, backbone_source: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, out = tmp_path / os.fsdecode(b"caf\xe9"), tmp_path / "out"
    for i, photo in enumerate(sorted(table.parent.glob("*.png"))):
        (folder / "red").mkdir(parents=True, exist_ok=True)
        photo.rename(folder / "red" / os.fsdecode(b"\xfc%d.png" % i))
    options = ("--backbone", backbone_source, "--unlabeled", "unknown", "-o", out)
    assert run("finetune", folder, *options, *QUICK) == 0
    facts = json.loads((out / "finetune.json").read_text(encoding="utf-8"))
    assert facts["data"]["source"] == str(folder)


@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_a_bad_photo_is_reported_skipped_and_shown_in_the_exit_code(
    model: Path, make_dataset: Maker, format: str, capsys: pytest.CaptureFixture
) -> None:
    photos = make_dataset(2).photos
    photos[0].write_bytes(photos[0].read_bytes()[:70])
    assert run("predict", *photos, "--model", model, "--format", format) == 1
    shown = capsys.readouterr()
    assert "skipped:" in shown.err
    assert "000.png" in shown.err
    assert "1 of 2 photos could not be read." in shown.err
    assert "001.png" in shown.out
    assert "000.png" not in shown.out
    if format == "json":
        assert set(json.loads(shown.out)[0]["scores"]) == {"red", "green", "blue"}


def test_heatmaps_get_a_number_where_photos_share_a_name(
    model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo = next(table.parent.glob("*.png"))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x.png").write_bytes(photo.read_bytes())
    where = tmp_path / "seen"
    photos = (tmp_path / "a", tmp_path / "b")
    assert run("predict", *photos, "--model", model, "--heatmaps", where, "--threshold", 1) == 0
    assert sorted(path.name for path in where.iterdir()) == ["x 2.png", "x.png"]
    capsys.readouterr()
    where = tmp_path / "all"
    (tmp_path / "a" / "x-red.png").write_bytes(photo.read_bytes())
    assert run("predict", *photos, "--model", model, "--heatmaps", where, "--threshold", 0) == 0
    assert len(list(where.iterdir())) == 3 * (1 + 3)
    assert "wrote 12 pictures to" in capsys.readouterr().err
    assert run("predict", photos[0], "--model", model, "--heatmaps", photos[0]) == 2
    assert "choose another folder for their heatmaps" in capsys.readouterr().err
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "seen"
    assert run("predict", photos[0], "--model", model, "--heatmaps", inside) == 2
    assert f"Cannot write to {inside}" in capsys.readouterr().err


def test_heatmaps_need_regions(
    backbone_source: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out, matching = tmp_path / "out", 'matching.way="text-image"'
    options = ("--backbone", backbone_source, "-o", out, *QUICK, "--set", matching)
    assert run("finetune", table, *options) == 0
    assert run("predict", table.parent, "--model", out, "--heatmaps", tmp_path / "h") == 2
    assert "heatmaps need a model that matches text with regions" in capsys.readouterr().err


def test_tags_are_found_in_bfloat16(
    model: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    photo = make_dataset(1).photos[0]
    scores = []
    for precision in ("float32", "bfloat16"):
        options = ("--precision", precision, "--format", "json")
        assert run("predict", photo, "--model", model, *options) == 0
        scores.append(json.loads(capsys.readouterr().out)["scores"])
    labels = scores[0]
    assert all(scores[1][label] == pytest.approx(labels[label], abs=0.1) for label in labels)
    assert scores[0] != scores[1]


def test_zero_shot_has_heatmaps(table: Path, backbone_source: str, tmp_path: Path) -> None:
    options = ("--labels", "red,blue", "--backbone", backbone_source, "--heatmaps", tmp_path / "h")
    assert run("predict", table.parent, *options, "--top-k", "1") == 0
    photos = [path for path in table.parent.iterdir() if path.suffix in (".png", ".jpg")]
    # For each photo its best label and a sheet.
    assert len(list((tmp_path / "h").iterdir())) == 2 * len(photos) > 0


def test_a_measurement_is_kept_in_the_folder_and_its_card(
    model: Path, table: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("evaluate", model, table, "--save-as", "test", "--format", "json") == 0
    report = json.loads(capsys.readouterr().out)
    assert json.loads((model / "metrics.json").read_text())["test"] == report
    assert f"| test | 16 | {100 * report['mAP']:.1f} |" in (model / "README.md").read_text()
    assert run("models", "info", model, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["test_map"] == report["mAP"]
    assert run("models", "info", model) == 0
    assert f"test mAP        {100 * report['mAP']:.1f}\n" in capsys.readouterr().out


def test_backbones_are_listed_with_size_and_cost(capsys: pytest.CaptureFixture) -> None:
    assert run("models", "backbones", "vit-b-16-siglip2/") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "photo", "parameters", "GFLOPs", "license", "needs"]
    apart = ["ViT-B-16-SigLIP2/webli", "224", "375", "M", "35.4", "Apache-2.0", "trmml[tokenizers]"]
    assert row.split() == apart
    assert run("models", "backbones", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)) > 150
    assert run("models", "backbones", "coca_ViT-B-32") == 2
    assert "captioning model" in capsys.readouterr().err
    assert run("models", "backbones", "resnext") == 2
    assert "No CLIP has 'resnext' in its name." in capsys.readouterr().err


def test_thresholds_are_chosen_anew(
    model: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    options = ("--goal", "recall", "--target", "0.99", "--plot", tmp_path / "r.png")
    assert run("calibrate", model, table, *options) == 0
    shown = capsys.readouterr().out
    assert "recall of 0.99 on known labels" in shown
    made = json.loads((model / "calibration.json").read_text())
    assert made["evidence"]["red"]["recall"][0] == 1
    assert made["method"] in (model / "README.md").read_text().replace("\\", "")
    assert trmml.load_model(model).calibration.thresholds[0] == made["thresholds"]["red"]
    assert (tmp_path / "r.png").stat().st_size > 1000


def test_labels_that_a_table_does_not_state_keep_their_thresholds(
    model: Path, table: Path, capsys: pytest.CaptureFixture
) -> None:
    def stored() -> dict[str, Any]:
        return json.loads((model / "calibration.json").read_text())

    before = stored()
    options = ("--labels", "red", "--goal", "recall", "--target", "0.99")
    assert run("calibrate", model, table, *options) == 0
    assert "does not state 2 of the model's labels" in capsys.readouterr().out
    after = stored()
    assert after["thresholds"]["red"] != before["thresholds"]["red"]
    for name in ("green", "blue"):
        for part in ("thresholds", "known_positives", "evidence"):
            assert after[part].get(name) == before[part].get(name)


def test_a_list_of_positives_measures_what_a_wide_table_of_the_same_truth_does(
    model: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    data = make_dataset(8)
    data.states[:, 2] = NEGATIVE  # nobody has seen blue
    folder = data.photos[0].parent
    wide, listed = write_wide(data, folder / "wide.csv"), folder / "list.csv"
    names = [
        "|".join(name for name, state in zip(data.labels, row, strict=True) if state == POSITIVE)
        for row in data.states
    ]
    rows = [f"{p.name},{cell}\n" for p, cell in zip(data.photos, names, strict=True)]
    listed.write_text("image,labels\n" + "".join(rows))
    found = []
    for table, options in ((wide, ()), (listed, ("--unlabeled", "negative"))):
        assert run("evaluate", model, table, *options, "--format", "json") == 0
        shown = capsys.readouterr()
        values = json.loads(shown.out)
        assert run("calibrate", model, table, *options) == 0
        capsys.readouterr()
        limits = json.loads((model / "calibration.json").read_text())["thresholds"]
        found.append((values["per_label"], values["at_0.5"], limits))
    assert found[0] == found[1]
    assert "1 labels of the model that list.csv never names are negative in it" in shown.err
    assert "blue" in found[1][2]


def test_labels_that_only_model_or_table_has_are_said_and_left_out(
    model: Path, table: Path, capsys: pytest.CaptureFixture
) -> None:
    before = json.loads((model / "calibration.json").read_text())["thresholds"]
    table.write_text(table.read_text().replace("image,red,green,blue", "image,red,gren,blue"))
    assert run("evaluate", model, table, "--format", "json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["labels_unknown_to_model"] == ["gren"]
    assert "2 labels are in both model and table; left out: the model does not know" in shown.err
    options = ("--goal", "recall", "--target", "0.99")
    assert run("calibrate", model, table, *options) == 0
    after = json.loads((model / "calibration.json").read_text())["thresholds"]
    assert after["green"] == before["green"]
    assert after["red"] != before["red"]
    assert "'gren' (is it 'green'?)" in capsys.readouterr().err
    for command in ("evaluate", "calibrate"):  # what is asked for must be there
        assert run(command, model, table, "--labels", "red,gren") == 4
        assert "'gren', which the model does not know" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (
            ("--goal", "precision", "--target", "0.999"),
            4,
            "No label reaches a precision of 0.999 on",
        ),
        (
            ("--guarantee", "0.9"),
            4,
            "No label reaches a precision of 0.9 for sure on these 16 photos",
        ),
        (("--guarantee", "1"), 2, "--guarantee must be above 0 and below 1, got 1."),
        (("--guarantee", "95"), 2, "and below 1, got 95; for 95 % say 0.95."),
        (("--target", "0.8"), 2, "--target goes with --goal precision or --goal recall."),
        (("--guarantee", "0.9", "--goal", "recall"), 2, "leave --goal away"),
    ],
)
def test_a_goal_out_of_reach_changes_nothing(
    model: Path,
    table: Path,
    options: tuple[str, ...],
    code: int,
    reason: str,
    capsys: pytest.CaptureFixture,
) -> None:
    before = (model / "calibration.json").read_bytes()
    assert run("calibrate", model, table, *options) == code
    assert reason in capsys.readouterr().err
    assert (model / "calibration.json").read_bytes() == before


def test_a_table_with_next_to_no_positives_chooses_no_thresholds(
    model: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    before = (model / "calibration.json").read_bytes()
    data = make_dataset(12)
    for num_positive in (0, 4):
        data.states[:] = NEGATIVE
        data.states[:num_positive, 0] = POSITIVE
        table = write_wide(data, data.photos[0].parent / "few.csv")
        assert run("calibrate", model, table) == 4
        shown = capsys.readouterr()
        assert f"has {num_positive} known positives of the model's labels" in shown.err
        assert "nothing was changed" in shown.err
        assert (model / "calibration.json").read_bytes() == before


def test_the_card_forgets_what_was_measured_at_thresholds_of_before(
    model: Path, table: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    assert run("evaluate", model, table, "--save-as", "test") == 0
    measured = json.loads((model / "metrics.json").read_text())["test"]
    assert measured["at_thresholds"]["overall_f1"] > 0
    data = make_dataset(40)
    data.states[:] = POSITIVE
    data.states[:, 2] = NEGATIVE
    other = write_wide(data, data.photos[0].parent / "all.csv")
    assert run("calibrate", model, other, "--goal", "precision", "--target", "0.6") == 0
    shown = capsys.readouterr().out
    assert "Never predicted from now on: blue. The known states of these do not show a" in shown
    after = json.loads((model / "metrics.json").read_text())["test"]
    assert set(after.pop("at_thresholds").values()) == {None}
    assert after == {key: value for key, value in measured.items() if key != "at_thresholds"}
    card = (model / "README.md").read_text()
    assert "| blue | never |" in card
    assert f"| test | {len(make_dataset(16))} | {100 * measured['mAP']:.1f} | – | – |" in card


@pytest.mark.parametrize(
    ("threshold", "shown"),
    [(0.99999, "> 0.999"), (0.9994, "0.999"), (0.5, "0.500"), (1e-7, "< 0.001"), (0.0005, "0.001")],
)
def test_a_threshold_that_is_not_quite_one_or_zero_is_not_said_to_be(
    threshold: float, shown: str
) -> None:
    assert _rounded(threshold) == shown


def test_a_precision_can_be_promised(
    model: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    data = make_dataset(40)
    data.states[:] = POSITIVE  # whatever the toy network finds is right
    data.states[:2, 0] = NEGATIVE
    data.states[:, 2] = NEGATIVE
    table = write_wide(data, data.photos[0].parent / "all.csv")
    rule = ("--rule", "red implies blue")
    assert run("calibrate", model, table, "--guarantee", "0.3", *rule) == 0
    shown = capsys.readouterr().out
    values = json.loads((model / "calibration.json").read_text())
    assert [values["evidence"][name]["promise"] for name in data.labels] == [
        *("alone", "never", "never"),
    ]
    assert "precision of 0.3 or more with 95 % confidence" in shown
    assert "1 label each by itself, 0 together" in shown
    assert "Never predicted from now on: green, blue." in shown
    assert values["thresholds"]["blue"] == 1
    assert values["rules"] == ["red implies blue"]
    assert run("calibrate", model, table, "--rule", "red implies violet") == 4
    assert "names no label: 'violet'" in capsys.readouterr().err


def test_no_readable_photo_at_all_is_a_data_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("predict", tmp_path / "gone.jpg", "--model", model) == 4
    assert "No such file" in capsys.readouterr().err


def test_zero_shot_tags_with_any_labels(
    make_dataset: Maker, backbone_source: str, capsys: pytest.CaptureFixture
) -> None:
    photo = make_dataset(1).photos[0]
    arguments = ["--backbone", backbone_source, "--labels", "a red square,日本語,[red]<b>"]
    assert run("predict", photo, *arguments, "--format", "json") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert list(scores) == ["a red square", "日本語", "[red]<b>"]
    templates = ["--template", "a {}", "--template", "many {}"]
    assert run("predict", photo, *arguments, *templates, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["scores"] != scores
    larger = ["--image-size", 128, "--format", "json"]
    assert run("predict", photo, *arguments, *larger) == 0
    model = trmml.load_model(
        "zero-shot", labels=list(scores), backbone=backbone_source, image_size=128
    )
    expected = model.predict(photo)
    assert json.loads(capsys.readouterr().out)["scores"] == pytest.approx(dict(expected), abs=1e-5)
    assert run("predict", photo, "--image-size", 128) == 2
    assert "image_size" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
@pytest.mark.parametrize("format", ["table", "json", "jsonl", "csv"])
def test_what_the_output_cannot_encode_is_escaped(
    make_dataset: Maker,
    backbone_source: str,
    monkeypatch: pytest.MonkeyPatch,
    encoding: str,
    format: str,
) -> None:
    photo, content = make_dataset(1).photos[0], io.BytesIO()
    labels = ("é", "犬", "😀", os.fsdecode(b"\xe9"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding, write_through=True))
        options = ("--backbone", backbone_source, "--labels", ",".join(labels), "--threshold", 0)
        assert run("predict", photo, *options, "--format", format) == 0
        text = content.getvalue().decode(
            encoding, errors="strict" if format == "csv" else "replace"
        )
    if "json" in format:
        assert set(json.loads(text)["scores"]) == set(labels)
    elif encoding == "utf-8":
        assert "犬" in text
    elif encoding == "cp1252":
        assert "é" in text
        assert r"\u72ac" in text


def test_check_says_whether_finetune_would_take_the_table(
    table: Path, make_dataset: Maker, capsys: pytest.CaptureFixture
) -> None:
    assert run("data", "check", table) == 0
    assert "16 photos, 3 labels" in capsys.readouterr().out
    data = make_dataset(16)
    data.photos[3].write_bytes(data.photos[3].read_bytes()[:70])
    assert run("data", "check", table, "--format", "json") == 4
    assert "003.png" in json.loads(capsys.readouterr().out)["unreadable"][0]
    data = make_dataset(16)
    data.states[:, 2] = NEGATIVE
    write_wide(data, table)
    assert run("data", "check", table) == 4
    assert "problem: 'blue' has no known positive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("image,red\n000.png,maybe\n", 4, "line 2, column 'red': 'maybe' is not a label"),
        ("image,red\n000.png,-1\n", 4, "-1 (1 times in this column) can mean"),
        ("image,red\n000.png,1\n000.png,0\n", 4, "lines 2 and 3 disagree about 'red'"),
        ("image,red\nx.png,1\ny.png,1\n", 4, "2 of 2 photos not found: x.png, y.png"),
        ("", 4, "is empty"),
        ("image,red\n", 4, "has no rows"),
        ("image,labels\n000.png,red|blue\n", 4, "Say what a label that is not listed means"),
    ],
)
def test_wrong_tables_are_one_line_and_leave_nothing_behind(
    table: Path,
    backbone_source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    text: str,
    code: int,
    message: str,
) -> None:
    table.write_text(text)
    out = tmp_path / "out"
    assert run("finetune", table, "--backbone", backbone_source, "-o", out) == code
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("trmml: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not out.exists()
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["predict", "x.png", "--model", "coco18-tinny"], 3, "No model 'coco18-tinny'."),
        (["predict", "x.png", "--model", "org/name"], 3, "does not exist on the Hugging Face Hub"),
        (["predict", "x.png"], 4, "No such file"),
        (["predict", "https://example.org/a.jpg"], 4,
         "https://example.org/a.jpg is a URL; download the photo and pass its path."),
        (["predict", "x.png", "--backbone", "ViT-B-16/openai", "--labels", "a"], 2,
         "use ViT-B-16-quickgelu/openai"),
        (["predict", "x.png", "--backbone", "ViT-B-61/openai", "--labels", "a"], 2,
         "Did you mean 'ViT-B-16'"),
        (["predict"], 2, "Missing argument"),
        (["predict", "x.png", "--threshold", "2"], 2, "'--threshold'"),
        (["predct"], 2, "No such command"),
    ],
)  # fmt: skip
def test_wrong_usage(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert run(*arguments) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_unknown_setting_names_the_nearest(
    table: Path, backbone_source: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = ["--backbone", backbone_source, "-o", tmp_path / "out"]
    assert run("finetune", table, *arguments, "--set", "training.epoch=1") == 2
    assert "Did you mean 'training.epochs'" in capsys.readouterr().err


def test_zero_shot_is_nothing_to_start_from(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("finetune", table, "--model", "zero-shot", "-o", tmp_path / "out") == 2
    assert (
        "there is nothing to load, or to start from. Name its CLIP with backbone= or --backbone"
        in (capsys.readouterr().err)
    )


def test_an_output_that_cannot_be_made_is_noticed_before_any_work(
    table: Path, backbone_source: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "out"
    assert run("finetune", table, "--backbone", backbone_source, "-o", out) == 2
    assert f"Cannot write to {out}" in capsys.readouterr().err


@pytest.mark.parametrize("form", [["--output=~/out"], ["-o", "~/out"]])
def test_a_home_that_no_shell_has_expanded(
    table: Path,
    backbone_source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: list[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run("finetune", table, "--backbone", backbone_source, *form, *QUICK) == 0
    assert (tmp_path / "out" / "metrics.json").is_file()


@pytest.mark.parametrize("output", [".", "{here}", "/"])
def test_the_folder_that_one_is_in_is_no_output(
    table: Path,
    backbone_source: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    out = output.format(here=here)
    assert run("finetune", table, "--backbone", backbone_source, "-o", out, *QUICK) == 2
    expected = "exists already" if output == "/" else "is the folder that you are in"
    assert expected in capsys.readouterr().err


def test_env_prints_what_a_bug_report_needs(capsys: pytest.CaptureFixture) -> None:
    assert run("env", "--format", "json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trmml"] == trmml.__version__
    assert {"torch", "open_clip_torch", "device", "feature cache"} <= set(facts)
    assert run("--version") == 0
    assert capsys.readouterr().out == f"trmml {trmml.__version__}\n"


def test_validation_photos_among_the_training_photos_are_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table.read_text().splitlines()
    split = [f"{line},{'val' if i % 4 == 0 else 'train'}" for i, line in enumerate(lines[1:])]
    table.write_text("\n".join([f"{lines[0]},split", *split]) + "\n")
    assert run("finetune", table, "--val-split", "val", "-o", tmp_path / "out", *QUICK) == 4
    assert "4 photos are for training and for validation" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_are_written_although_a_photo_is_bad(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scores = tmp_path / "out", tmp_path / "scores.csv"
    assert run("finetune", table, "-o", out, *QUICK) == 0
    bad = table.parent / "003.png"
    bad.write_bytes(b"no photo")
    assert run("evaluate", out, table, "--dump-scores", scores, "--save-as", "test") == 1
    assert "15 photos" in capsys.readouterr().out
    rows = list(csv.DictReader(scores.read_text().splitlines()))
    assert len(rows) == 15
    assert bad.name not in {row["image"] for row in rows}
    # What is kept with the model, and shared, does not say where photos lie.
    assert json.loads((out / "metrics.json").read_text())["test"]["skipped"] == 1
    assert run("calibrate", out, table) == 1
    assert f"skipped: {bad}" in capsys.readouterr().err


def test_a_result_does_not_replace_its_table(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table.read_bytes()
    assert run("complete", table, "--model", "coco18-tiny", "-o", table) == 2
    assert run("data", "convert", table, table, "--replace") == 2
    assert capsys.readouterr().err.count("is a table that this command reads") == 2
    assert table.read_bytes() == before


def test_what_is_there_is_replaced_only_when_told_so(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made.csv"
    made.write_text("by hand")
    model = ("--model", "coco18-tiny")
    assert run("data", "convert", table, made) == 2
    assert run("complete", table, *model, "-o", made) == 2
    assert run("export", "coco18-tiny", "-o", made) == 2
    assert (
        capsys.readouterr().err.count(f"{made} exists already; choose another output, or add") == 3
    )
    assert made.read_text() == "by hand"
    assert run("data", "convert", table, made, "--replace") == 0
    assert made.read_text().startswith("image,red,green,blue")


@pytest.mark.parametrize(
    "arguments",
    [
        ("complete", "TABLE", "--model", "coco18-tiny", "-o", "new.csv", "--estimates", "TABLE"),
        ("complete", "TABLE", "--model", "coco18-tiny", "-o", "new.csv", "--html", "TABLE"),
        ("evaluate", "coco18-tiny", "TABLE", "--dump-scores", "TABLE"),
        ("data", "check", "TABLE", "--html", "TABLE"),
    ],
    ids=["estimates", "review", "scores", "check"],
)
def test_no_further_output_replaces_the_table(
    table: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    before = table.read_bytes()
    assert run(*(table if argument == "TABLE" else argument for argument in arguments)) == 2
    assert "is a table that this command reads; choose another output" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_zero_shot_can_fill_a_table(table: Path, tmp_path: Path, backbone_source: str) -> None:
    out = tmp_path / "filled.csv"
    arguments = ("--model", "zero-shot", "--backbone", backbone_source, "-o", out)
    assert run("complete", table, *arguments) == 0
    assert out.read_text().startswith("image,red,green,blue")


def test_patterns_stand_for_photos_where_no_shell_says_so(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("predict", table.parent / "00*.png", "--format", "jsonl") == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert run("predict", table.parent / "x*.png") == 4


def test_arguments_in_the_wrong_order_are_named(
    table: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("data", "check", model) == 4
    assert "is a model and no table; the model is the other argument" in capsys.readouterr().err
    assert run("calibrate", "coco18-tiny", table) == 2
    assert "`trmml models download coco18-tiny --to FOLDER`" in capsys.readouterr().err


def test_an_error_is_never_longer_than_a_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "a.png", "x" * 100_000: 1}))
    assert run("data", "check", tmp_path / "t.jsonl") == 4
    assert len(capsys.readouterr().err) < 2_200


def test_only_a_whole_value_is_a_setting(table: Path, tmp_path: Path) -> None:
    for value in ("3\nvalue2=1", "[" * 5_000, "9" * 5_000):
        assert (
            run("finetune", table, "-o", tmp_path / "o", "--set", f"training.epochs={value}") == 2
        )


def test_columns_that_are_no_labels_are_left_out_everywhere(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table.read_text().splitlines()
    text = [f"{line},blurry,{'val' if i % 4 == 0 else 'train'}" for i, line in enumerate(lines[1:])]
    table.write_text("\n".join([f"{lines[0]},notes,split", *text]) + "\n")
    out, labels = tmp_path / "out", ("--labels", "red,green,blue")
    parts = ("--split", "train", "--val-split", "val")
    assert run("finetune", table, *parts, *labels, "-o", out, *QUICK) == 0
    assert run("calibrate", out, table, "--split", "val", *labels) == 0
    filled = tmp_path / "filled.csv"
    assert run("complete", table, *labels, "--model", out, "-o", filled) in (0, 4)
    capsys.readouterr()
    assert (
        run("complete", table, "--labels", "red,notes", "--model", out, "-o", filled, "--replace")
        == 4
    )
