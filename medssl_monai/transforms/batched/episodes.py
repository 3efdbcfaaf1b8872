"""The query of every episode of a batch: its support, changed in intensity and then in shape (thesis 7.4.1.5)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import grid_sample

from medssl_monai.transforms._image import check_pair, is_number
from medssl_monai.transforms.batched.draws import Draws, uniform_field
from medssl_monai.transforms.batched.operation import Params, between, column

_SCALE = 256  # pixels of the slices that lengths in pixels are given for (thesis 7.4.1.2)
_TRUNCATE = 4.0  # sigmas at which the Gaussian ends, as SciPy's does


class EpisodeViews:
    """Make queries of supports: ``views(images, masks, index, epoch)`` gives the queries and their masks.

    The query is T_geo(T_int(support)), its mask T_geo(mask) (thesis eq. 7.12). T_int is the slice to the power of
    ``gamma``. T_geo scales, shears and turns the slice about its middle and moves it, and then bends it elastically
    (Simard et al. 2003: uniform displacements, smoothed by a Gaussian of ``elastic_sigma``, times ``elastic_alpha``).
    Both come down to one map from the query's pixels to places in the support, so that the image is interpolated once,
    linearly; the mask takes the nearest pixel of the same places. What comes from outside the slice is 0. The defaults
    are those of Ouyang et al. (2020), whom the thesis follows.

    Lengths in pixels are meant for slices of 256 pixels: at another size the same share of the slice is moved, by the
    same share. A field smoothed over k times as many pixels is k times flatter, hence its factor grows with k squared.

    Numbers are hashes of (seed, epoch, sample index, view), computed in tensors: a query depends neither on which
    samples share its batch, nor on the device (images agree to float32 rounding). Arithmetic is float32 (float64 for
    float64 images), also under autocast.

    Args:
        seed: the run's seed.
        gamma: smallest and largest power; drawn uniformly, as everything below.
        rotation: degrees, either way.
        translation: pixels, either way, along both axes.
        shear: degrees by which either axis is tilted, either way.
        scale: smallest and largest factor of the size of what is shown.
        elastic_alpha: factor of the smoothed displacements, pixels; 0 for none.
        elastic_sigma: of the Gaussian, pixels.

    Raises:
        ValueError: for a range that is none, or a number outside its range; when called with what is not as many
            images (N, 1, H, W), masks of their shape and integers.
    """

    def __init__(
        self,
        seed: int = 0,
        gamma: Sequence[float] = (0.5, 1.5),
        rotation: float = 5.0,
        translation: float = 5.0,
        shear: float = 5.0,
        scale: Sequence[float] = (0.9, 1.2),
        elastic_alpha: float = 10.0,
        elastic_sigma: float = 5.0,
    ) -> None:
        for name, value, below in (
            ("rotation", rotation, 180.0),
            ("translation", translation, math.inf),
            ("shear", shear, 45.0),
            ("elastic_alpha", elastic_alpha, math.inf),
            ("elastic_sigma", elastic_sigma, math.inf),
        ):
            if not is_number(value) or not 0 <= value < below or (name == "elastic_sigma" and value == 0):
                least = "above 0" if name == "elastic_sigma" else "of at least 0"
                limit = f" and below {below:g}" if math.isfinite(below) else ""
                raise ValueError(f"EpisodeViews: {name} must be a number {least}{limit}, got {value!r}")
        self.gamma = _positive_pair(gamma, "gamma")
        self.scale = _positive_pair(scale, "scale")
        self.seed = seed
        self.rotation, self.translation, self.shear = math.radians(rotation), float(translation), math.radians(shear)
        self.elastic_alpha, self.elastic_sigma = float(elastic_alpha), float(elastic_sigma)

    @torch.no_grad()
    def __call__(
        self, images: Tensor, masks: Tensor, index: Tensor, epoch: int, view: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return queries and their masks, both (N, 1, H, W), of the types that images and masks have.

        Args:
            images: supports (N, 1, H, W), in [0, 1].
            masks: their masks (N, 1, H, W), of 0 and 1.
            index: the samples' numbers (N,), integers; see ``index_key`` of :class:`SeededCacheDataset`.
            epoch: the epoch.
            view: another number gives other queries; to transform the support as well, make it with ``view=1`` and the
                query of the result with ``view=0``.
        """
        images, masks, index = _checked(images, masks, index)
        with torch.autocast(images.device.type, enabled=False):
            params = self.draw(index.to(images.device), epoch, view, (images.shape[2], images.shape[3]))
            return self.apply(images, masks, params)

    def draw(self, index: Tensor, epoch: int, view: int, size: tuple[int, int]) -> Params:
        """Parameters of each query, the batch first.

        Returns:
            ``gamma`` (N,); ``matrix`` (N, 2, 2), from the query's (row, column) to the support's, both from the middle;
            ``shift`` (N, 2), rows and columns that the query is moved by; all float64. Where it is bent,
            ``displacement`` (N, 2, H, W), float32, rows and columns.
        """
        draws = Draws(index, self.seed, epoch, view, "episode")
        factor = max(size) / _SCALE
        angle, shear_row, shear_column = (2 * draws.uniform("turn", 3) - 1).unbind(1)
        rows, columns = torch.tan(shear_row * self.shear), torch.tan(shear_column * self.shear)
        cos, sin = torch.cos(angle * self.rotation), torch.sin(angle * self.rotation)
        size_of = between(draws.uniform("scale")[:, 0], *self.scale)
        # the query is the support tilted, then turned, then scaled, then moved
        tilt = torch.stack([torch.ones_like(rows), rows, columns, torch.ones_like(rows)], dim=1).view(-1, 2, 2)
        turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
        params = {
            "gamma": between(draws.uniform("gamma")[:, 0], *self.gamma),
            "matrix": _inverse(turn @ tilt * size_of.view(-1, 1, 1)),
            "shift": (2 * draws.uniform("shift", 2) - 1) * (self.translation * factor),
        }
        if self.elastic_alpha > 0:
            noise = uniform_field(draws.key("elastic"), (2, *size))
            rows_of, columns_of = (_smoothing(n, self.elastic_sigma * factor, noise.device) for n in size)
            params["displacement"] = (rows_of @ noise @ columns_of.T) * (self.elastic_alpha * factor**2)
        return params

    def apply(self, images: Tensor, masks: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        """Queries and masks with these parameters."""
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        places = _places(params, (images.shape[2], images.shape[3]), dtype)
        changed = images.to(dtype).clamp(min=0.0) ** column(params["gamma"], images.to(dtype))
        query = grid_sample(changed, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        mask = grid_sample(masks.to(dtype), places, mode="nearest", padding_mode="zeros", align_corners=False)
        return query.to(images.dtype), mask.to(masks.dtype)


def _inverse(matrix: Tensor) -> Tensor:
    """Inverse of matrices (N, 2, 2); ``torch.linalg.inv`` waits for the device to say that there is one."""
    a, b, c, d = matrix.flatten(1).unbind(1)
    adjugate = torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2)
    return adjugate / (a * d - b * c).view(-1, 1, 1)


def _places(params: Params, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Where in the support each pixel of the query comes from, as ``grid_sample`` wants it: (N, H, W, 2), x before y.

    Pixels' edges, not their centres, lie at -1 and 1 (``align_corners=False``).
    """
    matrix, shift = params["matrix"].to(dtype), params["shift"].to(dtype)
    height, width = size
    rows = torch.arange(height, dtype=dtype, device=matrix.device).sub_((height - 1) / 2).view(1, -1, 1)
    columns = torch.arange(width, dtype=dtype, device=matrix.device).sub_((width - 1) / 2).view(1, 1, -1)
    i, j = rows - shift[:, 0].view(-1, 1, 1), columns - shift[:, 1].view(-1, 1, 1)
    if "displacement" in params:
        displacement = params["displacement"].to(dtype)
        i, j = i + displacement[:, 0], j + displacement[:, 1]
    a, b, c, d = (matrix[:, k, m].view(-1, 1, 1) for k in (0, 1) for m in (0, 1))
    return torch.stack([(c * i + d * j) * (2 / width), (a * i + b * j) * (2 / height)], dim=-1)


@functools.lru_cache(maxsize=8)
def _smoothing(length: int, sigma: float, device: torch.device) -> Tensor:
    """(length, length): a Gaussian around each place, 0 beyond the ends; a product with it is one pass over a batch.

    Computed as a matrix product in float32 and not as a convolution, which many GPUs do in less precision by default.
    """
    radius = int(_TRUNCATE * sigma + 0.5)
    place = torch.arange(length, dtype=torch.float64)
    distance = (place[:, None] - place).abs()
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) / taps.sum()
    return weights.where(distance <= radius, 0.0).to(device, torch.float32)


def _positive_pair(values: Sequence[float], name: str) -> tuple[float, float]:
    expected = "two positive numbers (smallest, largest)"
    pair = check_pair(values, "EpisodeViews", name, expected)
    if not pair[0] > 0 or not math.isfinite(pair[1]):
        raise ValueError(f"EpisodeViews: {name} must be {expected}; got {pair}")
    return pair


def _checked(images: Tensor, masks: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Plain tensors of images, masks and numbers that belong together."""
    plain = images.as_tensor() if isinstance(images, MetaTensor) else images
    if not isinstance(plain, Tensor) or plain.ndim != 4 or plain.shape[1] != 1 or not plain.is_floating_point():
        raise ValueError(f"EpisodeViews needs floating images of shape (N, 1, H, W), got {_what(images)}")
    if not isinstance(masks, Tensor) or masks.shape != plain.shape:
        raise ValueError(f"EpisodeViews needs masks of the images' shape {tuple(plain.shape)}, got {_what(masks)}")
    index = torch.as_tensor(index)
    if index.shape != plain.shape[:1] or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"EpisodeViews needs an integer for each of the {len(plain)} images, got {_what(index)}")
    return plain, masks.as_tensor() if isinstance(masks, MetaTensor) else masks, index


def _what(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
