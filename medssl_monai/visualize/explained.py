"""What gradient maps share: checked inputs, and a network that is left exactly as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

#: one network is explained at a time: a second thread would take the borrowed state of the first for the network's own
_EXPLAINING = RLock()
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


def in_fastest_layout(explain: Callable[[bool], Tensor]) -> Tensor:
    """What ``explain`` gives with channels last, or without where the network insists on contiguous tensors (``view``).

    Args:
        explain: takes whether channels are to lie last.
    """
    try:
        return explain(True)
    except RuntimeError as error:
        if "view size is not compatible" not in str(error):
            raise
    return explain(False)


@contextmanager
def undisturbed(network: nn.Module, channels_last: bool = False) -> Iterator[None]:
    """Evaluation mode without gradients of the parameters; afterwards every module and parameter is as before.

    Cases do not see each other in evaluation mode, so that one backward pass of summed scores gives each its own
    gradient. Parameters that need no gradient, and batch norms as the affine maps they are in evaluation mode, save the
    layers' inputs: most of the memory of the pass, and on a CPU a tenth to a fifth of its time, which went into
    fetching that memory. Threads wait for each other here.

    Args:
        network: the network.
        channels_last: on a CPU let the filters of torch's own convolutions lie with channels last meanwhile, as the
            images do: otherwise each pass, forward and backward, would bring them there anew.

    Raises:
        ValueError: for a network with parameters that are not there yet.
    """
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise ValueError("the network has lazy parameters without values; expected one that has seen a batch")
    with _EXPLAINING:
        modes = [(module, module.training) for module in network.modules()]
        # weights made in inference mode carry no gradient and let nothing be set
        parameters = [parameter for parameter in network.parameters() if not parameter.is_inference()]
        filters = [one for one in _filters(network) if not one.is_inference()] if channels_last else []
        wanted = [(parameter, parameter.requires_grad) for parameter in parameters]
        before = [(parameter, parameter.data) for parameter in filters]
        network.eval()
        try:
            # The caller may be inside no_grad or inference_mode.
            with torch.inference_mode(False), torch.enable_grad():
                for parameter in parameters:
                    parameter.requires_grad_(False)
                for parameter in filters:
                    parameter.data = parameter.data.contiguous(memory_format=_LAYOUTS[parameter.ndim])
                with _LeanBatchNorm():
                    yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, values in before:
                parameter.data = values
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)


class _LeanBatchNorm(TorchFunctionMode):
    """Batch norms by running statistics in torch's own arithmetic, but such that the gradient needs no input kept.

    The calls are caught, not the modules changed: others (hooks, compiled networks) see the network as it is.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is batch_norm:
            found = _affine(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _affine(
    images: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    **kwargs: Any,
) -> Tensor | None:
    """What ``torch.nn.functional.batch_norm`` gives; ``None`` for what is left to it."""
    if training or mean is None or variance is None or weight is None or bias is None:
        return None  # by the batch's statistics, or without scale
    if images.shape[1:2] != mean.shape or any(one.dtype != images.dtype for one in (mean, variance, weight, bias)):
        return None  # mixed precision; or channels that do not fit, which it refuses
    scale = weight * torch.rsqrt(variance + eps)
    shape = (1, -1, *[1] * (images.ndim - 2))
    return torch.addcmul((bias - mean * scale).view(shape), images, scale.view(shape))


def _filters(network: nn.Module) -> list[nn.Parameter]:
    """Filters on the CPU of torch's own convolutions, which take them in any layout; others may reshape them."""
    found = [vars(module)["_parameters"].get("weight") for module in network.modules() if type(module) in _CONVOLUTIONS]
    return list({id(one): one for one in found if one is not None and one.device.type == "cpu"}.values())


def batches(
    images: Tensor, targets: Tensor | Sequence[int] | None, batch_size: int, channels_last: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Parts of images and of the classes to explain.

    The images are copies, made outside inference mode so that they can carry a gradient. With channels last the first
    layers are up to a third faster on a CPU.

    Raises:
        ValueError: for other shapes, or images that are not floating point.
    """
    if images.ndim not in (4, 5) or not len(images):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N, C, H, W) or (N, C, H, W, D) with at least one image"
        )
    if not images.is_floating_point():
        raise ValueError(f"images have dtype {images.dtype}; expected floating point, as the network was trained on")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    chosen = None if targets is None else torch.as_tensor(targets, device=images.device)
    if chosen is not None and (chosen.shape != (len(images),) or chosen.dtype.is_floating_point):
        raise ValueError(
            f"targets have shape {tuple(chosen.shape)} and dtype {chosen.dtype}; "
            f"expected one class index for each of {len(images)} images"
        )
    layout = _LAYOUTS[images.ndim] if channels_last else torch.contiguous_format
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = images[part].detach().clone(memory_format=layout)
        yield pixels, None if chosen is None else chosen[part].long()


def chosen_scores(scores: Tensor, targets: Tensor | None, number: int) -> Tensor:
    """The score of each image's class (the highest where ``targets`` is ``None``), summed over the images.

    Raises:
        ValueError: when the network gave no scores (N, classes), or a target is no class of it.
    """
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != number:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"the network returned {found} for {number} images; expected scores (N, classes)")
    wanted = scores.argmax(dim=1) if targets is None else targets
    if int(wanted.min()) < 0 or int(wanted.max()) >= scores.shape[1]:
        raise ValueError(
            f"targets reach from {int(wanted.min())} to {int(wanted.max())}; "
            f"the network has classes 0 to {scores.shape[1] - 1}"
        )
    return scores.gather(1, wanted[:, None]).sum()
