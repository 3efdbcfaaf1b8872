"""The augmentations of the contrastive papers, each as one chain of array transforms for a view."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.transforms import (
    Compose,
    RandCoarseDropout,
    RandFlip,
    RandGaussianNoise,
    RandRotate,
    ScaleIntensityRange,
)

from medssl_monai.transforms._image import check_pair, check_probability, is_number
from medssl_monai.transforms.blur import RandGaussianBlur
from medssl_monai.transforms.color import RandColorJitter, RandGrayscale
from medssl_monai.transforms.crop import RandResizedCrop, check_range


def mr_views(
    image_size: int | Sequence[int] = 224,
    crop_scale: Sequence[float] = (0.08, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    blur_kernel: int = 5,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    blur_prob: float = 1.0,
    rotation: float = 30.0,
    rotation_prob: float = 1.0,
    cutout_holes: Sequence[int] = (1, 4),
    cutout_size: int | None = None,
    cutout_prob: float = 1.0,
    brightness: float = 0.2,
    contrast: float = 0.2,
    jitter_prob: float = 1.0,
    noise_std: float = 0.1,
    noise_prob: float = 1.0,
    clip: bool = True,
) -> Compose:
    """The random view of an MR slice of thesis table 4.3, for :class:`TwoViewsd` and :class:`BatchedViews`.

    A chain for one image (C, H, W), floating, in [0, 1]: in the table's order a random resized crop, Gaussian blur,
    rotation, CutOut, brightness and contrast, Gaussian noise. The number of channels stays: one channel stays one.

    - The table's saturation (0.2) and hue (0) are left out: they turn the mix of red, green and blue, which a single
      channel does not have.
    - The table names no probabilities: by default every step is applied to every view.
    - ``randint(1, 4)`` is read with both ends, as in Python. Holes lie inside the image and are black.
    - H and W of the hole's size are those of the image that is cut, the resized crop: 56 pixels of 224.
    - Rotated corners are black.
    - Noise leaves [0, 1]; by default its result is clipped to it, so that a view has the range of the images that the
      network gets later. In black background, noise of deviation s then becomes half of it, of mean 0.4 s.

    Args:
        image_size: (height, width) of a view, or one number for both.
        crop_scale: smallest and largest share of the image's area in the crop.
        crop_ratio: smallest and largest aspect ratio of the crop (the table is silent; torchvision's default).
        blur_kernel: taps of the blur along each axis.
        blur_sigma: smallest and largest sigma of the blur, in pixels.
        blur_prob: probability of the blur.
        rotation: largest angle in degrees, in both directions.
        rotation_prob: probability of the rotation.
        cutout_holes: smallest and largest number of holes, both included.
        cutout_size: side of the square holes in pixels; ``None``: floor(min(H, W) / 4) of the view.
        cutout_prob: probability of the holes.
        brightness: the factor is uniform in [1 - brightness, 1 + brightness].
        contrast: the same for contrast.
        jitter_prob: probability of brightness and contrast.
        noise_std: standard deviation of the noise.
        noise_prob: probability of the noise.
        clip: clip the result to [0, 1].

    Raises:
        ValueError: for settings out of range, see :class:`RandResizedCrop`, :class:`RandGaussianBlur` and
            :class:`RandColorJitter`; and for a rotation, holes or noise that cannot be.
    """
    size = _size(image_size)
    who = "mr_views"
    _check_crop(who, crop_scale, crop_ratio)
    _check_probabilities(
        who, blur_prob=blur_prob, rotation_prob=rotation_prob, cutout_prob=cutout_prob, jitter_prob=jitter_prob,
        noise_prob=noise_prob,
    )  # fmt: skip
    if not is_number(rotation) or not 0.0 <= rotation <= 180.0:
        raise ValueError(f"mr_views: rotation must lie in [0, 180] degrees, got {rotation}")
    expected = "(smallest, largest), at least 1, in order"
    if check_pair(cutout_holes, who, "cutout_holes", expected)[0] < 1:
        raise ValueError(
            f"mr_views: cutout_holes must be {expected}; got {tuple(cutout_holes)} (cutout_prob=0 leaves the holes out)"
        )
    side = min(size) // 4 if cutout_size is None else cutout_size
    if not 1 <= side <= min(size):
        raise ValueError(f"mr_views: holes of {side} pixels do not fit views of {size[0]} x {size[1]}")
    if not is_number(noise_std) or not 0.0 <= noise_std < math.inf:
        raise ValueError(f"mr_views: noise_std must not be negative, got {noise_std}")
    steps = [
        RandResizedCrop(size, crop_scale, crop_ratio),
        RandGaussianBlur(blur_kernel, blur_sigma, blur_prob),
        RandRotate(math.radians(rotation), prob=rotation_prob, padding_mode="zeros"),
        RandCoarseDropout(
            int(cutout_holes[0]), (side, side), fill_value=0.0, max_holes=int(cutout_holes[1]), prob=cutout_prob
        ),
        RandColorJitter(brightness, contrast, 0.0, 0.0, jitter_prob),
        # MONAI would draw the deviation too, anew for each image; the table's is fixed
        RandGaussianNoise(noise_prob, 0.0, noise_std, sample_std=False),
    ]
    return Compose([*steps, ScaleIntensityRange(0.0, 1.0, 0.0, 1.0, clip=True)] if clip else steps)


def rgb_views(
    image_size: int | Sequence[int] = 224,
    crop_scale: Sequence[float] = (0.08, 1.0),
    crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
    flip_prob: float = 0.5,
    flip_axes: int | Sequence[int] = 0,
    jitter_strength: float = 1.0,
    jitter_prob: float = 0.8,
    gray_prob: float = 0.2,
    blur_kernel: int | None = None,
    blur_sigma: Sequence[float] = (0.1, 2.0),
    blur_prob: float = 0.5,
) -> Compose:
    """SimCLR's random view (Chen et al. 2020, appendix A), for :class:`TwoViewsd` and :class:`BatchedViews`.

    A chain for one image (C, H, W), floating, in [0, 1]: random resized crop, flip, colour jitter, grey, blur. Thesis
    chapters 5 and 6 name no values of their own: chapter 6 says "the augmentation strategy of SimCLR". Images that do
    not have 3 channels get brightness and contrast only, and are never made grey.

    For small images SimCLR itself (appendix B.9, CIFAR-10) takes ``jitter_strength=0.5`` and ``blur_prob=0``. Crops of
    at least a fifth, ``crop_scale=(0.2, 1.0)``, are MoCo v2's.

    Args:
        image_size: (height, width) of a view, or one number for both.
        crop_scale: smallest and largest share of the image's area in the crop.
        crop_ratio: smallest and largest aspect ratio of the crop.
        flip_prob: probability of the flip.
        flip_axes: spatial axis or axes that are flipped together. MONAI's readers put the image's x axis first, so
            that 0 is left for right.
        jitter_strength: s of SimCLR: brightness, contrast and saturation 0.8 s, hue 0.2 s.
        jitter_prob: probability of the colour jitter.
        gray_prob: probability of grey.
        blur_kernel: taps of the blur along each axis; ``None``: a tenth of the view's height, made odd (23 of 224).
        blur_sigma: smallest and largest sigma of the blur, in pixels.
        blur_prob: probability of the blur; 0 leaves it out.

    Raises:
        ValueError: for settings out of range, see :class:`RandResizedCrop`, :class:`RandGaussianBlur` and
            :class:`RandColorJitter`.
    """
    size = _size(image_size)
    who = "rgb_views"
    _check_crop(who, crop_scale, crop_ratio)
    _check_probabilities(who, flip_prob=flip_prob, jitter_prob=jitter_prob, gray_prob=gray_prob, blur_prob=blur_prob)
    if not is_number(jitter_strength) or not 0.0 <= jitter_strength <= 2.5:
        # its hue, a fifth of it, is at most half a turn
        raise ValueError(f"rgb_views: jitter_strength must lie in [0, 2.5], got {jitter_strength}")
    kernel = 2 * (size[0] // 20) + 1 if blur_kernel is None else blur_kernel
    strength = 0.8 * jitter_strength
    steps = [
        RandResizedCrop(size, crop_scale, crop_ratio),
        RandFlip(flip_prob, flip_axes),
        RandColorJitter(strength, strength, strength, 0.2 * jitter_strength, jitter_prob),
        RandGrayscale(gray_prob),
    ]
    return Compose([*steps, RandGaussianBlur(kernel, blur_sigma, blur_prob)] if blur_prob > 0.0 else steps)


def _check_crop(who: str, scale: Sequence[float], ratio: Sequence[float]) -> None:
    """Refuse a crop that cannot be, by the names that the argument has here."""
    check_range(who, "crop_scale", scale, 1.0)
    check_range(who, "crop_ratio", ratio, math.inf)


def _check_probabilities(who: str, **probabilities: float) -> None:
    for name, value in probabilities.items():
        check_probability(value, who, name)


def _size(image_size: int | Sequence[int]) -> tuple[int, int]:
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or any(n < 1 for n in size):
        raise ValueError(f"image_size must be one or two positive numbers, got {image_size}")
    return int(size[0]), int(size[1])
