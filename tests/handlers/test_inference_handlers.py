"""What inference writes, by the key that asks for it."""

from __future__ import annotations

import pytest

from medssl_monai.core import ConfigError
from medssl_monai.handlers import inference_handlers

WRITERS = {"probabilities": ["load", "table"], "embeddings": ["encoder"]}


def test_the_output_names_its_handlers() -> None:
    assert inference_handlers("probabilities", **WRITERS) == ["load", "table"]
    assert inference_handlers("embeddings", **WRITERS) == ["encoder"]
    assert inference_handlers("embeddings", "pretrain.pt", **WRITERS) == ["encoder"]


def test_weights_that_nothing_would_read() -> None:
    message = (
        r"^encoder_weights: only embeddings can come from other weights than model\.pt \(found pretrain\.pt, expected "
        r"null\)\. Set inference_output=embeddings\.$"
    )
    with pytest.raises(ConfigError, match=message):
        inference_handlers("probabilities", "pretrain.pt", **WRITERS)


@pytest.mark.parametrize("weights", [None, "pretrain.pt"])
def test_an_output_that_there_is_not(weights: str | None) -> None:
    message = (
        r"^inference_output: unknown output 'embedding' \(expected probabilities or embeddings\)\. "
        r"Did you mean 'embeddings'\?$"
    )
    with pytest.raises(ConfigError, match=message):
        inference_handlers("embedding", weights, **WRITERS)
