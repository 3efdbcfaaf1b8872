"""The guard against non-finite numbers."""

from __future__ import annotations

import pytest
import torch

from medssl_monai.core import hash_case
from medssl_monai.handlers import NonFiniteError, check_finite


def test_finite_values_pass() -> None:
    check_finite({}, iteration=1, learning_rate=0.1)
    check_finite(
        {"a": torch.tensor(1e300, dtype=torch.float64), "b": torch.tensor(1.0)}, iteration=1, learning_rate=0.1
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_message(value: float) -> None:
    terms = {"good": torch.tensor(1.0), "bad": torch.tensor(value, requires_grad=True)}
    with pytest.raises(NonFiniteError) as caught:
        check_finite(terms, iteration=12, learning_rate=0.00025, names=["a.png", "b.png"])
    cases = f"{hash_case('a.png')} {hash_case('b.png')}"
    assert str(caught.value) == (
        f"non-finite value at step 12: bad = {value} (learning rate 0.00025; cases {cases}). What was saved "
        "before is untouched. Lower learning_rate, set max_grad_norm, or look at these cases with `medssl check`."
    )
