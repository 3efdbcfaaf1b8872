"""Contrastive losses by name, as configurations choose them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.core.registry import Registry
from medssl_monai.losses._pairs import PairLoss
from medssl_monai.losses.contrastive import DCLLoss, DCLWLoss, EuclideanInfoNCELoss, NTXentLoss
from medssl_monai.losses.dystress import DySTreSSLoss
from medssl_monai.losses.pair_classification import BinaryContrastiveLoss, ComboContrastiveLoss, MIOLoss

CONTRASTIVE_LOSSES: Registry[Callable[..., PairLoss]] = Registry("contrastive loss")

_LOSSES: dict[str, Callable[..., PairLoss]] = {
    "nt_xent": NTXentLoss,
    "dcl": DCLLoss,
    "dclw": DCLWLoss,
    "binary": BinaryContrastiveLoss,
    "euclidean": EuclideanInfoNCELoss,
    "combo": ComboContrastiveLoss,
    "mio_v1": partial(MIOLoss, 1),
    "mio_v2": partial(MIOLoss, 2),
    "mio_v3": partial(MIOLoss, 3),
    "dystress": DySTreSSLoss,
}
for _name, _make in _LOSSES.items():
    CONTRASTIVE_LOSSES.register(_name)(_make)


def contrastive_loss(name: str, loss_settings: Mapping[str, Any] | None = None, **settings: Any) -> PairLoss:
    """Make a contrastive loss, called with the two views' embeddings ``(z1 (N, D), z2 (N, D))``.

    Args:
        name: ``nt_xent``, ``dcl``, ``dclw``, ``binary`` (L_Proposed), ``euclidean`` (L_Contr), ``combo`` (L_Combo),
            ``mio_v1``, ``mio_v2``, ``mio_v3`` or ``dystress``.
        loss_settings: further hyper-parameters of the loss, such as ``{"profile": "linear"}`` of ``dystress``.
        settings: hyper-parameters of the loss; one that is ``None`` keeps the loss's default.

    Raises:
        ConfigError: for an unknown name, a setting that the loss does not take (the message names what it takes), one
            that is given twice, a value that the loss refuses, or ``loss_settings`` that are no mapping.
    """
    if name not in CONTRASTIVE_LOSSES:
        raise ConfigError(
            f"unknown contrastive loss {name!r}", where="loss_name", advice=did_you_mean(str(name), CONTRASTIVE_LOSSES)
        )
    make = CONTRASTIVE_LOSSES.get(name)
    given = {key: value for key, value in settings.items() if value is not None}
    further = _further(loss_settings)
    twice = sorted(given.keys() & further.keys())
    if twice:
        raise ConfigError(
            f"{twice[0]} is given twice", where="loss_settings", found=further[twice[0]],
            expected=f"only {twice[0]}={given[twice[0]]!r}",
        )  # fmt: skip
    given |= further
    # who gathers is a matter of the run, not a choice of the loss: it is taken, and not listed
    known = [key for key in inspect.signature(make).parameters if key != "gather_distributed"]
    for key in given:
        if key not in (*known, "gather_distributed"):
            hint = " It has tau_min and tau_max." if (name, key) == ("dystress", "temperature") else ""
            raise ConfigError(
                f"the contrastive loss {name!r} takes no {key!r}", found=f"{key}={given[key]!r}",
                where="loss_settings" if key in further else "loss_name", expected=f"one of {', '.join(known)}",
                advice=f"Leave it out, or set it to null.{hint or did_you_mean(str(key), known)}",
            )  # fmt: skip
    try:
        return make(**given)
    except ValueError as error:
        named = str(error).partition(":")[0].split()  # the message begins with the argument, or "shift and scale"
        raise ConfigError(str(error), where=None if further.keys().isdisjoint(named) else "loss_settings") from error


def _further(loss_settings: Mapping[str, Any] | None) -> dict[str, Any]:
    if loss_settings is not None and not isinstance(loss_settings, Mapping):
        raise ConfigError(
            "the further settings of the loss are no mapping", where="loss_settings", found=repr(loss_settings),
            expected="{name: value}, such as {profile: linear}",
        )  # fmt: skip
    return {key: value for key, value in (loss_settings or {}).items() if value is not None}
