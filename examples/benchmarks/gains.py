"""How far one method is above another, over several seeds of the same photos."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t


def gain_over_seeds(ours: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the mean difference of mAP, with its interval of 95 %, over photos and over seeds.

    Photos are drawn anew. Draws of three seeds would differ too little, so the variance of their mean is
    added to that of the draws; the interval is that of Student's t, with the degrees of freedom of Welch
    and Satterthwaite. Of a single seed it is over photos alone.

    Args:
        ours: Of each seed, what `resampled_maps` found: the first is of the photos as they are, the
            others of the same draws for both methods.
        others: Of the same seeds.
    """
    gains = np.stack(ours) - np.stack(others)
    of_seeds, of_draws = gains[:, 0], gains[:, 1:].mean(axis=0)
    num_seeds = len(of_seeds)
    by_photos = of_draws.var(ddof=1)
    by_seeds = of_seeds.var(ddof=1) / num_seeds if num_seeds > 1 else 0.0
    variance, freedom = by_photos + by_seeds, np.inf
    if by_seeds > 0:
        freedom = (num_seeds - 1) * (variance / by_seeds) ** 2
    gain, reach = of_seeds.mean(), student_t.ppf(0.975, freedom) * variance**0.5
    ends = {"gain": gain, "low": gain - reach, "high": gain + reach}
    return {name: round(float(value), 5) for name, value in ends.items()}
