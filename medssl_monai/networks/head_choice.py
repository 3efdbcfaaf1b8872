"""Prototype heads by name, as configurations choose them."""

from __future__ import annotations

import inspect
from typing import Any

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.networks.prototype_heads import ALPNetHead, CoWProHead, PANetHead, PrototypeHead

HEADS: dict[str, type[PrototypeHead]] = {"cowpro": CoWProHead, "alpnet": ALPNetHead, "panet": PANetHead}


def build_head(name: str = "cowpro", **settings: Any) -> PrototypeHead:
    """Make a head.

    Args:
        name: ``cowpro``, ``alpnet`` or ``panet``.
        settings: arguments of the head, see :class:`PrototypeHead`; one that is ``None`` keeps the head's default.

    Raises:
        ConfigError: for an unknown name, a setting that the head does not take, or a value that it refuses.
    """
    if name not in HEADS:
        raise ConfigError(
            f"unknown head {name!r}",
            where="head_name",
            expected=", ".join(HEADS),
            advice=did_you_mean(str(name), HEADS),
        )
    known = list(inspect.signature(HEADS[name]).parameters)
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in known:
            raise ConfigError(
                f"the head {name} has no such setting", where=key, found=given[key], expected=f"null; {name} takes "
                f"{', '.join(known)}",
            )  # fmt: skip
    try:
        return HEADS[name](**given)
    except ValueError as error:
        raise ConfigError(f"head {name}: {error}", where=str(error).partition(":")[0]) from error
