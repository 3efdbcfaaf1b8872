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
#: batch of which a linear rule's base is the rate
_BASE_BATCH = 256


def build_optimizer(
    name: str,
    params: nn.Module | Iterable[Tensor],
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    spare_vectors: bool | None = None,
) -> Optimizer:
    """Make an optimiser.

    Args:
        name: ``sgd`` (thesis 5.5 and 6.5.2.1 for small images, with momentum), ``lars`` (thesis 4.5.2.1, and for
            ImageNet), ``adam`` (fine-tuning, thesis 4.5.2.2) or ``adamw``.
        params: a network, whose parameters with gradient are taken, or the parameters.
        lr: learning rate, see :func:`scaled_learning_rate`.
        weight_decay: weight decay; within the gradient for ``sgd``, ``lars`` and ``adam``.
        momentum: momentum of ``sgd`` and ``lars``; the others have their usual two.
        trust_coefficient: of ``lars``.
        spare_vectors: put the parameters of one dimension or none (biases, scale and shift of norm layers) in a group
            without weight decay and without LARS's scale, as SimCLR does; ``None``: for ``lars`` and ``adamw``.

    Raises:
        ConfigError: for an unknown name, a number outside its range, or no parameter to train.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"unknown optimiser {name!r}", where="optimizer_name", advice=did_you_mean(name, OPTIMIZERS))
    _check(learning_rate=lr, weight_decay=weight_decay, trust_coefficient=trust_coefficient)
    if not 0 <= momentum < 1:
        raise ConfigError("momentum", where="momentum", found=momentum, expected="at least 0, below 1")
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
        return LARS(groups, lr, momentum, weight_decay, trust_coefficient)
    if name == "sgd":
        return torch.optim.SGD(groups, lr, momentum=momentum, weight_decay=weight_decay)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr, weight_decay=weight_decay)


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
    if batch_size < 1:
        raise ConfigError("batch size", where="batch_size", found=batch_size, expected="1 or more")
    factors = {"sqrt": math.sqrt(batch_size), "linear": batch_size / _BASE_BATCH}
    if rule is None:
        return base
    if rule not in factors:
        raise ConfigError(f"unknown rule {rule!r}", where="lr_scaling", advice=did_you_mean(str(rule), factors))
    return base * factors[rule]


def _check(**values: float) -> None:
    for where, value in values.items():
        if not 0 <= value < math.inf:
            what = where.replace("_", " ")
            raise ConfigError(what, where=where, found=value, expected="a finite number of at least 0")
