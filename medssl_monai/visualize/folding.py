"""Batch normalisation folded into the convolutions before it, for the time of a gradient pass.

In evaluation mode batch normalisation is one multiplication and one addition a channel, which the convolution before it
can do by itself (``torch.nn.utils.fusion``). A pass over a batch then saves the normalisation's reading and writing of
every feature map, forward and backward. The modules stay in place and only their ``forward`` is exchanged, so that
hooks, names and parameters are as before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

logger = logging.getLogger(__name__)

T = TypeVar("T")

MIN_IMAGES = 16  # with fewer the folding costs about what it saves
_TOLERANCE = 1e-4  # of the scores of one image, relative to the largest; rounding of float32 stays ten times below
_CONVOLUTIONS: dict[type[nn.Module], tuple[type[nn.Module], torch.memory_format]] = {
    nn.Conv2d: (nn.BatchNorm2d, torch.channels_last),
    nn.Conv3d: (nn.BatchNorm3d, torch.channels_last_3d),
}


class FoldingError(RuntimeError):
    """The flow of data is not what it was when the pairs were found."""


@dataclass(frozen=True)
class _Pair:
    convolution: Any
    norm: Any

    def fits(self) -> bool:
        """Whether both are still plain layers of the kind they were found to be."""
        norm = _CONVOLUTIONS.get(type(self.convolution), (None,))[0]
        return (
            type(self.norm) is norm
            and self.norm.running_mean is not None
            and self.norm.num_features == self.convolution.out_channels
            # weight norm, spectral norm and pruning make the weight anew in a hook or a property
            and isinstance(self.convolution._parameters.get("weight"), nn.Parameter)
            and not any("forward" in vars(module) or _hooked(module) for module in (self.convolution, self.norm))
        )


# Which normalisation follows which convolution is found once a network; weights are folded anew in every call.
_known: WeakKeyDictionary[nn.Module, tuple[_Pair, ...]] = WeakKeyDictionary()


def with_folding(network: nn.Module, images: Tensor, compute: Callable[[], T], keep: Collection[nn.Module] = ()) -> T:
    """What ``compute`` gives, with the network's batch normalisations folded away where that is sure and pays.

    A pair counts when, in a pass of the first image, a plain normalisation's input is the very tensor that a plain
    convolution returned, both are used once, and the folded network gives that image's scores. In every later pass the
    normalisation asks again whether its input is that tensor; if not, ``compute`` is repeated without folding.

    Args:
        network: in evaluation mode, see :func:`~medssl_monai.visualize.explained.undisturbed`.
        images: (N, C, H, W) or (N, C, H, W, D); fewer than 16 are not worth the folding.
        compute: passes ``images`` through the network.
        keep: modules whose own output is wanted and which are therefore left alone.
    """
    if len(images) < MIN_IMAGES or images.ndim not in (4, 5):  # other shapes are refused by `compute`
        return compute()
    pairs = _known.get(network)
    if pairs is None or not all(pair.fits() for pair in pairs):
        pairs = _known[network] = _verified(network, images[:1].detach())
    chosen = [pair for pair in pairs if pair.convolution not in keep and pair.norm not in keep]
    try:
        with _folded(chosen):
            return compute()
    except FoldingError:
        logger.debug("the network's layers follow one another in another order now; explained without folding")
        _known[network] = ()
    return compute()


def _verified(network: nn.Module, image: Tensor) -> tuple[_Pair, ...]:
    """The pairs of a network, or none where folding them changes the scores of ``image``."""
    with torch.no_grad():
        pairs, expected = _find(network, image)
        if not pairs or not isinstance(expected, Tensor):
            return ()
        try:
            with _folded(pairs):
                scores = network(image)
        except FoldingError:
            return ()
    if not torch.allclose(scores, expected, rtol=0, atol=_TOLERANCE * max(float(expected.abs().max()), 1e-30)):
        return ()
    return tuple(pairs)


def _find(network: nn.Module, image: Tensor) -> tuple[list[_Pair], Any]:
    """Pairs by the flow of one image, and the scores of that pass."""
    modules = list(network.modules())
    candidates = {m for m in modules if type(m) in _CONVOLUTIONS}
    norms = {m for m in modules if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))}
    calls: dict[nn.Module, list[Any]] = {module: [] for module in candidates | norms}
    hooked = {module: _hooked(module) for module in calls}

    def returned(module: nn.Module, inputs: Any, output: Any) -> None:
        calls[module].append(output)

    def received(module: nn.Module, inputs: Any) -> None:
        calls[module].append(inputs[0] if inputs else None)

    handles = [module.register_forward_hook(returned) for module in candidates]
    handles += [module.register_forward_pre_hook(received) for module in norms]
    try:
        scores = network(image)
    finally:
        for handle in handles:
            handle.remove()
    # the outputs are still held, so that no two of them have the same identity
    made = {id(calls[m][0]): m for m in candidates if len(calls[m]) == 1 and not hooked[m]}
    pairs = [
        _Pair(made[id(calls[norm][0])], norm)
        for norm in norms
        if len(calls[norm]) == 1 and id(calls[norm][0]) in made and not hooked[norm]
    ]
    return [pair for pair in pairs if pair.fits()], scores


@contextmanager
def _folded(pairs: Collection[_Pair]) -> Iterator[None]:
    """Convolutions that normalise, normalisations that hand on; afterwards both are as before."""
    waiting: list[list[Tensor]] = []
    try:
        for pair in pairs:
            waiting.append(_exchange(pair))
        yield
        if any(waiting):
            raise FoldingError("a convolution's normalisation was not used")
    finally:
        for pair in pairs:
            for module in (pair.convolution, pair.norm):
                vars(module).pop("forward", None)


def _exchange(pair: _Pair) -> list[Tensor]:
    """Fold a pair; the list holds the convolution's output until its normalisation has asked for it."""
    convolution, norm = pair.convolution, pair.norm
    with torch.no_grad():
        fused = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        # the layout of the images: the convolution would else copy its weight in every pass, forward and backward
        weight = fused[0].detach().contiguous(memory_format=_CONVOLUTIONS[type(convolution)][1])
        bias = fused[1].detach()
    last: list[Tensor] = []

    def convolve(x: Tensor) -> Tensor:
        if last:
            raise FoldingError("a convolution is used again before its normalisation")
        output: Tensor = convolution._conv_forward(x, weight, bias)
        last.append(output)
        return output

    def hand_on(x: Tensor) -> Tensor:
        if not last or last.pop() is not x:
            raise FoldingError("a normalisation follows another layer")
        return x

    vars(convolution)["forward"], vars(norm)["forward"] = convolve, hand_on
    return last


def _hooked(module: nn.Module) -> bool:
    return any(
        getattr(module, name)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    )
