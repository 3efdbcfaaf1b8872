"""Numbers of a configuration: those in their range pass, all others are refused by their keys."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from medssl_monai.core import ConfigError
from medssl_monai.engines import check_settings

WHOLE = "a whole number, 1 or more"

GOOD: dict[str, list[Any]] = {
    "batch_size": [1, 4096],
    "max_epochs": [1],
    "steps_per_epoch": [None, 1],
    "image_size": [8, 224],
    "cache_rate": [0, 0.0, 0.3, 1, 1.0],
    "micro_batch_size": [None, 1, 64],
    "queue_size": [None, 1],
    "momentum": [None, 0, 0.999],
    "lr_warmup": [0, 0.05, 0.99],
    "max_grad_norm": [None, 1, 1e-3],
}
BAD: dict[str, tuple[str, list[Any]]] = {
    "batch_size": (WHOLE, [0, -1, 2.5, "8", None, True]),
    "max_epochs": (WHOLE, [0, 0.5, None]),
    "steps_per_epoch": ("a whole number, 1 or more, or null", [0, 1.5, "all"]),
    "image_size": ("a whole number of pixels, 8 or more", [7, 4, 32.0, "abc", [32, 32], None]),
    "cache_rate": ("a share of the images, from 0 to 1", [7, -0.1, 1.01, "0.5", True, math.nan, None]),
    "micro_batch_size": ("1 or more, or null for one pass", [0, -4, 2.5, "abc", True]),
    "queue_size": ("a whole number, 1 or more, or null", [0, 2.5, "half"]),
    "momentum": ("at least 0, below 1, or null", [1, 1.5, -0.1, "0.9", False]),
    "lr_warmup": ("a share of max_epochs, at least 0, below 1", [1, 1.0, 2, -0.1, "10", None]),
    "max_grad_norm": ("a number above 0, or null for no clipping", [0, -1, math.inf, math.nan, True, "1"]),
}


@pytest.mark.parametrize("key", GOOD)
def test_values_in_range(key: str) -> None:
    for value in GOOD[key]:
        check_settings(**{key: value})


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (_, values) in BAD.items() for value in values])
def test_values_outside_their_range_or_of_another_kind(key: str, value: Any) -> None:
    found = re.escape("null" if value is None else repr(value))
    with pytest.raises(ConfigError, match=rf"^{key}: .+ \(found {found}, expected {re.escape(BAD[key][0])}"):
        check_settings(**{key: value})


def test_a_key_of_no_range() -> None:
    with pytest.raises(ConfigError, match=r"^cash_rate: no range is known of it\. Did you mean 'cache_rate'\?"):
        check_settings(cash_rate=1.0)


@pytest.mark.parametrize("key", ["steps_per_epoch", "max_grad_norm"])
def test_a_key_that_may_not_be_null_here(key: str) -> None:
    check_settings(**{key: None})
    check_settings(**{key: 1}, required=[key])
    with pytest.raises(ConfigError, match=rf"^{key}: .+ \(found null, expected (a whole number, 1 or more|[^,]+)\)\.$"):
        check_settings(**{key: None}, required=[key])
