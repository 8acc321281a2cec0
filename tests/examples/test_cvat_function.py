"""The example's function, called as CVAT's own program calls it."""

import logging
from pathlib import Path

import pytest
from conftest import load_example
from PIL import Image
from skimage import data as sample

import trmml

driver = pytest.importorskip("cvat_sdk.auto_annotation.driver", reason="needs cvat-sdk")

LABELS = "person,dog,traffic light"


def annotations(function: object, photo: Image.Image, threshold: float | None) -> list[tuple]:
    """Return the task's number of each tag, with where it comes from, after CVAT's own checks."""
    task = [
        driver.models.Label(id=70 + i, name=name, type="tag", attributes=[], sublabels=[])
        for i, name in enumerate(["person", "traffic light"])
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger(), function.spec.labels, task,
        allow_unmatched_labels=True, conv_mask_to_poly=False,
    )  # fmt: skip
    context = driver._DetectionFunctionContextImpl(
        frame_name="a.png", conf_threshold=threshold, conv_mask_to_poly=False
    )
    tags, shapes = mapper.validate_and_remap(function.detect(context, photo), 5)
    assert not shapes
    return [(tag.label_id, tag.frame, str(tag.source)) for tag in tags]


def test_a_photo_of_a_task_is_tagged(tmp_path: Path) -> None:
    function = load_example("cvat_function.py").create(labels=LABELS)
    assert [(one.id, one.name, str(one.type)) for one in function.spec.labels] == [
        (0, "person", "tag"), (1, "dog", "tag"), (2, "traffic light", "tag")
    ]  # fmt: skip
    photo = Image.fromarray(sample.astronaut())
    scores = trmml.predict(photo, labels=LABELS.split(","))
    assert [tag.label for tag in scores.positive] == ["person"]
    assert annotations(function, photo, None) == [(70, 5, "auto")]
    assert annotations(function, photo, 1.0) == []
    assert annotations(function, photo, 0.0) == [(70, 5, "auto"), (71, 5, "auto")]
