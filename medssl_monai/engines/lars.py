"""Layer-wise adaptive rate scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """SGD with momentum whose rate is scaled, tensor by tensor, to the size of the weights (You et al. 2017).

    Algorithm 1 of arXiv:1708.03888: with gradient g, weight decay b, momentum m, learning rate r and trust coefficient
    c, ``v = m v + r * c |w| / (|g| + b |w|) * (g + b w)`` and ``w = w - v``. The rate is inside the velocity, as
    printed: with a schedule that differs from implementations that multiply by it afterwards. Where ``|w|`` or the
    divisor is 0 the scale is 1.

    A group with ``scaled=False`` is plain SGD with momentum. SimCLR keeps biases and the parameters of norm layers in
    such a group, without weight decay; :func:`build_optimizer` makes it. No step waits for the device.

    Args:
        params: parameters, or groups of them.
        lr: r.
        momentum: m, in [0, 1).
        weight_decay: b.
        trust_coefficient: c.
        scaled: scale the rate by tensor.

    Raises:
        ValueError: for numbers outside these ranges.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        scaled: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "scaled": scaled,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for name in ("lr", "weight_decay", "trust_coefficient"):
                if not 0 <= group[name] < float("inf"):
                    raise ValueError(f"{name}: expected a finite number of at least 0, got {group[name]}")
            if not 0 <= group["momentum"] < 1:
                raise ValueError(f"momentum: expected a number in [0, 1), got {group['momentum']}")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make one update; a ``closure`` computes the loss anew, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [weight.grad for weight in weights if weight.grad is not None]
        decay, rate = group["weight_decay"], group["lr"]
        # a new list in any case: the gradients stay as they are
        updates: list[Tensor] = list(torch._foreach_add(gradients, weights, alpha=decay))
        if group["scaled"]:
            sizes = torch.stack(torch._foreach_norm(weights))
            divisors = torch.stack(torch._foreach_norm(gradients)) + decay * sizes
            scales = torch.where((sizes > 0) & (divisors > 0), group["trust_coefficient"] * sizes / divisors, 1.0)
            torch._foreach_mul_(updates, list((rate * scales).unbind()))
        else:
            torch._foreach_mul_(updates, rate)
        if group["momentum"]:
            for weight in weights:
                if "velocity" not in self.state[weight]:
                    self.state[weight]["velocity"] = torch.zeros_like(weight)
            velocities = [self.state[weight]["velocity"] for weight in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            updates = velocities
        torch._foreach_sub_(weights, updates)
