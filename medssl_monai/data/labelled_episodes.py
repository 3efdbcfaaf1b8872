"""Episodes of labelled scans: the masks are the organs themselves, so that a trainer of episodes can fine-tune."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from medssl_monai.core import DataError
from medssl_monai.data.sampling import SampleKey


class PreparedScans(Protocol):
    """A dataset of prepared scans: dictionaries with ``image``, ``label`` and ``name``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


def labelled_scan(item: Mapping[str, Any], values: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Image and organs of a prepared scan, as nets take them.

    Args:
        item: ``image`` (C, H, W, S), ``label`` (1, H, W, S) or (H, W, S) with the dataset's own integers, ``name``.
        values: O integers; organ k, from 1, is the k-th of them, every other value is background.

    Returns:
        Plain tensors: image (C, H, W, S) in float32, organs (H, W, S) in int64, 0 to O.

    Raises:
        DataError: when the item has no mask, or one of another shape.
    """
    name = item.get("name")
    if item.get("label") is None:
        raise DataError(
            "the scan has no mask", where=name, expected="a label in its entry of the datalist",
            advice="Support sets are labelled scans: outline the organs, or choose another scan.",
        )  # fmt: skip
    image = torch.as_tensor(item["image"]).as_subclass(Tensor).float()
    label = torch.as_tensor(item["label"]).as_subclass(Tensor)
    label = label[0] if label.ndim == 4 and len(label) == 1 else label
    if image.ndim != 4 or label.shape != image.shape[1:]:
        raise DataError(
            "image and mask do not lie on one grid", where=name, found=f"{tuple(image.shape)}, {tuple(label.shape)}",
            expected="(C, H, W, S) and (H, W, S)", advice="Prepare both by the same transforms (scan_transforms).",
        )  # fmt: skip
    organs = torch.zeros(label.shape, dtype=torch.int64, device=label.device)
    for index, value in enumerate(values, start=1):
        organs[label == value] = index
    return image, organs


class LabelledEpisodes(Dataset[dict[str, Any]]):
    """One episode for each organ and slice that shows it: the slice, and the organ as its mask.

    Items are as those of pre-training, so that :class:`EpisodicTrainer` and :class:`EpisodeViews` take them: the query
    is the slice transformed. The scans are read once and kept in memory.

    Args:
        scans: prepared labelled scans (see :func:`labelled_scan`), those of the label budget.
        values: O integers, what an organ is in their masks.
        min_pixels: a slice with fewer pixels of an organ is no episode of it.
        index_key: key of the episodes' numbers: the position, plus the number of episodes for every earlier draw of it
            in the same epoch.

    Raises:
        DataError: when there is no scan, one has no mask, or an organ has no episode.
        ValueError: for ``min_pixels`` below 1.
    """

    def __init__(
        self, scans: PreparedScans, values: Sequence[int], min_pixels: int = 1, index_key: str = "index"
    ) -> None:
        if isinstance(min_pixels, bool) or not isinstance(min_pixels, int) or min_pixels < 1:
            raise ValueError(f"min_pixels: expected an integer of at least 1, got {min_pixels!r}")
        if len(scans) == 0:
            raise DataError("there is no labelled scan to take episodes from", advice="Give a larger label_budget.")
        self.index_key = index_key
        self._images: list[Tensor] = []
        self._organs: list[Tensor] = []
        self._episodes: list[tuple[int, int, int]] = []
        for number in range(len(scans)):
            image, organs = labelled_scan(scans[number], values)
            self._images.append(image.permute(3, 0, 1, 2).contiguous())  # a slice lies in one piece
            self._organs.append(organs.permute(2, 0, 1).to(torch.int16).contiguous())
            for organ in range(1, len(values) + 1):
                pixels = (self._organs[-1] == organ).flatten(1).sum(dim=1)
                chosen = (pixels >= min_pixels).nonzero().squeeze(1).tolist()
                self._episodes += [(number, place, organ) for place in chosen]
        seen = {organ for _, _, organ in self._episodes}
        missing = [value for organ, value in enumerate(values, start=1) if organ not in seen]
        if missing:
            raise DataError(
                f"no labelled scan shows an organ on {min_pixels} pixel{'s'[: min_pixels != 1]} of a slice",
                where="label", found=f"nothing of value {', '.join(map(str, missing))}",
                advice="Give a larger label_budget, a smaller min_pixels, or leave the organ out of `labels`.",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self._episodes)

    def __getitem__(self, key: SampleKey | int) -> dict[str, Any]:
        key = key if isinstance(key, SampleKey) else SampleKey(int(key))
        index = range(len(self))[key.index]
        number, place, organ = self._episodes[index]
        return {
            "image": self._images[number][place],
            "mask": (self._organs[number][place] == organ)[None].float(),
            self.index_key: index + key.repeat * len(self),
        }
