"""Which labelled scan is the best support: each as the only one, all others segmented by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl_monai.core import DataError
from medssl_monai.engines.support import SupportScans
from medssl_monai.networks.cowpro_segmenter import CoWProSegmenter


@dataclass(frozen=True)
class SupportRow:
    """One labelled scan as the only support.

    Attributes:
        name: of the scan.
        dice: (O,), the mean over the other scans that show the organ; not-a-number where none does. An organ that the
            support lacks is never found: 0.
        n_queries: (O,), how many scans that are.
    """

    name: str
    dice: NDArray[np.float64]
    n_queries: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Mean over the organs whose Dice is defined; not-a-number where none is."""
        known = self.dice[~np.isnan(self.dice)]
        return float(known.mean()) if len(known) else float("nan")


@torch.no_grad()
def support_table(segmenter: CoWProSegmenter, scans: SupportScans) -> list[SupportRow]:
    """Leave-one-out: every labelled scan as the only support of all others, by the protocol ``blind``.

    Every scan is encoded once; for each pair only the comparison is computed. The features of all scans are kept (32 MB
    for 30 slices of 256 x 32 x 32). Dice is that of label maps on the grid of the net's input, over all slices.

    Args:
        segmenter: encoder and head, on the scans' device; its bank is as it was afterwards.
        scans: labelled scans, two or more.

    Returns:
        One row a scan, the best mean first; scans of equal means in their order, those without a mean last.

    Raises:
        DataError: for fewer than two scans, or one that shows no organ.
    """
    number = len(scans.names)
    if number < 2:
        raise DataError(
            "labelled scans are compared by segmenting one another", found=f"{number} labelled",
            expected="two or more", advice="Label another scan; with one there is no choice to make.",
        )  # fmt: skip
    for name, label in zip(scans.names, scans.labels):
        if not label.any():
            raise DataError("the mask shows no organ", where=name, advice="Leave the scan out, or outline its organs.")
    bank = dict(segmenter.named_buffers(recurse=False))
    training = segmenter.training
    segmenter.eval()
    try:
        features = [segmenter.encode(volume) for volume in scans.volumes]
        rows = [_row(segmenter, scans, features, support) for support in range(number)]
    finally:
        segmenter.train(training)
        for name, value in bank.items():
            setattr(segmenter, name, value)
    return sorted(rows, key=lambda row: (np.isnan(row.mean), -row.mean))


def _row(segmenter: CoWProSegmenter, scans: SupportScans, features: list[Tensor], support: int) -> SupportRow:
    chosen = slice(support, support + 1)
    segmenter.remember(scans.volumes[chosen], scans.labels[chosen], features[chosen], require_all=False)
    dice = [
        organ_dice(segmenter.forward_encoded(volume[None], found)[0].argmax(dim=0), label, segmenter.num_organs)
        for query, (volume, label, found) in enumerate(zip(scans.volumes, scans.labels, features))
        if query != support
    ]
    table = np.stack(dice)
    counts = (~np.isnan(table)).sum(axis=0)
    means = np.divide(np.nansum(table, axis=0), counts, out=np.full(table.shape[1], np.nan), where=counts > 0)
    return SupportRow(scans.names[support], means, counts)


def organ_dice(predicted: Tensor, truth: Tensor, num_organs: int) -> NDArray[np.float64]:
    """Dice of each organ (O,); not-a-number for one that the truth does not show.

    Args:
        predicted: whole numbers from 0 to O.
        truth: the same, of the same shape.
        num_organs: O.
    """
    size = num_organs + 1
    table = torch.bincount(truth.flatten() * size + predicted.flatten(), minlength=size * size).view(size, size)
    both = table.diagonal()[1:].double().cpu().numpy()
    shown, found = (table.sum(dim=axis)[1:].double().cpu().numpy() for axis in (1, 0))
    dice: NDArray[np.float64] = np.divide(2 * both, shown + found, out=np.full(num_organs, np.nan), where=shown > 0)
    return dice
