"""Tag the photos of a CVAT task: its labels that the model has, where they reach their thresholds.

cvat-cli task auto-annotate TASK --function-file examples/cvat_function.py \
    --function-parameter model=str:runs/mine --allow-unmatched-labels
"""

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from PIL import Image

import trmml


class Tagger:
    """What `cvat-cli` calls for each photo.

    Args:
        model: What `trmml.load_model` takes.
        labels: Labels to tag, parted by commas; all of the model's by default.
    """

    def __init__(self, model: str = "everyday-tiny", labels: str = "") -> None:
        self.model = trmml.load_model(model, labels=labels.split(",") if labels else None)
        self.numbers = {label: number for number, label in enumerate(self.model.labels)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(label, i, type="tag") for label, i in self.numbers.items()]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> list[models.LabeledImageRequest]:
        """Return the tags of a photo; `--conf-threshold` is one threshold for all of them."""
        seen = self.model.predict(image, threshold=context.conf_threshold)
        return [cvataa.tag(self.numbers[tag.label]) for tag in seen.positive]


create = Tagger
