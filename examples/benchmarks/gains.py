"""How far one method is above another, over several seeds of the same photos."""

from collections.abc import Sequence

import numpy as np


def gain_over_seeds(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean difference of mAP, with its interval of 95 %, of draws of photos and of seeds.

    Args:
        ours: Of each seed, what `resampled_maps` found: the first is of the photos as they are, the
            others of the same draws for both methods.
        others: Of the same seeds.
    """
    gains = np.stack(ours) - np.stack(others)
    num_seeds, num_draws = gains.shape
    chosen = np.random.default_rng(0).integers(num_seeds, size=(num_draws, num_seeds))
    resampled = gains[chosen, np.arange(num_draws)[:, None]].mean(axis=1)[1:]
    return {
        "gain": round(float(gains[:, 0].mean()), 5),
        "low": round(float(np.quantile(resampled, 0.025)), 5),
        "high": round(float(np.quantile(resampled, 0.975)), 5),
    }
