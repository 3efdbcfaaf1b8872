"""Guards that stop a run before a non-finite number spoils the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from medssl_monai.core import MedSSLError, hash_case
from medssl_monai.core.distributed import all_gather_objects


class NonFiniteError(MedSSLError, ArithmeticError):
    """A loss term or the gradient became infinite or not a number."""


def check_finite(
    terms: Mapping[str, Tensor], *, iteration: int, learning_rate: float, names: Iterable[str] = ()
) -> None:
    """Stop when a value is infinite or not a number.

    Args:
        terms: named scalars, for example the loss terms or the gradient's norm; the same in all processes of a run.
        iteration: the step, for the message.
        learning_rate: its learning rate, for the message.
        names: the batch's case names; the message carries their keyed hashes, of all processes.

    Raises:
        NonFiniteError: with step, terms, learning rate and hashed cases.
    """
    terms = {name: term.detach() for name, term in terms.items()}
    if not terms or bool(torch.stack([torch.isfinite(term) for term in terms.values()]).all()):
        return
    wrong = ", ".join(f"{name} = {float(term)}" for name, term in terms.items() if not torch.isfinite(term))
    # all processes have come here, because their terms are the same
    shares = all_gather_objects([hash_case(str(name)) for name in names])
    cases = " ".join(case for share in shares for case in share)
    raise NonFiniteError(
        f"non-finite value at step {iteration}: {wrong} "
        f"(learning rate {learning_rate:.3g}; cases {cases or 'unknown'})",
        advice="What was saved before is untouched. Lower learning_rate, set max_grad_norm, or look at "
        "these cases with `medssl check`.",
    )
