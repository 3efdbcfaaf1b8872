"""Labelled scans judged by themselves: each slice segmented by the others, and from that a threshold of absence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from medssl_monai.networks.cowpro_segmenter import CoWProSegmenter
from medssl_monai.networks.organ_confidence import slice_confidence
from medssl_monai.networks.support_memory import body_ends

#: fewer slices with the organ, or without it, say nothing of where one ends and the other begins
MIN_SLICES = 3
_ALL = torch.tensor([0.0, 1.0])


@dataclass(frozen=True)
class OrganCheck:
    """One organ of the labelled scans.

    Attributes:
        dice: of all its slices together, each segmented by the prototypes of the others; ``None`` where no slice has
            another one to be segmented by.
        present: confidences of the slices that show it.
        absent: confidences of the slices of the body that do not.
        threshold: confidence below which it seems absent (:func:`absence_threshold`); ``None`` for none.
    """

    dice: float | None
    present: NDArray[np.float64]
    absent: NDArray[np.float64]
    threshold: float | None


@dataclass(frozen=True)
class SupportCheck:
    """What leaving out one slice at a time gives, for the organs in order."""

    organs: tuple[OrganCheck, ...]

    @property
    def thresholds(self) -> Tensor:
        """(O,), not-a-number where there is none: as the segmenter keeps them."""
        return torch.tensor([np.nan if one.threshold is None else one.threshold for one in self.organs])


def absence_threshold(present: NDArray[np.float64], absent: NDArray[np.float64]) -> float | None:
    """Confidence below which an organ seems absent: half way between the means of slices with and without it.

    Slices of the labelled scans resemble one another more than those of a new scan do. The cut that would part them
    best therefore lies too high for new scans; the middle of the means does not follow a few sure slices.

    Args:
        present: confidences of slices that show the organ.
        absent: of slices that do not.

    Returns:
        The threshold; ``None`` with fewer than three slices of either kind, or where those without the organ are not
        less sure on average.
    """
    if min(len(present), len(absent)) < MIN_SLICES or present.mean() <= absent.mean():
        return None
    return float((present.mean() + absent.mean()) / 2)


@torch.no_grad()
def leave_one_slice_out(
    segmenter: CoWProSegmenter,
    volumes: Sequence[Tensor],
    labels: Sequence[Tensor],
    features: Sequence[Tensor] | None = None,
) -> SupportCheck:
    """Segment every labelled slice by the prototypes that the labelled scans give without it.

    A slice that shows an organ is left out of its scan when the middle slices of the organ's parts are chosen, and is
    compared with those of its own part, of all scans. A slice that does not show it is compared with the nearest part,
    wherever it lies: so the confidences say what the net makes of a place where the organ is not. The quadrant prior is
    that of all slices.

    Args:
        segmenter: encoder and head; its bank is neither used nor changed, but for the quadrants of the prior.
        volumes: labelled scans (C, H, W, S).
        labels: (H, W, S); 1 to O are the organs.
        features: of ``segmenter.encode`` for each scan, where they are known.
    """
    features = [segmenter.encode(volume) for volume in volumes] if features is None else features
    left_out = _LeftOut(segmenter, volumes, labels, features)
    present: list[list[float]] = [[] for _ in range(segmenter.num_organs)]
    absent: list[list[float]] = [[] for _ in range(segmenter.num_organs)]
    counts = np.zeros((segmenter.num_organs, 2))
    for scan, (volume, label) in enumerate(zip(volumes, labels)):
        logits, compared = left_out.logits(scan)
        confidence = slice_confidence(logits[None])[0].double().cpu().numpy()
        predicted = logits.argmax(dim=0)
        first, last = (int(end) for end in body_ends(volume[None], segmenter.body_threshold, segmenter.body_share))
        place = np.arange(label.shape[-1])
        for organ in range(segmenter.num_organs):
            truth, found = label == organ + 1, predicted == organ + 1
            shown = truth.flatten(0, 1).any(dim=0).cpu().numpy()
            with_it = shown & compared[organ]
            without = ~shown & compared[organ] & (place >= first) & (place <= last)
            present[organ] += confidence[organ, with_it].tolist()
            absent[organ] += confidence[organ, without].tolist()
            truth, found = (mask[..., torch.from_numpy(with_it).to(mask.device)] for mask in (truth, found))
            counts[organ] += [2 * int((truth & found).sum()), int(truth.sum()) + int(found.sum())]
    organs = []
    for (both, total), shown_by, not_by in zip(counts, present, absent):
        one, none = np.array(shown_by), np.array(not_by)
        organs.append(OrganCheck(float(both / total) if total else None, one, none, absence_threshold(one, none)))
    return SupportCheck(tuple(organs))


class _LeftOut:
    """Logits of the labelled scans' slices by prototypes of the other slices."""

    def __init__(
        self,
        segmenter: CoWProSegmenter,
        volumes: Sequence[Tensor],
        labels: Sequence[Tensor],
        features: Sequence[Tensor],
    ) -> None:
        self.net, self.volumes, self.labels, self.features = segmenter, volumes, labels, features
        self.places = [segmenter.organ_places(volume, label) for volume, label in zip(volumes, labels)]
        self.prototypes: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def logits(self, scan: int) -> tuple[Tensor, NDArray[np.bool_]]:
        """Logits (1 + O, H, W, S) of a scan, and which slices could be compared with others (O, S)."""
        features, volume = self.features[scan], self.volumes[scan]
        size, organs = len(features), self.net.num_organs
        coarse = features.new_full((size, organs, *features.shape[2:]), -2 * self.net.head.scale)
        tested = np.zeros((organs, size), dtype=np.bool_)
        for organ in range(organs):
            for middles, slices in self._groups(scan, organ).items():
                foreground, background = zip(*(self._prototypes(organ, *middle) for middle in middles))
                score = self.net.head.score(features[slices], (torch.cat(foreground), torch.cat(background)))
                coarse[slices, organ] = (score[:, 1] - score[:, 0]).to(coarse)
                tested[organ, slices] = True
        fine = interpolate(coarse, volume.shape[1:3], mode="bilinear")
        fine = self.net.with_prior(fine, volume.permute(3, 0, 1, 2))
        return torch.cat([torch.zeros_like(fine[:, :1]), fine], dim=1).permute(1, 2, 3, 0), tested

    def _groups(self, scan: int, organ: int) -> dict[tuple[tuple[int, int], ...], list[int]]:
        """Slices of a scan by the (scan, slice) whose prototypes they are compared with."""
        groups: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
        net, volume, label = self.net, self.volumes[scan], self.labels[scan]
        shown = (label == organ + 1).flatten(0, 1).any(dim=0).nonzero().squeeze(1).tolist()
        places = [of[organ] for of in self.places]
        own, others = places[scan], [(k, place) for k, place in enumerate(places) if place is not None and k != scan]
        extents = torch.stack([place.extent for place in ([own] if own else [place for _, place in others])] or [_ALL])
        low, high = float(extents[:, 0].amin()), float(extents[:, 1].amax())
        first, last = (int(end) for end in body_ends(volume[None], net.body_threshold, net.body_share))
        for slice_ in range(len(self.features[scan])):
            rest = [place for place in shown if place != slice_]
            share = ((slice_ - first) / max(last - first, 1) - low) / max(high - low, 1e-6)
            part = int(np.clip(np.floor(share * net.parts + 1e-5), 0, net.parts - 1))
            middles = [(scan, rest[(2 * part + 1) * len(rest) // (2 * net.parts)])] if rest else []
            middles += [(k, int(place.middles[part])) for k, place in others]
            if middles:
                groups[tuple(middles)].append(slice_)
        return groups

    def _prototypes(self, organ: int, scan: int, place: int) -> tuple[Tensor, Tensor]:
        """Prototypes of one slice, made once."""
        key = (organ, scan, place)
        if key not in self.prototypes:
            mask = (self.labels[scan][..., place] == organ + 1)[None, None]
            self.prototypes[key] = self.net.head.prototypes(self.features[scan][place][None], mask)
        return self.prototypes[key]
