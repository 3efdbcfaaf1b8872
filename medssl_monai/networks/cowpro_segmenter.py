"""Organs of whole volumes by the prototypes of one labelled scan, or a few."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medssl_monai.networks.organ_confidence import organ_confidence
from medssl_monai.networks.prototype_heads import PrototypeHead
from medssl_monai.networks.support_memory import (
    QUADRANTS,
    OrganPlace,
    body_ends,
    organ_place,
    quadrant_log_prior,
    slice_quadrants,
    support_bank,
)

QuadrantPrior = Literal["hard", "soft"]
_BANK = ("foreground", "foreground_valid", "background", "background_valid")


class CoWProSegmenter(nn.Module):
    """Encoder, head and a bank of prototypes: for each organ and part of its range (thesis 7.4.2.2), as buffers.

    The bank is written by :meth:`remember` from labelled scans, without gradients, and is part of the state dict. Where
    an organ lies along the slices is kept as fractions between the first and the last slice that show the body, so that
    a new scan needs no label: its slices at the same fractions are compared with the prototypes of their part, all
    others are background. The share of an organ in each quadrant about the centre of the body is kept too: it serves
    as a prior where ``quadrant_prior`` asks for it (thesis 7.4.2.3, which takes it from the query's labels).

    It can be scripted, for volumes and slices of any number and size; a trace holds for the shape of its example.

    Args:
        encoder: images (N, C, H, W) -> features (N, D, h, w), a :class:`DenseEncoder`.
        head: compares features, a :class:`CoWProHead`, :class:`ALPNetHead` or :class:`PANetHead`.
        num_organs: O, labels 1 to O.
        parts: equal parts of an organ's range, each with the prototypes of its middle slice.
        slice_chunk: slices that are encoded at once; it bounds the memory and changes no result. On a CPU a few are
            faster than many, whose features outgrow its cache.
        body_threshold: value of the input above which a pixel may be of the body.
        body_share: share of a slice's pixels that are, for the slice to show the body.
        widen: share of its length by which an organ's range is made longer, half at each end.
        quadrant_prior: ``"hard"``: an organ's logit in a quadrant that holds no more than ``quadrant_share`` of it in
            the supports is what it is outside its range. ``"soft"``: log((share + quadrant_share) / (largest share +
            quadrant_share)) is added to the logit. ``None``: quadrants have no part. It may be set on a model that was
            written with another one.
        quadrant_share: share of an organ's voxels, above 0 and below 0.25.

    Raises:
        ValueError: for values outside their ranges.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: PrototypeHead,
        num_organs: int,
        parts: int = 3,
        slice_chunk: int = 8,
        body_threshold: float = 0.05,
        body_share: float = 0.02,
        widen: float = 0.1,
        quadrant_prior: QuadrantPrior | None = None,
        quadrant_share: float = 0.05,
    ) -> None:
        super().__init__()
        for name, value in (("num_organs", num_organs), ("parts", parts), ("slice_chunk", slice_chunk)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
        if not 0 <= body_share < 1:
            raise ValueError(f"body_share: expected a number from 0 to below 1, got {body_share!r}")
        if not widen >= 0:
            raise ValueError(f"widen: expected a number of at least 0, got {widen!r}")
        if quadrant_prior is not None and quadrant_prior not in get_args(QuadrantPrior):
            raise ValueError(f'quadrant_prior: expected None, "hard" or "soft", got {quadrant_prior!r}')
        if not 0 < quadrant_share < 1 / QUADRANTS:  # some quadrant must be left
            raise ValueError(f"quadrant_share: expected a number above 0, below 0.25, got {quadrant_share!r}")
        self.encoder, self.head = encoder, head
        self.num_organs, self.parts, self.slice_chunk = num_organs, parts, slice_chunk
        self.body_threshold, self.body_share, self.widen = float(body_threshold), float(body_share), float(widen)
        self.quadrant_prior, self.quadrant_share = quadrant_prior, float(quadrant_share)
        self.foreground: Tensor
        self.foreground_valid: Tensor
        self.background: Tensor
        self.background_valid: Tensor
        self.extent: Tensor
        self.quadrants: Tensor
        self.absence_threshold: Tensor
        for name in _BANK:
            empty = torch.zeros(num_organs, parts, 0, dtype=torch.bool)
            self.register_buffer(name, empty if name.endswith("valid") else torch.zeros(num_organs, parts, 0, 0))
        self.register_buffer("extent", torch.full((num_organs, 2), torch.nan))
        self.register_buffer("quadrants", torch.zeros(num_organs, QUADRANTS))
        self.register_buffer("absence_threshold", torch.full((num_organs,), torch.nan))

    @torch.no_grad()
    def encode(self, volume: Tensor) -> Tensor:
        """Features (S, D, h, w) of all slices of one volume (C, H, W, S), in chunks, as for inference."""
        training = self.training
        self.eval()
        try:
            chunks = torch.split(volume.permute(3, 0, 1, 2), self.slice_chunk)
            return torch.cat([self.encoder(chunk) for chunk in chunks])
        finally:
            self.train(training)

    @torch.no_grad()
    def remember(
        self,
        volumes: Sequence[Tensor],
        labels: Sequence[Tensor],
        features: Sequence[Tensor] | None = None,
        require_all: bool = True,
    ) -> None:
        """Write the bank from labelled scans; what was in it is replaced, and no organ has an absence threshold.

        Of each part of an organ's slices the middle one is taken, of every scan that shows the organ.

        Args:
            volumes: of shape (C, H, W, S), the last axis along the slices, in the units of the net's input.
            labels: of shape (H, W, S), whole numbers; 1 to O are the organs.
            features: of :meth:`encode` for each volume, where they are known; they are computed otherwise.
            require_all: ``False``: an organ that no scan shows is left out, and nothing is ever taken for it.

        Raises:
            ValueError: for shapes that do not fit, or an organ that no scan shows.
        """
        if len(volumes) == 0 or len(volumes) != len(labels):
            raise ValueError(f"expected as many labels as volumes, and at least one; got {len(labels)}, {len(volumes)}")
        if features is not None and [len(one) for one in features] != [volume.shape[-1] for volume in volumes]:
            raise ValueError("features: expected those of every slice of every volume, as encode() gives them")
        for number, (volume, label) in enumerate(zip(volumes, labels)):
            if volume.ndim != 4 or label.shape != volume.shape[1:]:
                raise ValueError(
                    f"scan {number}: expected a volume (C, H, W, S) and labels (H, W, S), got {tuple(volume.shape)} "
                    f"and {tuple(label.shape)}"
                )
        places = [self.organ_places(volume, label) for volume, label in zip(volumes, labels)]
        missing = [organ for organ, found in enumerate(zip(*places), start=1) if not any(found)]
        if missing and (require_all or len(missing) == self.num_organs):
            raise ValueError(f"labels: no scan shows label {missing[0]}; expected every label from 1 to "
                             f"{self.num_organs} in one scan at least")  # fmt: skip
        if features is None:
            features = [self._encode_middles(volume, found) for volume, found in zip(volumes, places)]
        for name, value in support_bank(self.head, features, labels, places)._asdict().items():
            setattr(self, name, value.to(getattr(self, name).dtype))
        self.absence_threshold = torch.full_like(self.absence_threshold, torch.nan)

    def organ_places(self, volume: Tensor, label: Tensor) -> list[OrganPlace | None]:
        """Where a labelled scan (C, H, W, S), with labels (H, W, S), shows each organ; ``None`` for one it lacks."""
        first, last = body_ends(volume[None], self.body_threshold, self.body_share)
        quadrants = slice_quadrants(volume.permute(3, 0, 1, 2), self.body_threshold, self.body_share)
        masks = (label == organ for organ in range(1, self.num_organs + 1))
        return [organ_place(mask, (int(first), int(last)), quadrants, self.parts) for mask in masks]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of background and organs; their softmax gives probabilities, their largest the label.

        An organ's logit is the difference of its foreground's and its background's score, that of the background is 0.
        Outside its range an organ has minus twice the head's scale. The quadrant prior changes it as the class says.

        Args:
            x: volumes (N, C, H, W, S) with the slices along the last axis; or slices (N, C, H, W), or volumes of a
                single one: their place is not known, and they are compared with the prototypes of all parts.

        Returns:
            (N, 1 + O, H, W, S), or (N, 1 + O, H, W). Before the bank is written everything is background, and a warning
            says so: tools that look at a network without weights see its shapes.

        Raises:
            ValueError: for another number of dimensions.
        """
        self._check(x, required=False)
        if x.dim() == 5 and int(x.size(4)) > 1:
            place, low, high = self._fractions(x)
            return self._volumes(x, place, low, high, self.widen)
        slices = x if x.dim() == 4 else x[..., 0]
        number = int(x.size(0))
        part = torch.full([number, self.num_organs], -1, dtype=torch.long, device=x.device)
        logits = self._logits(slices, part, ~self.extent[:, 0].isnan().expand(number, self.num_organs))
        return logits if x.dim() == 4 else logits.unsqueeze(-1)

    def forward_encoded(self, x: Tensor, features: Tensor) -> Tensor:
        """The same for one volume whose features are known: what it costs is the comparison only.

        Args:
            x: one volume (1, C, H, W, S).
            features: (S, D, h, w) of :meth:`encode`.

        Returns:
            (1, 1 + O, H, W, S).

        Raises:
            ValueError: for shapes that do not fit, or before the bank is written.
        """
        self._check(x)
        if x.ndim != 5 or len(x) != 1 or len(features) != x.shape[4]:
            raise ValueError(
                f"expected one volume (1, C, H, W, S) and the features of its slices, got {tuple(x.shape)} and "
                f"{tuple(features.shape)}"
            )
        return self._volumes(x, *self._fractions(x), self.widen, features)

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

    def confidence(self, logits: Tensor) -> Tensor:
        """Confidence (N, O) of each organ, from 0 to 1, by logits that this net gave; see :func:`organ_confidence`."""
        return organ_confidence(logits, -2 * self.head.scale)

    def absent(self, confidence: Tensor) -> Tensor:
        """Whether each organ seems absent, (N, O): its confidence (N, O) lies below the threshold set on the supports.

        An organ without a threshold is never said to be absent.
        """
        return confidence < self.absence_threshold

    def _fractions(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places of slices as fractions of the body (N, 1, S), and where organs begin and end (O, 1)."""
        first, last = body_ends(x, self.body_threshold, self.body_share)
        place = torch.arange(int(x.size(4)), device=x.device) - first[:, None]
        place = place / (last - first).clamp_min(1)[:, None]
        return place[:, None], self.extent[:, 0, None], self.extent[:, 1, None]

    def _volumes(
        self, x: Tensor, place: Tensor, low: Tensor, high: Tensor, widen: float, features: Tensor | None = None
    ) -> Tensor:
        """Logits of volumes whose slices lie at ``place``, where organs reach from ``low`` to ``high`` (N, O, S)."""
        length = (high - low).nan_to_num()  # an organ that no support shows: nothing lies within its range
        part = (
            ((place - low) / length.clamp_min(1e-6) * self.parts).nan_to_num().floor().clamp(0, self.parts - 1).long()
        )
        inside = (place >= low - 0.5 * widen * length) & (place <= high + 0.5 * widen * length)
        number, size = int(x.size(0)), int(x.size(4))
        rows = [number * size, self.num_organs]
        part = part.expand(number, self.num_organs, size).permute(0, 2, 1).reshape(rows)
        inside = inside.expand(number, self.num_organs, size).permute(0, 2, 1).reshape(rows)
        found = self._logits(x.permute(0, 4, 1, 2, 3).flatten(0, 1), part, inside, features)
        return found.view(number, size, 1 + self.num_organs, int(x.size(2)), int(x.size(3))).permute(0, 2, 3, 4, 1)

    def _logits(self, slices: Tensor, part: Tensor, inside: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (M, 1 + O, H, W) of slices whose part for each organ is known (M, O), -1 for all parts together."""
        grid = [int(slices.size(2)), int(slices.size(3))]
        logits = torch.full(
            [int(slices.size(0)), self.num_organs, grid[0], grid[1]], -2 * self.head.scale, device=slices.device,
            dtype=self.foreground.dtype,
        )  # fmt: skip
        # slices outside every organ's range are not even encoded
        needed = inside.any(dim=1).nonzero().squeeze(1)
        for chosen in torch.split(needed, self.slice_chunk):
            if chosen.numel() == 0:
                break
            found = self.encoder(slices[chosen]) if features is None else features[chosen]
            pixels = self.head.unit(found)[:, None]
            foreground = self._class(pixels, part[chosen], self.foreground, self.foreground_valid)
            background = self._class(pixels, part[chosen], self.background, self.background_valid)
            difference = (foreground - background).view(-1, self.num_organs, int(found.size(2)), int(found.size(3)))
            fine = interpolate(difference, grid, mode="bilinear").to(logits.dtype)
            fine = self.with_prior(fine, slices[chosen])
            logits[chosen] = torch.where(inside[chosen][:, :, None, None], fine, logits[chosen])
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def _class(self, pixels: Tensor, part: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
        """Scores (M, O, L) of one class of every organ, whose prototypes are ``rows`` where they are ``valid``."""
        rows = rows.to(pixels.dtype)
        if bool((part < 0).any()):
            return self.head.class_score(pixels, rows.flatten(1, 2)[None], valid.flatten(1, 2)[None])
        organ = torch.arange(self.num_organs, device=part.device)
        return self.head.class_score(pixels, rows[organ, part], valid[organ, part])

    def with_prior(self, logits: Tensor, slices: Tensor) -> Tensor:
        """Logits (M, O, H, W) of the organs in slices (M, C, H, W), with the quadrant prior where there is one."""
        if self.quadrant_prior is None:
            return logits
        quadrant = slice_quadrants(slices, self.body_threshold, self.body_share)
        shares = self.quadrants.to(logits)
        if self.quadrant_prior == "hard":
            taken = (shares > self.quadrant_share)[:, quadrant].transpose(0, 1)
            return torch.where(taken, logits, -2 * self.head.scale)
        return logits + quadrant_log_prior(shares, self.quadrant_share)[:, quadrant].transpose(0, 1)

    def _encode_middles(self, volume: Tensor, places: Sequence[OrganPlace | None]) -> Tensor:
        """Features (S, D, h, w) of a volume, zero but for the slices that give prototypes."""
        chosen = torch.cat([place.middles for place in places if place is not None] or [volume.new_zeros(1).long()])
        needed = torch.unique(chosen)
        found = self.encode(volume[..., needed])
        return found.new_zeros(volume.shape[-1], *found.shape[1:]).index_copy(0, needed, found)

    def _check(self, x: Tensor, required: bool = True) -> None:
        """Refuse another number of dimensions; and an empty bank where one is ``required``, else warn of it."""
        if x.dim() != 4 and x.dim() != 5:
            raise ValueError(f"expected volumes (N, C, H, W, S) or slices (N, C, H, W), got shape {list(x.shape)}")
        if self.foreground.numel() == 0:
            what = "the bank of prototypes is empty: call remember() with labelled scans, or load a state"
            if required:
                raise ValueError(what)
            warnings.warn(f"{what}; all is background", stacklevel=3)

    def state_like(self, given: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """The own state, its bank in the sizes of ``given``: they depend on the scans that it was written from."""
        state = self.state_dict()
        for name in _BANK:
            stored = given.get(f"{prefix}{name}")
            if isinstance(stored, Tensor) and stored.shape[:2] == (self.num_organs, self.parts):
                state[name] = getattr(self, name).new_zeros(stored.shape)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take a bank of any size."""
        for name, value in self.state_like(state_dict, prefix).items():
            if name in _BANK:
                setattr(self, name, value)
        super()._load_from_state_dict(state_dict, prefix, *others)  # type: ignore[no-untyped-call]
