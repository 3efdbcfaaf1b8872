"""Heads by name."""

from __future__ import annotations

import pytest

from medssl_monai.core import ConfigError
from medssl_monai.networks import HEADS, ALPNetHead, CoWProHead, PANetHead, build_head


def test_names_and_settings():
    assert {name: type(build_head(name)) for name in HEADS} == {
        "cowpro": CoWProHead, "alpnet": ALPNetHead, "panet": PANetHead,
    }  # fmt: skip
    head = build_head("cowpro", pool=2, threshold="dynamic", top_fraction=None)
    assert (head.pool, head.dynamic, head.top_fraction) == (2, True, 1.0)
    assert build_head("panet", scale=7.0, pool=None).scale == 7


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cowpr", {}, "unknown head 'cowpr'.*Did you mean 'cowpro'"),
        ("panet", {"threshold": 0.5}, "threshold: the head panet has no such setting.*null; panet takes scale"),
        ("alpnet", {"pool": 0}, "pool: .*at least 1, got 0"),
    ],
)
def test_errors(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        build_head(name, **settings)
