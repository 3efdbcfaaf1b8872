"""What a support tells of an organ beside its looks: where the organ lies along the slices and within them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from medssl_monai.networks.prototype_heads import PrototypeHead

QUADRANTS = 4


class OrganPlace(NamedTuple):
    """Where a labelled scan shows an organ.

    Attributes:
        middles: index of the middle slice of each part of its slices, (parts,).
        extent: first and last slice as fractions between the ends of the body, (2,).
        quadrants: share of its voxels in each quadrant about the body's centre, (4,), see :func:`slice_quadrants`.
    """

    middles: Tensor
    extent: Tensor
    quadrants: Tensor


def organ_place(mask: Tensor, ends: tuple[int, int], quadrants: Tensor, parts: int) -> OrganPlace | None:
    """Where a mask lies; ``None`` where it is empty.

    Args:
        mask: (H, W, S), true in the organ.
        ends: first and last slice that show the body.
        quadrants: (S, H, W) of :func:`slice_quadrants`.
        parts: equal parts of the organ's slices.
    """
    places = mask.flatten(0, 1).any(dim=0).nonzero().squeeze(1)
    if len(places) == 0:
        return None
    middle = torch.tensor([(2 * part + 1) * len(places) // (2 * parts) for part in range(parts)], device=places.device)
    counts = torch.bincount(quadrants[mask.permute(2, 0, 1)], minlength=QUADRANTS).float()
    extent = (places[[0, -1]] - ends[0]) / max(ends[1] - ends[0], 1)
    return OrganPlace(places[middle], extent, counts / counts.sum())


def body_ends(x: Tensor, threshold: float, share: float) -> tuple[Tensor, Tensor]:
    """First and last slice that show the body, (N,) each; the first and the last of all where none does.

    Args:
        x: volumes (N, C, H, W, S); the first channel counts.
        threshold: value above which a pixel may be of the body.
        share: share of a slice's pixels that are, for the slice to show it.
    """
    return _ends((x[:, 0] > threshold).float().mean(dim=(1, 2)) > share)


def slice_quadrants(slices: Tensor, threshold: float, share: float) -> Tensor:
    """Quadrant of every pixel about the centre of the body in its own slice (thesis 7.4.2.3).

    The centre is that of the box around the rows and columns of which more than ``share`` is above ``threshold``, so
    that a few bright pixels in the air do not move it; of the whole slice where there are none. Quadrant
    2 * (behind the centre along the first axis) + (behind it along the second).

    Args:
        slices: (M, C, H, W); the first channel counts.
        threshold: value above which a pixel may be of the body.
        share: share of a row or column.

    Returns:
        (M, H, W), 0 to 3.
    """
    body = (slices[:, 0] > threshold).float()
    behind = []
    for axis in (1, 2):
        first, last = _ends(body.mean(dim=3 - axis) > share)
        place = torch.arange(int(slices.size(axis + 1)), device=slices.device)
        behind.append((2 * place[None] > (first + last)[:, None]).long())
    return 2 * behind[0][:, :, None] + behind[1][:, None]


def quadrant_log_prior(shares: Tensor, smoothing: float) -> Tensor:
    """log((share + a) / (largest share + a)) with a the ``smoothing``: 0 in an organ's main quadrant, below elsewhere.

    Args:
        shares: (O, 4).
        smoothing: above 0; a quadrant without the organ gets at least log(a / (1 + a)).
    """
    return ((shares + smoothing) / (shares.amax(dim=1, keepdim=True) + smoothing)).log()


class SupportBank(NamedTuple):
    """Prototypes and places of O organs.

    Attributes:
        foreground: (O, parts, P, D), filled up with zeros.
        foreground_valid: (O, parts, P), which rows are prototypes.
        background: (O, parts, B, D).
        background_valid: (O, parts, B).
        extent: (O, 2), the first and last place in any scan; not-a-number for an organ that no scan shows.
        quadrants: (O, 4), the mean over the scans that show the organ; zero where none does.
    """

    foreground: Tensor
    foreground_valid: Tensor
    background: Tensor
    background_valid: Tensor
    extent: Tensor
    quadrants: Tensor


def support_bank(
    head: PrototypeHead,
    features: Sequence[Tensor],
    labels: Sequence[Tensor],
    places: Sequence[Sequence[OrganPlace | None]],
) -> SupportBank:
    """Prototypes of the middle slice of each organ's parts, of every scan that shows the organ, joined.

    Args:
        head: what makes prototypes of features.
        features: of each scan (S, D, h, w); only the middle slices are read.
        labels: of each scan (H, W, S); 1 to O are the organs.
        places: of each scan and organ; at least one organ has a place.
    """
    parts = next(len(place.middles) for scan in places for place in scan if place is not None)
    none = features[0].new_zeros(0, features[0].shape[1])
    cells, extents, quadrants = [], [], []
    for organ, of_scans in enumerate(zip(*places), start=1):
        found = [(scan, place) for scan, place in enumerate(of_scans) if place is not None]
        for part in range(parts):
            middles = [(scan, place.middles[part]) for scan, place in found]
            if not middles:
                cells.append((none, none))
                continue
            masks = torch.stack([labels[scan][..., middle] == organ for scan, middle in middles])
            slices = torch.stack([features[scan][middle] for scan, middle in middles])
            cells.append(head.prototypes(slices, masks[:, None]))
        ends = torch.stack([place.extent for _, place in found] or [none.new_full((2,), torch.nan)])
        extents.append(torch.stack([ends[:, 0].amin(), ends[:, 1].amax()]))
        quadrants.append(
            torch.stack([place.quadrants for _, place in found] or [none.new_zeros(QUADRANTS)]).mean(dim=0)
        )
    (foreground, foreground_valid), (background, background_valid) = (_padded(rows, parts) for rows in zip(*cells))
    return SupportBank(
        foreground, foreground_valid, background, background_valid, torch.stack(extents), torch.stack(quadrants)
    )


def _padded(rows: Sequence[Tensor], parts: int) -> tuple[Tensor, Tensor]:
    """Rows (P_i, D) of O x parts sets as (O, parts, P, D), and which of them count (O, parts, P)."""
    most = max(1, *(len(one) for one in rows))
    lengths = torch.tensor([[len(one)] for one in rows], device=rows[0].device)
    valid = torch.arange(most, device=rows[0].device) < lengths
    bank = torch.stack([pad(one, (0, 0, 0, most - len(one))) for one in rows])
    return bank.view(-1, parts, *bank.shape[1:]), valid.view(-1, parts, most)


def _ends(shown: Tensor) -> tuple[Tensor, Tensor]:
    """First and last true place of each row (N, L); the first and the last of all in a row without one."""
    shown = shown | ~shown.any(dim=1, keepdim=True)
    return shown.long().argmax(dim=1), shown.size(1) - 1 - shown.flip(1).long().argmax(dim=1)
