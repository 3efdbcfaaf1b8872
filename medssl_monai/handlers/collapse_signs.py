"""By what signs the collapse watch tells that embeddings have collapsed, and what was measured to choose them.

Trainings of ResNet-18 (an eighth or a quarter of its width, CIFAR stem, SGD at 0.03 or 0.06 with batches of 64 or 128
unless said) on BreastMNIST and RetinaMNIST at 28 pixels, 2 to 30 epochs each, 128 images watched. Ranges over epochs
and runs, each number relative to the same network before its first step:

==========================================  ==============  ===============  ===============
loss at its temperature (projector)         effective rank  median length    alignment ratio
==========================================  ==============  ===============  ===============
MIOv3 at 0.07 (BatchNorm)                   0.05 to 0.15    130 to 1,700     0.66 to 0.93
MIOv3 at 0.07 (no BatchNorm)                0.02 to 0.06    1e14 to 1e15     0.58 to 1.09
MIOv3 at 0.07, LARS at 0.1 (BatchNorm)      0.67 to 0.73    33 to 70         1.00 to 1.04
MIOv3 at 0.07, LARS at 0.1 (no BatchNorm)   0.19 to 0.41    1.1e5 to 1.9e5   0.81 to 0.95
MIOv3 at 0.1 (BatchNorm)                    0.08 to 0.13    10 rising to 38  0.84 to 0.92
MIOv3 at 0.1 (no BatchNorm)                 0.03            3e8 to 2.5e9     0.77 to 0.79
MIOv3 at 0.2 (no BatchNorm)                 0.04 to 0.08    240 to 970       0.58 to 0.94
MIOv3 at 0.2 and 0.5 (BatchNorm)            0.66 to 0.99    1.1 to 1.2       0.61 to 0.95
MIOv3 at 0.5 (no BatchNorm)                 0.43 to 0.56    0.7 to 1.7       0.77 to 0.86
MIOv2 at 0.2 (either)                       0.09 to 0.71    0.5 to 7.6       0.46 to 0.72
MoCo v2 (either)                            0.15 to 0.96    0.7 to 1.1       0.59 to 0.91
NT-Xent, DCL, L_Combo, DySTreSS, MIOv1      0.26 to 0.96    0.6 to 3.8       0.34 to 0.92
==========================================  ==============  ===============  ===============

Steps of exploding losses throw the weights so far out that embeddings get hundreds of times as long, behind BatchNorm
by its factors; the gradient of a loss of cosines falls with the length, so that they stay there, in few directions. The
rank alone does not tell: MIOv2 uses as few directions and knows the images well. Nor do uniformity (-1.1 to -1.9 of
both, with BatchNorm) and spread (without BatchNorm it rises in some collapses).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from medssl_monai.metrics.embedding import alignment, collapse_warning, effective_rank, spread, tolerance, uniformity

# each limit is a pair: where a collapse begins, and what must be passed for it to be over, so that a value that lies
# near the limit does not warn again and again; all but _APART are relative to the network before its first step
#: effective rank of embeddings in few directions
_FEW_DIRECTIONS = (0.25, 0.3)
#: effective rank of embeddings in nearly none
_HARDLY_ANY_DIRECTION = (0.1, 0.125)
#: median length of embeddings that lie far out: 2.5 times below those of MIOv3 at 0.07 by SGD, and as much above the
#: longest of healthy trainings (20, of L_Combo without BatchNorm after 50 steps at a constant 0.06 on 64 images)
_FAR_OUT = (50.0, 35.0)
#: alignment ratio of embeddings that know an image hardly better than untrained ones
_HARDLY_NEARER = (0.75, 0.7)
#: alignment ratio of embeddings that do not know an image at all; random encoders have 0.6 to 0.95, by how strong the
#: augmentation is, trained ones less
_APART = (0.99, 0.98)
#: it has been seen at this or less, so that there was something to lose: some random encoders have 1 themselves
_ONCE_NEARER = 0.95
#: pairs of views from which their ratio is known well enough to say so
_FEWEST_PAIRS = 32
#: fewer images say nothing (see :func:`collapse_warning`)
FEWEST = 10
#: what can be done about a collapse
REMEDY = (
    "raise temperature (MIOv3 falls apart at 0.07, thesis table 5.8), lower learning_rate or lengthen its warm-up, put "
    "BatchNorm into the projector, or choose another loss_name."
)


def measure(z1: np.ndarray, z2: np.ndarray, labels: np.ndarray | None = None) -> dict[str, float]:
    """What embeddings of two views are like.

    Args:
        z1: embeddings of the first views, shape (N, D).
        z2: of the second views, shape (N, D).
        labels: class indices, shape (N,), negative ones unknown; ``None`` where there are none.

    Returns:
        The values by name, NaN where they have none; see :class:`CollapseWatch`.
    """
    both = np.concatenate([z1, z2]).astype(np.float64)
    names = ("alignment", "uniformity", "effective_rank", "spread", "alignment_ratio", "length")
    values = dict.fromkeys(names, math.nan)
    lengths = np.linalg.norm(both, axis=1)
    if np.isfinite(lengths).all() and lengths.all():
        values["alignment"] = alignment(z1, z2)
        values["uniformity"] = uniformity(z1) if len(z1) > 1 else math.nan
        values["effective_rank"] = effective_rank(z1, center=True)
        values["spread"] = spread(z1)
        values["alignment_ratio"] = _alignment_ratio(*np.split(both / lengths[:, None], 2))
        values["length"] = float(np.median(lengths))
        if labels is not None and not math.isnan(similar := tolerance(z1, labels)):
            values["tolerance"] = similar
    return values


def find_collapse(
    z1: np.ndarray,
    z2: np.ndarray,
    values: Mapping[str, float],
    start: Mapping[str, float] | None = None,
    nearest: float | None = None,
    collapsed: bool = False,
) -> str | None:
    """Say in words whether embeddings have collapsed; ``None`` where they have not, or are fewer than ten.

    The signs are those of :class:`CollapseWatch`.

    Args:
        z1: embeddings of the first views, shape (N, D).
        z2: of the second views, shape (N, D).
        values: what :func:`measure` found of them.
        start: what it found before the first step; ``None`` where that is not known, and signs that need it are silent.
        nearest: lowest alignment ratio that was seen before; ``None`` where that is not known, and it is taken for low.
        collapsed: whether they were collapsed at the last look; they then are until every sign is passed clearly.
    """
    found = collapse_warning(z1) or collapse_warning(z2)
    if found is not None or len(z1) < FEWEST:
        return found
    limit, rank, ratio = int(collapsed), values["effective_rank"], values["alignment_ratio"]
    if start is not None:
        # comparisons with NaN are false: without numbers before the first step these signs are silent
        hardly_nearer = ratio > _HARDLY_NEARER[limit] * start["alignment_ratio"]
        directions = f"effective rank {rank:.1f}, {start['effective_rank']:.1f} before the first step"
        if values["length"] > _FAR_OUT[limit] * start["length"] and (
            rank < _FEW_DIRECTIONS[limit] * start["effective_rank"] or hardly_nearer
        ):
            longer = values["length"] / start["length"]
            return (
                f"the embeddings have collapsed: steps too large have made them {longer:.3g} times as long as before "
                f"the first one, and hardly any gradient reaches them there ({directions})"
            )
        if rank < _HARDLY_ANY_DIRECTION[limit] * start["effective_rank"] and hardly_nearer:
            return f"the embeddings have collapsed to few directions ({directions}) and hardly know an image again"
    once_nearer = nearest is None or nearest < _ONCE_NEARER
    if len(z1) >= _FEWEST_PAIRS and once_nearer and ratio > _APART[limit]:
        return (
            f"the two views of an image lie as far apart as views of different images ({ratio:.3f} of their squared "
            "distance), so that the embedding does not know an image again"
        )
    return None


def _alignment_ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of unit vectors of equal index over that of unequal index."""
    own = (first * second).sum()
    n = len(first)
    # |a - b|^2 = 2 - 2 a.b, and the sum of a.b over all pairs is the product of the sums
    others = 2.0 - 2.0 * (float(first.sum(axis=0) @ second.sum(axis=0)) - own) / max(n * (n - 1), 1)
    return float((2.0 - 2.0 * own / n) / others) if n > 1 and others > 0 else math.nan
