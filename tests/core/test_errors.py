"""Errors that advise: where, what, found, expected, advice, in one readable message."""

from __future__ import annotations

import pickle

import pytest

from medssl_monai.core import CheckpointError, ConfigError, DataError, MedSSLError, OutputError, did_you_mean


def test_whole_message() -> None:
    error = DataError("is too dark", where="a.png", found=0, expected="above 0", advice=" Rescale it.")
    assert str(error) == "a.png: is too dark (found 0, expected above 0). Rescale it."
    assert (error.what, error.where, error.found, error.expected) == ("is too dark", "a.png", 0, "above 0")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MedSSLError("no image"), "no image."),
        (MedSSLError("no image."), "no image."),
        (MedSSLError("what now?", advice="Look."), "what now? Look."),
        (MedSSLError("no image", found="text"), "no image (found text)."),
        (MedSSLError("no image", expected="PNG"), "no image (expected PNG)."),
        (MedSSLError("no image", where=""), ": no image."),
    ],
)
def test_parts_may_be_left_out(error: MedSSLError, message: str) -> None:
    assert str(error) == message


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(DataError, ValueError), (ConfigError, ValueError), (CheckpointError, RuntimeError), (OutputError, OSError)],
)
def test_kinds_are_also_the_builtin_errors_callers_expect(kind: type[MedSSLError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match=r"^w: x\.$"):
        raise kind("x", where="w")
    again = pickle.loads(pickle.dumps(kind("x", where="w", advice="Do.")))
    assert type(again) is kind
    assert "w: x. Do." in str(again)
    assert again.advice == "Do."


def test_suggestions() -> None:
    assert did_you_mean("trainig", ["training", "test"]) == " Did you mean 'training'?"
    # letters that changed places go before one too many, which difflib finds closer
    assert did_you_mean("srlc", ["src", "srcl", "srcl_joint"]) == " Did you mean 'srcl'?"
    assert did_you_mean("srcc", ["src", "srcl"]) == " Did you mean 'src'?"
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b."
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("1", [1, 2]) == " Did you mean '1'?"  # type: ignore[list-item]
