"""Superpixels of slices inside the body: pseudo-masks that need no annotation (thesis 7.4.1.1)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import ensure_tuple
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import felzenszwalb, slic

from medssl_monai.core import did_you_mean
from medssl_monai.transforms._image import BACKEND, named, unwrap

#: segmentation functions of scikit-image and what they are called with unless told otherwise
_METHODS: dict[str, tuple[Callable[..., NDArray[np.int64]], dict[str, Any]]] = {
    "felzenszwalb": (felzenszwalb, {"scale": 1.0, "sigma": 1.0, "min_size": 400}),
    "slic": (slic, {"n_segments": 100, "compactness": 0.1, "sigma": 1.0}),
}
#: arguments of theirs that the transform sets itself
_OURS = ("image", "channel_axis", "mask", "start_label", "spacing", "convert2lab")


class Superpixels(Transform):
    """Cut a slice, or each slice of a volume, into superpixels, numbered from 1 without gaps; 0 outside the body.

    The body is the largest connected part above ``threshold``, with its holes filled. Felzenszwalb's graph cut
    (IJCV 2004) of the slice's intensities is masked with it, as in Ouyang et al. (2020), whom the thesis follows; what
    it makes depends on the scale of the intensities (theirs: MR from 0 to about 1,000, the highest 0.5 % clipped);
    brought to [0, 1], such a slice has the same superpixels with ``scale`` and ``threshold`` divided as well.

    The whole slice is cut, air too: where pieces end near the rim of the body depends on the pieces beside it. A slice
    cropped to its body takes two thirds of the time, and of 106 slices of real abdomens only a tenth were then cut in
    the same way. scikit-image's function works on one slice and keeps Python's lock: several volumes at once take
    several processes (``medssl superpixels``).

    Args:
        method: ``felzenszwalb``, or ``slic`` for compact superpixels of about one size (within the body).
        settings: arguments of scikit-image's function in place of the defaults: ``scale`` 1, ``sigma`` 1 (pixels) and
            ``min_size`` 400 (pixels) of Felzenszwalb; ``n_segments`` 100, ``compactness`` 0.1 and ``sigma`` 1 of SLIC.
        threshold: intensity above which a pixel may be of the body.

    Raises:
        ValueError: for an unknown method or setting, or a threshold that is no finite number; when called, for what is
            neither a slice (1, H, W) nor a volume (1, H, W, S) of finite numbers.
    """

    backend = BACKEND

    def __init__(
        self, method: str = "felzenszwalb", settings: Mapping[str, Any] | None = None, threshold: float = 50.0
    ) -> None:
        if method not in _METHODS:
            raise ValueError(f"Superpixels: unknown method {method!r}; expected one of {', '.join(_METHODS)}")
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not math.isfinite(threshold):
            raise ValueError(f"Superpixels: threshold must be a finite number, got {threshold!r}")
        self.method = method
        self.threshold = float(threshold)
        self._segment, defaults = _METHODS[method]
        known = [key for key in inspect.signature(self._segment).parameters if key not in _OURS]
        for key in settings or {}:
            if key not in known:
                advice = did_you_mean(key, known)
                raise ValueError(f"Superpixels: {method} has no setting {key!r}; {advice or 'expected ' + str(known)}")
        self.settings = defaults | dict(settings or {})

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Return the labels, int32, in the shape and container of ``image``: (1, H, W) or (1, H, W, S)."""
        tensor, restore = unwrap(image, "Superpixels", dims=(3, 4), floating=False)
        if tensor.shape[0] != 1:
            raise ValueError(
                f"Superpixels needs a slice (1, H, W) or a volume (1, H, W, S), got shape {tuple(tensor.shape)}"
                f"{named(image)}"
            )
        pixels = tensor[0].double().cpu().numpy()
        if not np.isfinite(pixels).all():
            raise ValueError(f"Superpixels: {int((~np.isfinite(pixels)).sum())} pixels are not finite{named(image)}")
        if pixels.ndim == 2:
            labels = self._labels(pixels)
        else:  # a slice in one piece of memory, in and out
            slices = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
            labels = np.moveaxis(np.stack([self._labels(one) for one in slices]), 0, -1)
        return restore(torch.from_numpy(labels).to(tensor.device)[None])

    def _labels(self, pixels: NDArray[np.float64]) -> NDArray[np.int32]:
        body = body_mask(pixels, self.threshold)
        if not body.any():
            return np.zeros(pixels.shape, np.int32)
        if self.method == "slic":
            low, high = pixels[body].min(), pixels[body].max()
            scaled = (pixels - low) / max(high - low, np.finfo(np.float64).tiny)
            found = self._segment(scaled, channel_axis=None, mask=body, start_label=1, **self.settings)
        else:
            found = self._segment(pixels, channel_axis=None, **self.settings) + 1
        return _consecutive(np.where(body, found, 0))


class Superpixelsd(MapTransform):
    """Dictionary form of :class:`Superpixels`.

    Args:
        keys: slices (1, H, W) or volumes (1, H, W, S).
        label_key: where the labels of the first key go, and with more keys one for each; ``None`` replaces the images.
        method: see :class:`Superpixels`, as the following.
        settings: of the method.
        threshold: of the body.
        allow_missing_keys: whether a key may be missing.
    """

    backend = BACKEND

    def __init__(
        self,
        keys: KeysCollection,
        label_key: KeysCollection | None = None,
        method: str = "felzenszwalb",
        settings: Mapping[str, Any] | None = None,
        threshold: float = 50.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        targets = self.keys if label_key is None else ensure_tuple(label_key)
        if len(targets) != len(self.keys):
            raise ValueError(f"Superpixelsd: {len(targets)} label keys for {len(self.keys)} keys; expected one each")
        self.targets = targets
        self.transform = Superpixels(method, settings, threshold)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the labels."""
        result = dict(data)
        for key, target in self.key_iterator(result, self.targets):
            result[target] = self.transform(result[key])
        return result


def body_mask(pixels: NDArray[np.floating[Any]], threshold: float) -> NDArray[np.bool_]:
    """Largest connected part (edges, not corners) of a slice (H, W) above a threshold, with its holes filled."""
    parts, number = ndimage.label(pixels > threshold)
    if number == 0:
        return np.zeros(pixels.shape, dtype=np.bool_)
    largest = 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return np.asarray(ndimage.binary_fill_holes(parts == largest), dtype=np.bool_)


def _consecutive(labels: NDArray[np.int64]) -> NDArray[np.int32]:
    """Labels renumbered 1, 2, ... in their order; 0 stays. By a table: sorting all pixels takes longer."""
    there = np.bincount(labels.ravel()) > 0
    there[0] = False
    table = np.cumsum(there, dtype=np.int32)
    table[0] = 0
    return table[labels]
