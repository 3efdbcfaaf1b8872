"""Transforms that serving needs: what an image was like before resizing, calibrated scores, plain score vectors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medssl_monai.transforms._image import BACKEND
from medssl_monai.transforms.slices import SlicesLast

DESCRIPTION_KEY = "input_description"
DESCRIPTION_FIELDS = ("channels", "width", "height", "mean", "std")
VOLUME_FIELDS = (*DESCRIPTION_FIELDS, "slices")


def describe_image(image: torch.Tensor) -> torch.Tensor:
    """Channels, width, height, mean and standard deviation of an image (C, W, H) as stored: float64, shape (5,).

    MONAI's readers put the image's x axis (its width) first. Values that are not finite are left out of mean and
    deviation. A volume (C, ...) has the number of its slices as a sixth value; width and height are the lengths of the
    other two axes, whichever axis the slices lie along (:class:`~medssl_monai.transforms.SlicesLast`).
    """
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    values = plain.to(torch.float64)
    values = values[torch.isfinite(values)]
    mean, std = (values.mean(), values.std(correction=0)) if values.numel() else (torch.nan, torch.nan)
    size = list(plain.shape[1:])
    slices = [size.pop(SlicesLast().slice_axis(image))] if len(size) == 3 else []
    return torch.tensor([plain.shape[0], *size[:2], float(mean), float(std), *slices], dtype=torch.float64)


class DescribeInputd(MapTransform):  # type: ignore[misc]
    """Keep what an image was like before it is resized and rescaled, in its metadata under ``input_description``.

    It stands right behind ``EnsureChannelFirstd``. The description travels with the image to the handlers of inference,
    which warn where an image differs from the training data; a key of its own would reach the network as an argument
    when the bundle is deployed.

    Args:
        keys: keys of the images, channel first.
        spatial_dims: spatial dimensions the network takes; ``None`` takes any.

    Raises:
        ValueError: when an image has other spatial dimensions.
    """

    backend = BACKEND

    def __init__(self, keys: KeysCollection, spatial_dims: int | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.spatial_dims = spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Describe the images of the keys."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key] if isinstance(d[key], MetaTensor) else MetaTensor(torch.as_tensor(d[key]))
            if self.spatial_dims is not None and image.dim() - 1 != self.spatial_dims:
                raise ValueError(
                    f"image has {image.dim() - 1} spatial dimensions, shape {tuple(image.shape[1:])}; "
                    f"this network takes {self.spatial_dims}"
                )
            image.meta[DESCRIPTION_KEY] = describe_image(image)
            d[key] = image
        return d


class ScaleLogitsd(MapTransform):  # type: ignore[misc]
    """Divide logits by the temperature fitted on validation data (Guo et al. 2017); 1 leaves them.

    Args:
        keys: keys of the logits, shape (C,).
        temperature: a positive number; for labels that are each there or not one a label.

    Raises:
        ValueError: when a temperature is not positive and finite, or their number is not that of the logits.
    """

    backend = BACKEND

    def __init__(
        self, keys: KeysCollection, temperature: float | Sequence[float] = 1.0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        given = [temperature] if isinstance(temperature, (int, float)) else list(temperature)
        if not given or not all(0 < one < float("inf") for one in given):
            raise ValueError(f"temperature must be positive and finite, got {temperature}")
        self.temperature = [float(one) for one in given]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the logits of the keys."""
        d = dict(data)
        for key in self.key_iterator(d):
            if len(self.temperature) not in (1, d[key].shape[-1]):
                raise ValueError(
                    f"{len(self.temperature)} temperatures for {d[key].shape[-1]} logits; expected as many"
                )
            if len(self.temperature) == 1:
                d[key] = d[key] / self.temperature[0]
            else:
                d[key] = d[key] / torch.as_tensor(self.temperature, dtype=d[key].dtype, device=d[key].device)
        return d


class AsScoresd(MapTransform):  # type: ignore[misc]
    """Make a score vector a plain MetaTensor that has forgotten the image's grid.

    The last step behind a classifier: MONAI Label's writers want a MetaTensor and would otherwise try to bring the
    vector back to the image's shape, which ``spatial_shape`` announces.

    Args:
        keys: keys of the score vectors, shape (C,).
        image_key: the image whose metadata announces the shape.
    """

    backend = BACKEND

    def __init__(self, keys: KeysCollection, image_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Strip the scores of the keys."""
        d = dict(data)
        for key in self.key_iterator(d):
            scores = d[key].as_tensor() if isinstance(d[key], MetaTensor) else torch.as_tensor(d[key])
            d[key] = MetaTensor(scores.detach().cpu().float())
        image = d.get(self.image_key)
        if isinstance(image, MetaTensor):
            image.meta.pop("spatial_shape", None)
        return d
