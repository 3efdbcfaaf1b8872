"""A loss over a whole batch in the memory of a part of it: gradients of the embeddings, cached between two passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.engines.objective import NetworkPass, without_average

Batch = dict[str, Any]


def split_batch(batch: Batch, keys: Sequence[str], size: int) -> list[Batch]:
    """Parts of at most ``size`` samples, as equal as can be, so that no small remainder upsets BatchNorm.

    Args:
        batch: its tensors ``keys`` have the samples along their first dimension.
        keys: what the parts hold.
        size: largest number of samples of a part.
    """
    count = len(batch[keys[0]])
    parts = max(math.ceil(count / size), 1)
    columns = [torch.tensor_split(batch[key], parts) for key in keys]
    return [dict(zip(keys, values)) for values in zip(*columns)]


class RandomState:
    """Where torch's generators stand, of the processor and of ``device``, to draw the same numbers again."""

    def __init__(self, device: torch.device) -> None:
        self._devices: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self._device, self._cpu = device, torch.get_rng_state()
        self._own = None if self._devices is None else self._devices.get_rng_state(device)

    def restore(self) -> None:
        """Put the generators back."""
        torch.set_rng_state(self._cpu)
        if self._devices is not None:
            self._devices.set_rng_state(self._own, self._device)


class CachedPasses:
    """Embeddings of a batch part by part, and the gradient of a loss of them all (Gao et al., arXiv:2101.06983).

    :meth:`forward` embeds every part without graph. A loss of the result, the whole batch's embeddings, gives their
    gradient; :meth:`backward` embeds every part once more, with graph, and goes back from that gradient. By the chain
    rule the parameters' gradients are those of one pass over the whole batch, while the activations of only one part
    are kept at a time. The second pass starts from the network's buffers and the random numbers of the first, so that
    it repeats it exactly (dropout), and buffers are changed once.

    Args:
        network: its buffers are put back between the passes.
        embed: from a part to its embeddings, shape (n, ...).
        objective: the same, such that a backward pass averages gradients over processes; that of the last part alone
            does, for all parts at once.
        autocast: makes the context of a forward pass. Each part gets its own: under autocast weights that were cast
            without graph would be used again with one, and get no gradient.
        device: where the network lies.
    """

    def __init__(
        self,
        network: nn.Module,
        embed: NetworkPass,
        objective: NetworkPass,
        autocast: Callable[[], torch.autocast],
        device: torch.device,
    ) -> None:
        self.network, self.embed, self.objective = network, embed, objective
        self.autocast, self.device = autocast, device
        self._replays: list[tuple[Batch, RandomState]] = []
        self._embeddings: Tensor | None = None

    def forward(self, parts: Sequence[Batch]) -> Tensor:
        """Embeddings of all parts, shape (N, ...), a leaf that collects the loss's gradient."""
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        self._replays, embeddings = [], []
        for part in parts:
            self._replays.append((part, RandomState(self.device)))
            with torch.no_grad(), self.autocast():
                embeddings.append(self.embed(part))
        for buffer, before in buffers:
            buffer.copy_(before)
        self._embeddings = torch.cat(embeddings).requires_grad_()
        return self._embeddings

    def backward(self, total: Tensor) -> None:
        """Add the gradient of ``total``, a function of what :meth:`forward` gave, to the parameters'."""
        assert self._embeddings is not None  # noqa: S101  (called behind forward)
        total.backward()  # type: ignore[no-untyped-call]
        gradient = self._embeddings.grad
        replays, self._replays, self._embeddings = self._replays, [], None
        if gradient is None:
            return  # the loss does not depend on the embeddings
        gradients = torch.split(gradient, [len(next(iter(part.values()))) for part, _ in replays])
        for number, ((part, random_state), own) in enumerate(zip(replays, gradients), start=1):
            random_state.restore()
            if number < len(replays):
                with without_average(self.objective):
                    self._repeat(part, own)
            else:
                self._repeat(part, own)

    def _repeat(self, part: Batch, gradient: Tensor) -> None:
        with self.autocast():
            embeddings = self.objective(part)
        embeddings.backward(gradient)
