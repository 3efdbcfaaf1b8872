"""Episodes of self-supervised segmentation: a slice of a scan, and one superpixel of it as its mask (thesis 7.4.1)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from numpy.typing import NDArray

from medssl_monai.transforms._image import BACKEND, named, unwrap

_INT16 = int(np.iinfo(np.int16).max)


class DropSlicesd(MapTransform):
    """Leave out the slices that show one of some organs, and the mask that says so.

    In the thesis's strict setting (7.4.1.5, last paragraph) an encoder has seen no slice that shows an organ it is
    tested on. Scans without a mask are kept whole: of those nobody knows.

    Args:
        keys: volumes (C, H, W, S); they become plain tensors or arrays, because no affine fits slices with gaps.
        label_key: mask (1, H, W, S) on their grid; it is removed from the data, and may be missing.
        values: of the mask that make a slice be left out.
        allow_missing_keys: whether one of ``keys`` may be missing.

    Raises:
        ValueError: for values that are no positive integers; when called with a volume on another grid than the mask,
            or when no slice is left.
    """

    backend = BACKEND

    def __init__(
        self, keys: KeysCollection, label_key: str, values: Sequence[int], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(values, str) or not values or any(not isinstance(v, int) or v is True or v < 1 for v in values):
            raise ValueError(f"DropSlicesd: values must be positive integers of the mask, got {values!r}")
        self.label_key, self.values = label_key, tuple(values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` without those slices and without the mask."""
        result = dict(data)
        if self.label_key not in result:
            return result
        given = result.pop(self.label_key)
        mask, _ = unwrap(given, "DropSlicesd", dims=4, floating=False)
        shown = torch.isin(mask, torch.tensor(self.values, device=mask.device).to(mask.dtype))
        kept = ~shown.flatten(0, -2).any(dim=0)
        if not kept.any():
            raise ValueError(
                f"every slice shows one of the organs {', '.join(map(str, self.values))}{named(given)}, so that none "
                "is left to learn from; exclude fewer organs, or leave the scan out"
            )
        for key in self.key_iterator(result):
            volume, _ = unwrap(result[key], "DropSlicesd", dims=4, floating=False)
            if volume.shape[1:] != mask.shape[1:]:
                raise ValueError(
                    f"DropSlicesd: {key!r} has shape {tuple(volume.shape)}{named(result[key])}, expected the grid "
                    f"{tuple(mask.shape[1:])} of {self.label_key!r}"
                )
            left = volume[..., kept.to(volume.device)]
            result[key] = left.numpy() if isinstance(result[key], np.ndarray) else left
        return result


class EpisodeSlicesd(MapTransform):
    """Bring a scan and its superpixels to the form in which they are kept and drawn from: (S, H, W), compact.

    The slices come first, so that one lies in one piece on disk; slices without a superpixel are left out. The scan,
    values in [0, 1], becomes float16, half the bytes, at an error of at most 2^-12: a fourth of a grey level of an MR
    scan that was stored with 1,000. Superpixels become int16 where their numbers allow it, else int32.

    Args:
        keys: scans (1, H, W, S).
        superpixels_key: their superpixels (1, H, W, S), 0 outside the body.
        allow_missing_keys: whether one of ``keys`` may be missing.

    Raises:
        ValueError: when called with other shapes, or a scan without any superpixel.
    """

    backend = BACKEND

    def __init__(
        self, keys: KeysCollection, superpixels_key: str = "superpixels", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.superpixels_key = superpixels_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with plain tensors (S, H, W), contiguous."""
        result = dict(data)
        given = result[self.superpixels_key]
        labels = _slices_first(given)
        drawable = labels.flatten(1).any(dim=1)
        if not drawable.any():
            raise ValueError(
                f"no slice has a superpixel{named(given)}: nothing is brighter than the threshold of the body; check "
                "the modality (mr or ct), or lower the threshold"
            )
        labels = labels[drawable]
        result[self.superpixels_key] = labels.to(torch.int16 if int(labels.max()) <= _INT16 else torch.int32)
        for key in self.key_iterator(result):
            scan = _slices_first(result[key])
            if scan.shape[1:] != labels.shape[1:] or len(scan) != len(drawable):
                raise ValueError(
                    f"EpisodeSlicesd: {key!r} has slices first the shape {tuple(scan.shape)}{named(result[key])}, its "
                    f"superpixels have {(len(drawable), *labels.shape[1:])}; expected the same"
                )
            result[key] = scan[drawable].to(torch.float16)
        return result


def _slices_first(volume: NdarrayOrTensor) -> torch.Tensor:
    plain, _ = unwrap(volume, "EpisodeSlicesd", dims=4, floating=False)
    if plain.shape[0] != 1:
        raise ValueError(f"EpisodeSlicesd needs (1, H, W, S), got shape {tuple(plain.shape)}{named(volume)}")
    return plain[0].permute(2, 0, 1).contiguous()


class DrawEpisode(Randomizable, Transform):
    """Draw a slice of a scan and one of its superpixels (thesis eq. 7.1): the support of an episode.

    Each slice with a superpixel of at least ``min_pixels`` pixels is as likely, and each such superpixel of it. Pieces
    that the rim of the body has cut off may be much smaller than the method's ``min_size``.

    Args:
        min_pixels: pixels of a superpixel that may be drawn.

    Raises:
        ValueError: for ``min_pixels`` below 1; when called with other shapes, or with a scan without such a superpixel.
    """

    backend = BACKEND

    def __init__(self, min_pixels: int = 100) -> None:
        if isinstance(min_pixels, bool) or not isinstance(min_pixels, int) or min_pixels < 1:
            raise ValueError(f"DrawEpisode: min_pixels must be a positive integer, got {min_pixels!r}")
        self.min_pixels = min_pixels
        self.position, self.superpixel = 0, 0

    def randomize(self, data: NDArray[np.integer[Any]]) -> None:
        """Draw from superpixels (S, H, W).

        Raises:
            ValueError: when there is none to draw.
        """
        order, chance, largest = self.R.permutation(len(data)), self.R.random_sample(), 0
        for position in order:  # nearly always the first: counting all slices would take longer than reading them
            counts = np.bincount(data[position].ravel())
            counts[0] = 0
            usable = np.flatnonzero(counts >= self.min_pixels)
            if len(usable):
                self.position, self.superpixel = int(position), int(usable[int(chance * len(usable))])
                return
            largest = max(largest, int(counts.max()))
        raise ValueError(
            f"no slice has a superpixel of {self.min_pixels} pixels or more, the largest has {largest}; lower "
            "min_pixels, or leave the scan out"
        )

    def __call__(  # type: ignore[override]
        self, image: NdarrayOrTensor, superpixels: NdarrayOrTensor, randomize: bool = True
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Return the slice and its mask of 0 and 1, both (1, H, W), float32, copies.

        Args:
            image: scan (S, H, W).
            superpixels: its superpixels (S, H, W), integers, 0 where there is none.
            randomize: draw anew; otherwise the last draw is used again.
        """
        scan, _ = unwrap(image, "DrawEpisode", floating=False)
        labels, _ = unwrap(superpixels, "DrawEpisode", floating=False)
        if scan.shape != labels.shape or labels.is_floating_point():
            raise ValueError(
                f"DrawEpisode needs a scan (S, H, W) and integer superpixels of its shape, got {tuple(scan.shape)} and "
                f"{labels.dtype} of {tuple(labels.shape)}{named(image)}"
            )
        if randomize:
            try:
                self.randomize(labels.cpu().numpy())
            except ValueError as error:
                raise ValueError(f"DrawEpisode: {error}{named(image)}") from error
        drawn = scan[self.position].to(torch.float32, copy=True)[None]
        mask = (labels[self.position] == self.superpixel).to(torch.float32)[None]
        return (drawn.numpy(), mask.numpy()) if isinstance(image, np.ndarray) else (drawn, mask)


class DrawEpisoded(Randomizable, MapTransform):
    """Dictionary form of :class:`DrawEpisode`: the same slice of all keys; the superpixels leave the data.

    Args:
        keys: scans (S, H, W).
        superpixels_key: their superpixels.
        mask_key: where the mask goes.
        min_pixels: see :class:`DrawEpisode`.
        allow_missing_keys: whether one of ``keys`` may be missing.
    """

    backend = BACKEND

    def __init__(
        self,
        keys: KeysCollection,
        superpixels_key: str = "superpixels",
        mask_key: str = "mask",
        min_pixels: int = 100,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.superpixels_key, self.mask_key = superpixels_key, mask_key
        self.transform = DrawEpisode(min_pixels)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> DrawEpisoded:
        """Seed the transform."""
        super().set_random_state(seed=seed, state=state)
        self.transform.set_random_state(seed=seed, state=state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with slices and mask (1, H, W) in place of scans and superpixels."""
        result = dict(data)
        superpixels = result.pop(self.superpixels_key)
        first = True
        for key in self.key_iterator(result):
            result[key], result[self.mask_key] = self.transform(result[key], superpixels, randomize=first)
            first = False
        return result
