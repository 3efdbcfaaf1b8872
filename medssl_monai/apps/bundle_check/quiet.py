"""Keeps the noise of libraries out of the list of problems, and at hand for an error's cause."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from medssl_monai.apps.run import root_cause

_LONGEST = 400


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what is printed, logged and warned meanwhile; the loggers are as before afterwards."""
    stream = io.StringIO()
    collector = logging.StreamHandler(stream)
    collector.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    named = [entry for entry in logging.root.manager.loggerDict.values() if isinstance(entry, logging.Logger)]
    before = [(logger, logger.handlers[:], logger.level) for logger in (logging.root, *named)]
    for logger, _, _ in before:
        logger.handlers = [] if logger.propagate and logger is not logging.root else [collector]
    try:
        with redirect_stdout(stream), redirect_stderr(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield stream
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            if logger.level != level:  # setting a level empties the caches of all loggers
                logger.setLevel(level)


def cause(error: BaseException, noise: str = "") -> str:
    """The deepest cause of an error on one line, for MONAI wraps what happened in what it was doing.

    Args:
        error: the error.
        noise: what was logged before it; the last error in it is added where it says something else.
    """
    deepest = root_cause(error)
    text = f"{type(deepest).__name__}: {' '.join(str(deepest).split()) or 'no message'}"
    logged = [line.removeprefix("ERROR ") for line in noise.splitlines() if line.startswith("ERROR ")]
    if logged and str(deepest) not in logged[-1]:
        text += f"; logged before: {logged[-1]}"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
