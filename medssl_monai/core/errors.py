"""Exceptions that advise: every message says where, what was found, what was expected and what would mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest option, or the list of options, ready to append to a message."""
    known = sorted({str(option) for option in options})
    close = difflib.get_close_matches(word, known, n=5, cutoff=0.6)
    if close:
        # letters that changed places are the likelier slip than one too many: 'srlc' is 'srcl', not 'src'
        best = next((option for option in close if sorted(option) == sorted(word)), close[0])
        return f" Did you mean {best!r}?"
    return f" Known: {', '.join(known)}." if known else ""


class MedSSLError(Exception):
    """Base of all errors a user can mend.

    Args:
        what: one clause that says what is wrong.
        where: file, config key or command the fault lies in.
        found: what was there.
        expected: what should have been there.
        advice: what to do next, a full sentence.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object | None = None,
        found: object | None = None,
        expected: object | None = None,
        advice: str | None = None,
    ) -> None:
        self.what, self.where, self.found, self.expected, self.advice = what, where, found, expected, advice
        message = f"{where}: {what}" if where is not None else what
        details = [f"{name} {value}" for name, value in (("found", found), ("expected", expected)) if value is not None]
        if details:
            message += f" ({', '.join(details)})"
        if not message.endswith((".", "?", "!")):
            message += "."
        if advice:
            message += f" {advice.strip()}"
        super().__init__(message)


class DataError(MedSSLError, ValueError):
    """A dataset, datalist, image or label is not as the data contract says."""


class ConfigError(MedSSLError, ValueError):
    """A configuration key or value cannot be used."""


class CheckpointError(MedSSLError, RuntimeError):
    """A checkpoint or weights file is missing, damaged or of another network."""


class OutputError(MedSSLError, OSError):
    """An output folder or file cannot be written."""
