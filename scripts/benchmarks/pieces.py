"""Views and intervals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from benchmarks.harness import Row, alone, paired
from medssl_monai.core import seed_transform
from medssl_monai.data.seeding import TransformSeeder
from medssl_monai.metrics import bootstrap_distribution, delong_test
from medssl_monai.metrics.resampling import Resampler
from medssl_monai.transforms import RandColorJitter, RandGrayscale, RandResizedCrop, TwoViews

Array = NDArray[Any]


def views(tiny: bool = False) -> list[Row]:
    """Two augmented views of an RGB image: crop, jitter, grey; and seeding them."""
    rows = []
    for size in (16,) if tiny else (64, 224):
        chain = Compose([RandResizedCrop([size, size]), RandColorJitter(), RandGrayscale()])
        ours, plain = TwoViews(chain), TwoViews(chain)
        image = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
        seeder = TransformSeeder(ours)
        seeder(0, 1)
        seed_transform(plain, 0, 1)
        torch.testing.assert_close(ours(image), plain(image), rtol=0, atol=0)
        milliseconds = alone(lambda ours=ours, image=image: ours(image), 2 if tiny else 50)
        rows.append(Row("views", f"two views of an image of {size} pixels", milliseconds))
    seeds = paired(lambda: seeder(0, 1), lambda: seed_transform(plain, 0, 1), 2 if tiny else 50)
    rows.append(
        seeds.row("views", "seeding the views of one sample", "`set_random_state(seed=...)`", "the views, exactly")
    )
    return rows


def intervals(tiny: bool = False) -> list[Row]:
    """Bootstrap intervals of 120 cases, 1,000 resamples, against a loop over the very same resamples."""
    n, n_boot, repeats = (30, 20, 1) if tiny else (120, 1000, 3)
    random = np.random.default_rng(0)
    truth, first, second = random.integers(0, 2, n), random.random(n), random.random(n)
    weights = np.concatenate(list(Resampler(n, None, n_boot, 0).blocks()), axis=1).T.astype(int)
    resamples = [np.repeat(np.arange(n), counts) for counts in weights]

    def loop(metric: Callable[[Array, Array], float], score: Array) -> Array:
        return np.array([metric(truth[r], score[r]) for r in resamples])

    def ours(metric: str, score: Array) -> Array:
        return bootstrap_distribution(metric, truth, score, n_boot=n_boot, seed=0).values

    def decided(metric: Callable[..., float]) -> Callable[[Array, Array], float]:
        return lambda labels, score: float(metric(labels, score >= 0.5))

    cases: list[tuple[str, Callable[[], Array], Callable[[], Array]]] = [
        ("AUROC", lambda: ours("auroc", first), lambda: loop(roc_auc_score, first)),
        ("accuracy", lambda: ours("accuracy", first), lambda: loop(decided(accuracy_score), first)),
        ("sensitivity", lambda: ours("sensitivity", first), lambda: loop(decided(recall_score), first)),
        ("mean of a value a case (Dice)", lambda: ours("mean", first), lambda: loop(lambda _, s: s.mean(), first)),
        (
            "difference of two AUROCs, paired",
            lambda: ours("auroc", first) - ours("auroc", second),
            lambda: loop(roc_auc_score, first) - loop(roc_auc_score, second),
        ),
    ]
    rows = []
    for name, fast, slow in cases:
        np.testing.assert_allclose(fast(), slow(), rtol=0, atol=1e-12)
        pairs = paired(fast, slow, repeats)
        met = None if name != "AUROC" or tiny else sorted(pairs.ours)[repeats // 2] <= 10
        rows.append(
            pairs.row(
                "intervals",
                f"{name}, {n} cases, {n_boot:,} resamples",
                "loop over NumPy" if "Dice" in name else "loop over scikit-learn",
                "every resample, 1e-12",
                goal="10 ms or less" if name == "AUROC" else None,
                met=met,
            )
        )
    return [*rows, _delong(truth, first, second, repeats)]


def _delong(truth: Array, first: Array, second: Array, repeats: int) -> Row:
    def by_definition() -> float:
        positive, negative = truth == 1, truth == 0
        differences = []
        for score in (first, second):
            wins = [[float(p > q) + 0.5 * float(p == q) for q in score[negative]] for p in score[positive]]
            differences.append(np.array(wins))
        gap = differences[0] - differences[1]
        m, n = gap.shape
        return float(gap.mean(axis=1).var(ddof=1) / m + gap.mean(axis=0).var(ddof=1) / n)

    np.testing.assert_allclose(delong_test(truth, first, second).variance, by_definition(), rtol=1e-10)
    pairs = paired(lambda: delong_test(truth, first, second), by_definition, repeats)
    return pairs.row(
        "intervals", f"DeLong's test, {len(truth)} cases", "the definition, pair by pair", "variance, 1e-10"
    )
