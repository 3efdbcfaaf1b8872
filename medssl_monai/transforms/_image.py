"""What the image transforms share: stripping to a plain tensor once, restoring the input's container once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.utils import TransformBackends

BACKEND: list[TransformBackends] = [TransformBackends.TORCH]
Restore = Callable[[torch.Tensor], NdarrayOrTensor]


def unwrap(
    image: NdarrayOrTensor, who: str, *, dims: int | tuple[int, ...] | None = 3, floating: bool = True
) -> tuple[torch.Tensor, Restore]:
    """Strip an image to a plain tensor and return, with it, what puts a result back into the image's container.

    Every operator on a ``MetaTensor`` costs several times one on a plain tensor, hence one strip and one restore a
    transform. ``restore`` makes a NumPy array of a result where the image was one, and gives a ``MetaTensor`` the
    image's meta data and applied operations (copied one level deep, so that an entry set on the result does not
    change the image).

    Args:
        image: (C, H, W), or another number of dimensions where ``dims`` allows it or is ``None`` (then at least two).
        who: name of the transform, for messages.
        dims: number of dimensions asked for, or several of which any will do.
        floating: whether the image must be of a floating type.

    Raises:
        ValueError: for another type, number of dimensions or data type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "fiub":
            raise ValueError(f"{who} needs a real number, integer or bool image, got dtype {image.dtype}")
        # torch has few operators on unsigned integers wider than a byte, and none on another byte order
        wide = {"uint16": np.int32, "uint32": np.int64, "uint64": np.float64}.get(image.dtype.name)
        native = image.astype(wide if wide is not None else image.dtype.newbyteorder("="), copy=False)
        tensor = torch.from_numpy(np.require(native, requirements=["C", "W"]))
    elif isinstance(image, MetaTensor):
        tensor = image.as_tensor()
    elif isinstance(image, torch.Tensor):
        tensor = image
    else:
        raise ValueError(f"{who} needs a NumPy array or torch tensor, got {type(image).__name__}")
    shape = tuple(tensor.shape)
    allowed = (dims,) if isinstance(dims, int) else dims
    if tensor.ndim not in allowed if allowed is not None else tensor.ndim < 2:
        known = {3: "(C, H, W)", 4: "(C, H, W, S)"}
        wanted = " or ".join(known[n] for n in allowed) if allowed else "channel-first with at least one spatial axis"
        raise ValueError(f"{who} needs an image of shape {wanted}, got shape {shape}{named(image)}")
    if tensor.numel() == 0:
        raise ValueError(f"{who} got an empty image of shape {shape}{named(image)}")
    if floating and not tensor.is_floating_point():
        raise ValueError(
            f"{who} needs a floating image in [0, 1], got {tensor.dtype}{named(image)}; put ToUnitRange before it"
        )
    return tensor, lambda result: rewrap(result, image)


def rewrap(result: torch.Tensor, image: NdarrayOrTensor) -> NdarrayOrTensor:
    """Put ``result`` into the container of ``image`` (see :func:`unwrap`)."""
    if isinstance(image, np.ndarray):
        return result.numpy()
    if isinstance(image, MetaTensor):
        wrapped: MetaTensor = result.as_subclass(MetaTensor)
        attributes = {
            key: value.copy() if isinstance(value, dict | list) else value for key, value in vars(image).items()
        }
        vars(wrapped).update(attributes)
        return wrapped
    return result


def named(image: NdarrayOrTensor) -> str:
    """``" in <file>"`` where the image's meta data name the file it was read from, else nothing."""
    name = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
    return f" in {name}" if name else ""


def check_probability(prob: float, who: str, name: str = "prob") -> float:
    """Return a probability as a float.

    Raises:
        ValueError: when it is not a number within [0, 1].
    """
    if not is_number(prob) or not 0.0 <= prob <= 1.0:
        raise ValueError(f"{who}: {name} must lie in [0, 1], got {prob!r}")
    return float(prob)


def is_number(value: object) -> bool:
    """Whether a value is a real number, and no truth value."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def check_pair(values: Sequence[float], who: str, name: str, expected: str) -> tuple[float, float]:
    """Return (smallest, largest), two numbers in order, as they are.

    Args:
        values: what should be two numbers.
        who: name of the transform, for the message.
        name: name of the argument.
        expected: what it must be.

    Raises:
        ValueError: when they are not two numbers in order.
    """
    pair = tuple(values) if isinstance(values, Sequence | np.ndarray) and not isinstance(values, str) else ()
    if len(pair) != 2 or not all(is_number(value) for value in pair) or not pair[0] <= pair[1]:
        raise ValueError(f"{who}: {name} must be {expected}; got {pair or repr(values)}")
    return pair[0], pair[1]
