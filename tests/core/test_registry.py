"""The registry: names, suggestions, no second entry."""

from __future__ import annotations

import pytest

from medssl_monai.core import ConfigError, Registry


def test_entries_are_found_by_name_in_alphabetical_order() -> None:
    registry: Registry[int] = Registry("loss")
    assert registry.register("mse")(1) == 1
    registry.register("cross_entropy")(2)
    assert (registry.get("mse"), registry.names(), list(registry)) == (
        1,
        ["cross_entropy", "mse"],
        ["cross_entropy", "mse"],
    )
    assert ("mse" in registry, "l1" in registry) == (True, False)


def test_unknown_name_is_met_with_a_suggestion() -> None:
    registry: Registry[int] = Registry("loss")
    with pytest.raises(ConfigError, match=r"^unknown loss 'mse'\.$"):
        registry.get("mse")
    registry.register("cross_entropy")(2)
    with pytest.raises(ConfigError, match=r"^unknown loss 'cross_entrpy'\. Did you mean 'cross_entropy'\?$"):
        registry.get("cross_entrpy")
    with pytest.raises(ConfigError, match=r"^unknown loss 'zzz'\. Known: cross_entropy\.$"):
        registry.get("zzz")


def test_a_second_entry_of_a_name_is_refused() -> None:
    registry: Registry[int] = Registry("loss")
    registry.register("mse")(1)
    with pytest.raises(KeyError, match=r"loss 'mse' is registered twice"):
        registry.register("mse")(2)
    assert registry.get("mse") == 1
