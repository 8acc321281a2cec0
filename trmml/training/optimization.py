"""Optimization: parameter groups, schedule, and the average of the weights."""

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from trmml.config.groups import TrainingConfig
from trmml.matcher.model import TextRegionMatcher

WARM_UP_SHARE = 0.2
"""Of the steps: the rates rise in these, and fall afterwards."""
MAX_GRADIENT_NORM = 1.0
"""Longer gradients are cut to this length."""
STEPS_PER_EPOCH, LEAST_BATCH = 16, 16
LEAST_CYCLE = 6
"""Of fewer steps OneCycleLR makes no curve: a rise of one step is a division by zero to it."""


def effective_batch_size(num_photos: int, config: TrainingConfig) -> int:
    """Return min(batch_size, max(photos // 16, 16)): few photos, too, make 16 steps an epoch."""
    return min(config.batch_size, max(num_photos // STEPS_PER_EPOCH, LEAST_BATCH))


def make_optimizer(model: TextRegionMatcher, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the learned parameters; prompts have their own rate, vectors no weight decay."""
    prompts, matrices, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if name.startswith("backbone."):
            continue
        if ".prompts." in name:
            parameter.requires_grad_(config.train_prompts)
            if config.train_prompts:
                prompts.append(parameter)
        # Queries are points in the joint space: decay would draw them to where nothing is meant.
        elif parameter.ndim < 2 or name.endswith(".queries"):
            vectors.append(parameter)
        else:
            matrices.append(parameter)
    groups = [
        {"params": prompts, "lr": config.prompt_learning_rate, "weight_decay": 0.0},
        {"params": matrices, "lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": vectors, "lr": config.learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


def make_schedule(optimizer: torch.optim.Optimizer, num_steps: int) -> LRScheduler:
    """Rise to each group's own rate in the first fifth of the steps, then fall to nearly 0."""
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=max(num_steps, LEAST_CYCLE),
        pct_start=WARM_UP_SHARE,
        cycle_momentum=False,
    )


class AveragedWeights:
    """Exponential moving average of the trained parameters, warmed up over the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the current values."""
        self.decay = decay
        self.steps = 0
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        # The first weights are noise, which a long memory would keep for the whole of a short run.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, average in self.averages.items():
            average.lerp_(self.parameters[name], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange parameters and averages; calling it again undoes it."""
        for name, average in self.averages.items():
            # In place: the optimizer holds these very tensors.
            current = self.parameters[name].detach().clone()
            self.parameters[name].copy_(average)
            average.copy_(current)

    def state(self) -> dict[str, Tensor | int | dict[str, Tensor]]:
        """Return what a checkpoint needs."""
        return {"steps": self.steps, "averages": self.averages}

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Continue from a checkpoint."""
        self.steps = state["steps"]
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])
