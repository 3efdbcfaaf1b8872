"""What gradient maps share: checked inputs, and a network that is left exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor, nn

#: one network is explained at a time: a second thread would take the borrowed state of the first for the network's own
_EXPLAINING = RLock()
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients of the parameters; afterwards every module and parameter is as before.

    Cases do not see each other in evaluation mode, so that one backward pass of summed scores gives each its own
    gradient. Parameters that need no gradient save the layers' inputs, half of the memory of the pass. On a CPU the
    filters of convolutions lie meanwhile with channels last, as the images do: otherwise each pass, forward and
    backward, would bring them there anew. Threads wait for each other here.
    """
    with _EXPLAINING:
        modes = [(module, module.training) for module in network.modules()]
        # weights made in inference mode carry no gradient and let nothing be set
        parameters = [parameter for parameter in network.parameters() if not parameter.is_inference()]
        before = [(parameter, parameter.requires_grad, parameter.data) for parameter in parameters]
        network.eval()
        try:
            # The caller may be inside no_grad or inference_mode.
            with torch.inference_mode(False), torch.enable_grad():
                for parameter in parameters:
                    parameter.requires_grad_(False)
                    if parameter.device.type == "cpu" and parameter.ndim in _LAYOUTS:
                        parameter.data = parameter.data.contiguous(memory_format=_LAYOUTS[parameter.ndim])
                yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag, values in before:
                parameter.data = values
                parameter.requires_grad_(flag)


def batches(
    images: Tensor, targets: Tensor | Sequence[int] | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Parts of images and of the classes to explain.

    The images are copies, made outside inference mode so that they can carry a gradient, with channels last: on a CPU
    the first layers are up to a third faster then.

    Raises:
        ValueError: for other shapes.
    """
    if images.ndim not in (4, 5) or not len(images):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N, C, H, W) or (N, C, H, W, D) with at least one image"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    chosen = None if targets is None else torch.as_tensor(targets, device=images.device)
    if chosen is not None and (chosen.shape != (len(images),) or chosen.dtype.is_floating_point):
        raise ValueError(
            f"targets have shape {tuple(chosen.shape)} and dtype {chosen.dtype}; "
            f"expected one class index for each of {len(images)} images"
        )
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        pixels = images[part].detach().clone(memory_format=_LAYOUTS[images.ndim])
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
