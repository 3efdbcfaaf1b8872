"""The protocols by which frozen embeddings are judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl_monai.core import ConfigError, did_you_mean

#: name -> what it does, in words
PROTOCOLS = {
    "knn": "weighted k nearest neighbours: the labelled training images vote by cosine similarity",
    "linear_probe": "logistic regression on standardised embeddings, its regularisation chosen on validation",
    "linear_svm": "linear support vector machine on standardised embeddings, chosen likewise",
}
#: names that people use for what the stages of an arm do
_STAGES = ("finetune", "fine_tune", "fine-tune", "finetuning", "fine-tuning")


def protocol_advice(name: object) -> str:
    """What to write instead of a name that is no protocol."""
    if str(name).lower() in _STAGES:
        return (
            "Fine-tuning trains the encoder: that is what the stages [pretrain, train, evaluate] of an arm do. "
            "Protocols leave the encoder as it is."
        )
    return did_you_mean(str(name), PROTOCOLS).strip()


def check_protocols(names: Sequence[object], where: str | Path) -> tuple[str, ...]:
    """The names, each once, in their order.

    Raises:
        ConfigError: for a name that is no protocol, or none at all.
    """
    if not names:
        raise ConfigError("no protocol is named", where=where, expected=", ".join(PROTOCOLS))
    for name in names:
        if name not in PROTOCOLS:
            raise ConfigError(f"no protocol is called {name!r}", where=where, advice=protocol_advice(name))
    return tuple(dict.fromkeys(str(name) for name in names))
