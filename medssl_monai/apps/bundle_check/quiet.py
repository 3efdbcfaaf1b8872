"""Keeps the noise of libraries out of the list of problems, and at hand for an error's cause."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from medssl_monai.apps.run import root_cause


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Collect what is printed, logged and warned meanwhile; the loggers are as before afterwards."""
    stream = io.StringIO()
    collector = logging.StreamHandler(stream)
    known = [logging.root, *(entry for entry in logging.root.manager.loggerDict.values() if _is_logger(entry))]
    before = [(logger, logger.handlers[:], logger.level) for logger in known if isinstance(logger, logging.Logger)]
    for logger, handlers, _ in before:
        if handlers:
            logger.handlers = [collector]
    try:
        with redirect_stdout(stream), redirect_stderr(stream), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield stream
    finally:
        for logger, handlers, level in before:
            logger.handlers = handlers
            logger.setLevel(level)


def _is_logger(entry: object) -> bool:
    return isinstance(entry, logging.Logger)


def cause(error: BaseException) -> str:
    """The deepest cause of an error on one line, for MONAI wraps what happened in what it was doing."""
    deepest = root_cause(error)
    text = " ".join(str(deepest).split()) or "no message"
    return f"{type(deepest).__name__}: {text if len(text) <= 400 else text[:400] + ' ...'}"
