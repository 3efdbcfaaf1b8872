"""Optimisers by name, with the parameter groups that pre-training wants, and the rate that suits a batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.engines.lars import LARS

OPTIMIZERS = ("sgd", "lars", "adam", "adamw")
#: LARS and AdamW decay weights apart from the gradient's own scale; a bias or a norm layer's scale has none to lose
_SPARES_VECTORS = ("lars", "adamw")
#: settings that some optimisers alone have: the configuration's key, and the value where none is given
_OWN: dict[str, tuple[str, float, tuple[str, ...]]] = {
    "momentum": ("sgd_momentum", 0.9, ("sgd", "lars")),
    "trust_coefficient": ("trust_coefficient", 0.001, ("lars",)),
}
#: batch of which a linear rule's base is the rate
_BASE_BATCH = 256


def build_optimizer(
    name: str,
    params: nn.Module | Iterable[Tensor],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float | None = None,
    trust_coefficient: float | None = None,
    spare_vectors: bool | None = None,
) -> Optimizer:
    """Make an optimiser.

    Args:
        name: ``sgd`` (thesis 5.5 and 6.5.2.1 for small images, with momentum), ``lars`` (thesis 4.5.2.1, and for
            ImageNet), ``adam`` (fine-tuning, thesis 4.5.2.2) or ``adamw``.
        params: a network, whose parameters with gradient are taken, or the parameters.
        lr: learning rate, see :func:`scaled_learning_rate`.
        weight_decay: weight decay; within the gradient for ``sgd``, ``lars`` and ``adam``.
        momentum: momentum of ``sgd`` and ``lars``, ``None``: 0.9; ``adam`` and ``adamw`` have their usual two, and take
            none (key ``sgd_momentum`` of the bundles).
        trust_coefficient: of ``lars``, ``None``: 0.001; the others take none.
        spare_vectors: put the parameters of one dimension or none (biases, scale and shift of norm layers) in a group
            without weight decay and without LARS's scale, as SimCLR does; ``None``: for ``lars`` and ``adamw``.

    Raises:
        ConfigError: for an unknown name, a number outside its range, one that this optimiser would not read, or no
            parameter to train.
    """
    own = _settings(name, lr, weight_decay, momentum=momentum, trust_coefficient=trust_coefficient)
    found = params.parameters() if isinstance(params, nn.Module) else params
    trained = [parameter for parameter in found if parameter.requires_grad]
    if not trained:
        raise ConfigError("the network has no parameter to train", where="optimizer", advice="Unfreeze a part of it.")
    spare = name in _SPARES_VECTORS if spare_vectors is None else spare_vectors
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if p.dim() > 1 or not spare]}]
    groups.append({"params": [p for p in trained if p.dim() <= 1 and spare], "weight_decay": 0.0})
    if name == "lars":
        groups[1]["scaled"] = False
    groups = [group for group in groups if group["params"]]
    if name == "lars":
        return LARS(groups, lr, own["momentum"], weight_decay, own["trust_coefficient"])
    if name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=own["momentum"], weight_decay=weight_decay)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr, weight_decay=weight_decay)


def check_optimizer(
    name: str, learning_rate: float, lr_scaling: str | None, weight_decay: float, momentum: float | None
) -> None:
    """Refuse what :func:`build_optimizer` and :func:`scaled_learning_rate` would refuse, before there is a network.

    Args:
        name: see :func:`build_optimizer`.
        learning_rate: base of :func:`scaled_learning_rate`.
        lr_scaling: its rule.
        weight_decay: see :func:`build_optimizer`.
        momentum: see there.

    Raises:
        ConfigError: as they do.
    """
    _settings(name, scaled_learning_rate(learning_rate, 1, lr_scaling), weight_decay, momentum=momentum)


def _settings(name: str, lr: float, weight_decay: float, **own: float | None) -> dict[str, float]:
    if name not in OPTIMIZERS:
        raise ConfigError(
            f"unknown optimiser {name!r}", where="optimizer_name", advice=did_you_mean(str(name), OPTIMIZERS)
        )
    _check(learning_rate=lr, weight_decay=weight_decay)
    return _own(name, **own)


def _own(name: str, **given: float | None) -> dict[str, float]:
    """The settings that only some optimisers have, for one of them.

    Raises:
        ConfigError: for a number outside its range, or one that this optimiser would not read.
    """
    own = {}
    for setting, value in given.items():
        key, usual, takers = _OWN[setting]
        if name in takers:
            own[setting] = usual if value is None else value
        elif value is not None:
            raise ConfigError(
                f"the optimiser {name!r} does not read {key}", where=key, found=value, expected="null",
                advice=f"Leave it out, or take optimizer_name {' or '.join(takers)}.",
            )  # fmt: skip
    _check(trust_coefficient=own.get("trust_coefficient", 0.0))
    momentum = own.get("momentum", 0.0)
    if not _is_number(momentum) or not 0 <= momentum < 1:
        raise ConfigError("momentum", where=_OWN["momentum"][0], found=momentum, expected="at least 0, below 1")
    return own


def scaled_learning_rate(base: float, batch_size: int, rule: str | None = "sqrt") -> float:
    """The learning rate for a batch size (SimCLR, arXiv:2002.05709, sections 2.2 and B.1).

    Args:
        base: the rule's factor; SimCLR's are 0.075 for ``sqrt`` and 0.3 for ``linear``.
        batch_size: pairs in a step, of all processes together.
        rule: ``sqrt``: base x sqrt(batch) (thesis 5.5 and 6.5.2.1, ImageNet); ``linear``: base x batch / 256;
            ``None``: the base itself.

    Raises:
        ConfigError: for an unknown rule, a base that is not a finite number of at least 0, or a batch below 1.
    """
    _check(learning_rate=base)
    if not _is_number(batch_size) or batch_size < 1:
        raise ConfigError("batch size", where="batch_size", found=batch_size, expected="1 or more")
    factors = {"sqrt": math.sqrt(batch_size), "linear": batch_size / _BASE_BATCH}
    if rule is None:
        return base
    if rule not in factors:
        raise ConfigError(f"unknown rule {rule!r}", where="lr_scaling", advice=did_you_mean(str(rule), factors))
    return base * factors[rule]


def _check(**values: float) -> None:
    for where, value in values.items():
        if not _is_number(value) or not 0 <= value < math.inf:
            what = where.replace("_", " ")
            raise ConfigError(what, where=where, found=value, expected="a finite number of at least 0")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
