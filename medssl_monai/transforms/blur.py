"""Random Gaussian blur with a kernel of fixed size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.networks.layers import separable_filtering
from monai.transforms import RandomizableTransform

from medssl_monai.transforms._image import BACKEND, check_probability, unwrap
from medssl_monai.transforms.color import _RandImaged


class RandGaussianBlur(RandomizableTransform):
    """Blur an image with a Gaussian of random width, sampled on a kernel of fixed size.

    One sigma for both axes, uniform in ``sigma``; the weights exp(-k^2 / (2 sigma^2)) at whole pixels, normalised; the
    image is mirrored at its borders. These are the definitions of torchvision's ``GaussianBlur``, which thesis table
    4.3 and SimCLR's descendants name. MONAI's ``RandGaussianSmooth`` is another blur: a sigma for each axis, and no
    kernel size (it reaches to 4 sigma).

    Args:
        kernel_size: taps of the kernel along each axis, odd.
        sigma: smallest and largest sigma, in pixels.
        prob: probability that the image is blurred.

    Raises:
        ValueError: for an even or non-positive kernel size, a sigma range that is not positive and ordered, a prob
            outside [0, 1]; and when called with an image that is not (C, H, W) and floating, or that is not larger than
            the kernel's radius.
    """

    backend = BACKEND

    def __init__(self, kernel_size: int = 5, sigma: Sequence[float] = (0.1, 2.0), prob: float = 1.0) -> None:
        super().__init__(check_probability(prob, "RandGaussianBlur"))
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"RandGaussianBlur: kernel_size must be odd and positive, got {kernel_size}")
        if len(sigma) != 2 or not 0.0 < sigma[0] <= sigma[1] < float("inf"):
            raise ValueError(
                f"RandGaussianBlur: sigma must be (smallest, largest), positive, in order; got {tuple(sigma)}"
            )
        self.kernel_size = int(kernel_size)
        self.sigma = (float(sigma[0]), float(sigma[1]))
        self.drawn_sigma = 0.0

    def randomize(self, data: Any | None = None) -> None:
        """Draw whether to blur, and sigma."""
        super().randomize(None)
        if self._do_transform:
            self.drawn_sigma = float(self.R.uniform(*self.sigma))

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Return the blurred image (C, H, W); with ``randomize=False`` the last draw is used again."""
        tensor, restore = unwrap(image, "RandGaussianBlur")
        if randomize:
            self.randomize()
        if not self._do_transform:
            return image
        check_blur_size(self.kernel_size, (tensor.shape[1], tensor.shape[2]))
        kernel = gaussian_taps(torch.tensor(self.drawn_sigma, dtype=torch.float64), self.kernel_size).to(tensor)
        return restore(separable_filtering(tensor.unsqueeze(0), [kernel, kernel], mode="reflect")[0])


class RandGaussianBlurd(_RandImaged):
    """Dictionary form of :class:`RandGaussianBlur`; all keys get the same sigma."""

    def __init__(
        self,
        keys: KeysCollection,
        kernel_size: int = 5,
        sigma: Sequence[float] = (0.1, 2.0),
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, RandGaussianBlur(kernel_size, sigma, prob), allow_missing_keys)


def gaussian_taps(sigma: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Normalised weights of Gaussians of ``sigma`` (...) at whole pixels: shape (..., kernel_size)."""
    radius = kernel_size // 2
    distance = torch.arange(-radius, radius + 1, dtype=sigma.dtype, device=sigma.device)
    return torch.softmax(-0.5 * (distance / sigma.unsqueeze(-1)) ** 2, dim=-1)


def check_blur_size(kernel_size: int, size: tuple[int, int]) -> None:
    """Check that an image of ``size`` (H, W) can be mirrored at its borders.

    Raises:
        ValueError: when it is not larger than the kernel's radius.
    """
    if min(size) <= kernel_size // 2:
        raise ValueError(
            f"RandGaussianBlur: a kernel of {kernel_size} taps needs images larger than {kernel_size // 2} pixels, got "
            f"{size[0]} x {size[1]}; choose a smaller kernel_size"
        )
