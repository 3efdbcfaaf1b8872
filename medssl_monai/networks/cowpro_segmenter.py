"""Organs of whole volumes by the prototypes of one labelled scan, or a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from medssl_monai.networks.prototype_heads import PrototypeHead

_BANK = ("foreground", "foreground_valid", "background", "background_valid")


class CoWProSegmenter(nn.Module):
    """Encoder, head and a bank of prototypes: for each organ and part of its range (thesis 7.4.2.2), as buffers.

    The bank is written by :meth:`remember` from labelled scans, without gradients, and is part of the state dict. Where
    an organ lies along the slices is kept as fractions between the first and the last slice that show the body, so that
    a new scan needs no label: its slices at the same fractions are compared with the prototypes of their part, all
    others are background.

    Args:
        encoder: images (N, C, H, W) -> features (N, D, h, w), a :class:`DenseEncoder`.
        head: compares features, a :class:`CoWProHead`, :class:`ALPNetHead` or :class:`PANetHead`.
        num_organs: O, labels 1 to O.
        parts: equal parts of an organ's range, each with the prototypes of its middle slice.
        slice_chunk: slices that are encoded at once; it bounds the memory and changes no result.
        body_threshold: value of the input above which a pixel may be of the body.
        body_share: share of a slice's pixels that are, for the slice to show the body.
        widen: share of its length by which an organ's range is made longer, half at each end.

    Raises:
        ValueError: for values outside their ranges.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: PrototypeHead,
        num_organs: int,
        parts: int = 3,
        slice_chunk: int = 32,
        body_threshold: float = 0.05,
        body_share: float = 0.02,
        widen: float = 0.1,
    ) -> None:
        super().__init__()
        for name, value in (("num_organs", num_organs), ("parts", parts), ("slice_chunk", slice_chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
        if not 0 <= body_share < 1:
            raise ValueError(f"body_share: expected a number from 0 to below 1, got {body_share!r}")
        if not widen >= 0:
            raise ValueError(f"widen: expected a number of at least 0, got {widen!r}")
        self.encoder, self.head = encoder, head
        self.num_organs, self.parts, self.slice_chunk = num_organs, parts, slice_chunk
        self.body_threshold, self.body_share, self.widen = float(body_threshold), float(body_share), float(widen)
        self.foreground: Tensor
        self.foreground_valid: Tensor
        self.background: Tensor
        self.background_valid: Tensor
        self.extent: Tensor
        for name in _BANK:
            empty = torch.zeros(num_organs, parts, 0, dtype=torch.bool)
            self.register_buffer(name, empty if name.endswith("valid") else torch.zeros(num_organs, parts, 0, 0))
        self.register_buffer("extent", torch.full((num_organs, 2), torch.nan))

    @torch.no_grad()
    def remember(self, volumes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        """Write the bank from labelled scans; what was in it is replaced.

        Of each part of an organ's slices the middle one is taken, of every scan that shows the organ.

        Args:
            volumes: of shape (C, H, W, S), the last axis along the slices, in the units of the net's input.
            labels: of shape (H, W, S), whole numbers; 1 to O are the organs.

        Raises:
            ValueError: for shapes that do not fit, or an organ that no scan shows.
        """
        if len(volumes) == 0 or len(volumes) != len(labels):
            raise ValueError(f"expected as many labels as volumes, and at least one; got {len(labels)}, {len(volumes)}")
        for number, (volume, label) in enumerate(zip(volumes, labels)):
            if volume.ndim != 4 or label.shape != volume.shape[1:]:
                raise ValueError(
                    f"scan {number}: expected a volume (C, H, W, S) and labels (H, W, S), got {tuple(volume.shape)} "
                    f"and {tuple(label.shape)}"
                )
        training = self.training
        self.eval()
        try:
            cells, extents = [], []
            for organ in range(1, self.num_organs + 1):
                found = [self._of_scan(volume, label == organ) for volume, label in zip(volumes, labels)]
                shown = [one for one in found if one is not None]
                if not shown:
                    raise ValueError(f"labels: no scan shows label {organ}; expected every label from 1 to "
                                     f"{self.num_organs} in one scan at least")  # fmt: skip
                ends = torch.stack([extent for _, extent in shown])
                extents.append(torch.stack([ends[:, 0].amin(), ends[:, 1].amax()]))
                for part in range(self.parts):
                    slices = torch.stack([chosen[part][0] for chosen, _ in shown])
                    masks = torch.stack([chosen[part][1] for chosen, _ in shown])
                    cells.append(self.head.prototypes(self.encoder(slices), masks[:, None]))
        finally:
            self.train(training)
        for name, rows in zip(("foreground", "background"), zip(*cells)):
            bank, valid = _padded(rows)
            setattr(self, name, bank.view(self.num_organs, self.parts, *bank.shape[1:]))
            setattr(self, f"{name}_valid", valid.view(self.num_organs, self.parts, -1))
        self.extent = torch.stack(extents).to(self.extent)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of background and organs; their softmax gives probabilities, their largest the label.

        An organ's logit is the difference of its foreground's and its background's score, that of the background is 0.
        Outside its range an organ has minus twice the head's scale.

        Args:
            x: volumes (N, C, H, W, S) with the slices along the last axis, or slices (N, C, H, W) whose place is not
                known and which are compared with the prototypes of all parts.

        Returns:
            (N, 1 + O, H, W, S), or (N, 1 + O, H, W).

        Raises:
            ValueError: for another number of dimensions, or before the bank is written.
        """
        self._check(x)
        if x.dim() == 4:
            number = int(x.size(0))
            part = torch.full([number, self.num_organs], -1, dtype=torch.long, device=x.device)
            return self._logits(x, part, torch.ones_like(part, dtype=torch.bool))
        first, last = self._body(x)
        place = torch.arange(int(x.size(4)), device=x.device) - first[:, None]
        place = place / (last - first).clamp_min(1)[:, None]
        return self._volumes(x, place[:, None], self.extent[:, 0, None], self.extent[:, 1, None], self.widen)

    def forward_within(self, x: Tensor, ranges: Tensor) -> Tensor:
        """The same where each organ's slices are known (thesis 7.4.2.1, which takes them from the query's labels).

        Args:
            x: volumes (N, C, H, W, S).
            ranges: (N, O, 2), an organ's first and last slice; a last below the first for an organ that is not there.

        Returns:
            (N, 1 + O, H, W, S).

        Raises:
            ValueError: for shapes that do not fit, or before the bank is written.
        """
        self._check(x)
        if x.ndim != 5 or ranges.shape != (len(x), self.num_organs, 2):
            raise ValueError(
                f"ranges: expected ({len(x)}, {self.num_organs}, 2) for volumes (N, C, H, W, S), got "
                f"{tuple(ranges.shape)} for {tuple(x.shape)}"
            )
        place = torch.arange(x.shape[4], device=x.device, dtype=torch.float32)[None, None]
        return self._volumes(x, place, ranges[..., 0, None], ranges[..., 1, None], 0.0)

    def _volumes(self, x: Tensor, place: Tensor, low: Tensor, high: Tensor, widen: float) -> Tensor:
        """Logits of volumes whose slices lie at ``place``, where organs reach from ``low`` to ``high`` (N, O, S)."""
        length = high - low
        part = ((place - low) / length.clamp_min(1e-6) * self.parts).floor().clamp(0, self.parts - 1).long()
        inside = (place >= low - 0.5 * widen * length) & (place <= high + 0.5 * widen * length)
        number, size = int(x.size(0)), int(x.size(4))
        rows = [number * size, self.num_organs]
        part = part.expand(number, self.num_organs, size).permute(0, 2, 1).reshape(rows)
        inside = inside.expand(number, self.num_organs, size).permute(0, 2, 1).reshape(rows)
        found = self._logits(x.permute(0, 4, 1, 2, 3).flatten(0, 1), part, inside)
        return found.view(number, size, *found.shape[1:]).permute(0, 2, 3, 4, 1)

    def _logits(self, slices: Tensor, part: Tensor, inside: Tensor) -> Tensor:
        """Logits (M, 1 + O, H, W) of slices whose part for each organ is known (M, O), -1 for all parts together."""
        grid = [int(slices.size(2)), int(slices.size(3))]
        logits = torch.full(
            [int(slices.size(0)), self.num_organs, *grid], -2 * self.head.scale, device=slices.device,
            dtype=self.foreground.dtype,
        )  # fmt: skip
        # slices outside every organ's range are not even encoded
        needed = inside.any(dim=1).nonzero().squeeze(1)
        for chosen in torch.split(needed, self.slice_chunk) if len(needed) else ():
            features = self.encoder(slices[chosen])
            pixels = self.head.unit(features)[:, None]
            scores = [self._class(pixels, part[chosen], name) for name in ("foreground", "background")]
            difference = (scores[0] - scores[1]).view(-1, self.num_organs, *features.shape[2:])
            fine = interpolate(difference, grid, mode="bilinear").to(logits.dtype)
            logits[chosen] = torch.where(inside[chosen][:, :, None, None], fine, logits[chosen])
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def _class(self, pixels: Tensor, part: Tensor, name: str) -> Tensor:
        """Scores (M, O, L) of one class of every organ."""
        rows, valid = getattr(self, name).to(pixels.dtype), getattr(self, f"{name}_valid")
        if bool((part < 0).any()):
            return self.head.class_score(pixels, rows.flatten(1, 2)[None], valid.flatten(1, 2)[None])
        organ = torch.arange(self.num_organs, device=part.device)
        return self.head.class_score(pixels, rows[organ, part], valid[organ, part])

    def _of_scan(self, volume: Tensor, mask: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor] | None:
        """The middle slice of each part with its mask, and the organ's range; ``None`` where the scan lacks it."""
        places = mask.any(dim=0).any(dim=0).nonzero().squeeze(1)
        if len(places) == 0:
            return None
        first, last = (int(end) for end in self._body(volume[None]))
        extent = (places[[0, -1]] - first) / max(last - first, 1)
        middle = [int(places[int((2 * part + 1) * len(places) / (2 * self.parts))]) for part in range(self.parts)]
        return [(volume[..., place], mask[..., place]) for place in middle], extent

    def _body(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First and last slice that show the body, (N,) each; the first and the last of all where none does."""
        shown = (x[:, 0] > self.body_threshold).float().mean(dim=(1, 2)) > self.body_share
        shown = shown | ~shown.any(dim=1, keepdim=True)
        size = shown.size(1)
        return shown.long().argmax(dim=1), size - 1 - shown.flip(1).long().argmax(dim=1)

    def _check(self, x: Tensor) -> None:
        if x.dim() not in (4, 5):
            raise ValueError(f"expected volumes (N, C, H, W, S) or slices (N, C, H, W), got shape {tuple(x.shape)}")
        if self.foreground.numel() == 0:
            raise ValueError("the bank of prototypes is empty: call remember() with labelled scans, or load a state")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take a bank of any size: how many prototypes there are depends on the scans it was written from."""
        for name in _BANK:
            stored = state_dict.get(f"{prefix}{name}")
            if isinstance(stored, Tensor) and stored.shape[:2] == (self.num_organs, self.parts):
                setattr(self, name, getattr(self, name).new_zeros(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *others)  # type: ignore[no-untyped-call]


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows (P_i, D) of several sets as (sets, P, D), and which of them count (sets, P)."""
    most = max(1, *(len(one) for one in rows))
    lengths = torch.tensor([[len(one)] for one in rows], device=rows[0].device)
    valid = torch.arange(most, device=rows[0].device) < lengths
    return torch.stack([pad(one, (0, 0, 0, most - len(one))) for one in rows]), valid
