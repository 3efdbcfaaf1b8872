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
        ConfigError: for an unknown name, a setting that the loss does not take (the message names what it takes), or
            one that is given twice.
        ValueError: for a value that the loss refuses.
    """
    if name not in CONTRASTIVE_LOSSES:
        raise ConfigError(
            f"unknown contrastive loss {name!r}", where="loss_name", advice=did_you_mean(str(name), CONTRASTIVE_LOSSES)
        )
    make = CONTRASTIVE_LOSSES.get(name)
    given = {key: value for key, value in settings.items() if value is not None}
    further = {key: value for key, value in (loss_settings or {}).items() if value is not None}
    twice = sorted(given.keys() & further.keys())
    if twice:
        raise ConfigError(
            f"{twice[0]} is given twice", where="loss_settings", found=further[twice[0]],
            expected=f"only {twice[0]}={given[twice[0]]!r}",
        )  # fmt: skip
    given |= further
    known = [key for key in inspect.signature(make).parameters if key != "gather_distributed"]
    for key in given:
        if key not in (*known, "gather_distributed"):
            hint = " It has tau_min and tau_max." if (name, key) == ("dystress", "temperature") else ""
            raise ConfigError(
                f"the contrastive loss {name!r} takes no {key!r}", where="loss_name", found=f"{key}={given[key]!r}",
                expected=f"one of {', '.join(known)}",
                advice=f"Leave it out, or set it to null.{hint or did_you_mean(key, known)}",
            )  # fmt: skip
    return make(**given)
