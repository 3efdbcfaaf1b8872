"""From a segmentation net's logits on its own grid to a label map on the scan's."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Invertd, InvertibleTransform, MapTransform
from monai.utils import MetaKeys

from medssl_monai.transforms._image import BACKEND


class RestoreLabelMapd(MapTransform):  # type: ignore[misc]
    """Turn logits into a label map in the geometry the scan was read in: its shape, its affine, its integers.

    The probabilities are taken back through the recorded steps by MONAI's ``Invertd``, with the interpolation the image
    went there by (linear), and the largest wins; voxels that the net has not seen are background. A few classes are
    taken back at a time, so that the memory does not grow with the number of organs.

    Args:
        keys: keys of the logits (1 + O, H, W, S), background first.
        transform: the ``Compose`` that has prepared the image.
        values: O integers, what an organ is in the label map; see :attr:`medssl_monai.data.Datalist.organs`.
        orig_keys: key of the image the logits were computed from, a ``MetaTensor`` that knows its steps.
        classes_at_once: classes that are taken back together; it changes no result.
        allow_missing_keys: leave out keys that are not there.

    Raises:
        ValueError: for values that are no distinct integers from 1 on, or when called with logits of another number of
            classes or of another grid than the image.
    """

    backend = BACKEND

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform,
        values: Sequence[int],
        orig_keys: str = "image",
        classes_at_once: int = 4,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = [int(value) for value in values]
        if not self.values or min(self.values) < 1 or len(set(self.values)) < len(self.values):
            raise ValueError(f"values: expected distinct integers from 1 on, one an organ, got {list(values)}")
        if classes_at_once < 1:
            raise ValueError(f"classes_at_once: expected an integer of at least 1, got {classes_at_once}")
        self.orig_keys, self.classes_at_once = orig_keys, classes_at_once
        self.invert = Invertd("classes", transform, orig_keys=orig_keys, nearest_interp=False, to_tensor=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore the label maps of the keys, each (1, X, Y, Z), int32."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._restored(d[key], d[self.orig_keys])
        return d

    def _restored(self, logits: torch.Tensor, image: Any) -> MetaTensor:
        plain = logits.as_tensor() if isinstance(logits, MetaTensor) else logits
        expected = (1 + len(self.values), *image.shape[1:])
        if tuple(plain.shape) != expected:
            raise ValueError(
                f"expected logits {expected}, background and {len(self.values)} organs on the grid of the image, got "
                f"{tuple(plain.shape)}"
            )
        if not isinstance(image, MetaTensor):
            raise ValueError("the image has forgotten its steps: load it as a MetaTensor, and keep its metadata")
        organs = torch.softmax(plain.detach().float(), dim=0)[1:]
        best = total = organs.new_zeros(())
        label = torch.zeros((), dtype=torch.int64, device=organs.device)
        for number, chosen in enumerate(torch.split(organs, self.classes_at_once)):
            back: MetaTensor = self.invert({self.orig_keys: image, "classes": MetaTensor(chosen)})["classes"]
            largest, place = back.as_tensor().max(dim=0)
            place, summed = place + 1 + number * self.classes_at_once, back.as_tensor().sum(dim=0)
            label = torch.where(largest > best, place, label)
            best, total = torch.maximum(best, largest), total + summed
        # what no organ has is the background's, so also where the net has seen nothing
        label = torch.where(best > 1 - total, label, 0)
        table = torch.tensor([0, *self.values], dtype=torch.int32, device=label.device)
        # steps back and forth leave rounding in the affine; the scan's own is known
        affine = image.meta.get(MetaKeys.ORIGINAL_AFFINE, back.affine)
        restored = MetaTensor(table[label][None], meta=dict(back.meta))
        restored.affine = torch.as_tensor(affine)
        return restored
