import copy
import re
from typing import Any

import pytest
from huggingface_hub import ModelCard

from trmml.config.groups import FinetuneConfig
from trmml.errors import ArtifactError
from trmml.zoo.card import CardFacts, model_card, plain

LABELS = ["dog", "<script>alert(1)</script>", "[red]|`b`", "two\nlines", "日本語", "a_b*c"]


def made(**changes: Any) -> CardFacts:
    metrics = {
        "images": 7,
        "mAP": 0.123456,
        "at_thresholds": {"label_f1": 0.5, "overall_f1": 0.25},
        "per_label": {"dog": {"AP": 0.75, "known_positives": 3}},
    }
    parts: dict[str, Any] = {
        "config": {
            "trmml_version": "0.1.0",
            "labels": LABELS,
            "matching": {"way": "text-region"},
            "photo": {"image_size": 224},
            "backbone": {"source": "small-clip", "sha256": "0" * 64},
        },
        "calibration": {
            "method": "by hand",
            "global_threshold": 0.5,
            "thresholds": dict.fromkeys(LABELS, 0.25),
        },
        "metrics": {"validation": metrics, "test": metrics | {"mAP": 0.5}},
        "finetune": {
            "settings": FinetuneConfig().to_dict(),
            "data": {
                "images": 100,
                "known_share": 0.1,
                "interpretation": "blank is unknown",
                "labels": {"dog": {"positive": 5, "negative": 15, "unknown": 80}},
            },
        },
        "speed": {"megabytes": 12.34, "milliseconds_per_photo": 45.6, "machine": "a | b"},
        "about": {"license": "mit", "title": "Dogs: and more", "dataset_name": "my photos"},
    }
    return CardFacts(**copy.deepcopy(parts | changes))


def test_the_measured_numbers_come_back_from_the_model_index() -> None:
    card = ModelCard(model_card(made(), "acme/dogs"))
    assert card.data.license == "mit"
    found = {result.dataset_split: result for result in card.data.eval_results}
    assert found["validation"].metric_value == 0.123456
    assert (found["test"].metric_type, found["test"].metric_value) == ("mAP", 0.5)
    assert found["test"].dataset_name == "my photos"
    assert card.data.model_name == "Dogs: and more"


def test_a_label_has_its_threshold_counts_and_precision_in_one_row() -> None:
    card = model_card(made(), "acme/dogs")
    assert "\n| dog | 0.25 | 5 | 20.0 % | 75.0 | 3 |\n" in card
    assert 'trmml.load_model("acme/dogs")' in card
    assert "Size: 12.3 MB with its CLIP. Speed: 46 ms a photo on one core of a \\| b" in card


def test_every_label_is_one_row_of_six_cells_whatever_its_name() -> None:
    lines = model_card(made(), "acme/dogs").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| label |")) + 2
    rows = lines[start : start + len(LABELS)]
    for row in rows:
        assert row.replace("\\|", "").count("|") == 7
        assert "<" not in row
    assert lines[start + len(LABELS)] == ""


def test_text_is_shown_as_it_is() -> None:
    assert plain("<b>|x|\n`y`") == "&lt;b&gt;\\|x\\| \\`y\\`"


def test_nothing_that_a_folder_says_about_itself_is_active() -> None:
    hostile = "<img src=x onerror=alert(1)>\n\n# Owned"
    facts = made()
    facts.config["trmml_version"] = hostile
    facts.config["backbone"]["source"] = f"`{hostile}"
    facts.finetune["data"]["images"] = hostile
    facts.finetune.update(device=hostile, seconds=hostile, best_epoch=hostile)
    facts.metrics["test"]["images"] = hostile
    text = model_card(facts, "acme/dogs").partition("\n---\n")[2]
    outside = re.sub(r"`[^`\n]*`", "", text)  # what is code is shown as it is
    assert "<img" not in outside
    assert "\n# Owned" not in text


def test_a_model_without_any_other_file_has_a_card() -> None:
    card = ModelCard(model_card(made(metrics={}, finetune={}, speed={}, about={}), "runs/shop"))
    assert card.data.eval_results is None
    assert "Nothing was measured." in card.text
    assert "The publisher has stated no license." in card.text
    assert "# shop" in card.text


@pytest.mark.parametrize(
    "changes",
    [
        {"about": {"licence": "mit"}},
        {"metrics": {"test": 3}},
        {"finetune": {"data": {"labels": {"dog": {"positive": "many"}}}}},
        {"calibration": {}},
    ],
)
def test_facts_of_another_form_are_refused(changes: dict) -> None:
    with pytest.raises(ArtifactError, match="The JSON files of runs/shop do not make a card"):
        model_card(made(**changes), "runs/shop")
