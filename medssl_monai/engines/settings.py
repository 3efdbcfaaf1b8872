"""Ranges of the numbers that a configuration gives, told by their keys before any image is prepared."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.metrics import target_sensitivity


@dataclass(frozen=True)
class _Range:
    """What a number may be.

    Attributes:
        holds: whether it is in the range.
        expected: the range in words.
        whole: whether it is a whole number.
        optional: whether ``None`` will do.
    """

    holds: Callable[[float], bool]
    expected: str
    whole: bool = False
    optional: bool = False

    def takes(self, value: object) -> bool:
        if value is None:
            return self.optional
        number = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
        return number and math.isfinite(value) and self.holds(value)  # type: ignore[arg-type]


def _count(expected: str = "a whole number, 1 or more", least: int = 1, optional: bool = False) -> _Range:
    return _Range(lambda value: value >= least, expected, whole=True, optional=optional)


_RANGES = {
    "batch_size": _count(),
    "max_epochs": _count(),
    "steps_per_epoch": _count("a whole number, 1 or more, or null for all batches", optional=True),
    # Three times halved, as by the smallest nets, one pixel is left of 8.
    "image_size": _count("a whole number of pixels, 8 or more", least=8),
    "load_size": _count("a whole number of pixels, 8 or more", least=8),
    "val_interval": _count("a whole number of epochs, 1 or more"),
    "cache_rate": _Range(lambda value: 0 <= value <= 1, "a share of the images, from 0 to 1"),
    "micro_batch_size": _count("1 or more, or null for one pass", optional=True),
    "queue_size": _count("a whole number, 1 or more, or null", optional=True),
    "momentum": _Range(lambda value: 0 <= value < 1, "at least 0, below 1, or null", optional=True),
    "lr_warmup": _Range(lambda value: 0 <= value < 1, "a share of max_epochs, at least 0, below 1"),
    "max_grad_norm": _Range(lambda value: value > 0, "a number above 0, or null for no clipping", optional=True),
}


def _rule(value: object) -> bool:
    try:
        target_sensitivity(value)  # type: ignore[arg-type]
    except (ValueError, AttributeError):
        return False
    return True


def _percentiles(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    numbers = [one for one in value if isinstance(one, (int, float)) and not isinstance(one, bool)]
    return len(numbers) == 2 and 0 <= numbers[0] < numbers[1] <= 100


#: what is no number: whether it is as it should be, and that in words
_OTHERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "operating_rule": (_rule, "youden, or sensitivity@0.90 (a target above 0, up to 1)"),
    "percentiles": (_percentiles, "two numbers from 0 to 100, the lower first"),
}
_WHAT = {
    "operating_rule": "rule of the operating points",
    "percentiles": "percentiles that become 0 and 1",
    "max_grad_norm": "largest norm of the gradient",
    "micro_batch_size": "samples of a micro-batch",
    "lr_warmup": "share of the warm-up",
    "momentum": "momentum of the encoder of the keys",
}


def check_settings(*, required: Sequence[str] = (), **settings: Any) -> None:
    """Refuse numbers that cannot be.

    It stands early in ``initialize``, so that nobody waits for data to be prepared before a slip is told.

    Args:
        required: keys that may not be ``None`` here, whatever they may be elsewhere.
        **settings: keys of the configuration and their values, of ``batch_size``, ``max_epochs``, ``steps_per_epoch``,
            ``image_size`` and ``load_size`` (pixels), ``val_interval``, ``cache_rate``, ``micro_batch_size``,
            ``queue_size``, ``momentum``, ``lr_warmup``, ``max_grad_norm``, ``operating_rule`` and ``percentiles``.

    Raises:
        ConfigError: for a value of the wrong kind or outside its range, naming the key; or a key of no known range.
    """
    for key, value in settings.items():
        if key in _OTHERS:
            holds, expected = _OTHERS[key]
        elif key in _RANGES:
            holds, expected = _RANGES[key].takes, _RANGES[key].expected
        else:
            raise ConfigError("no range is known of it", where=key, advice=did_you_mean(key, [*_RANGES, *_OTHERS]))
        if not holds(value) or (value is None and key in required):
            found = repr(value) if isinstance(value, str) else value
            raise ConfigError(
                _WHAT.get(key, key.replace("_", " ")), where=key, found="null" if value is None else found,
                expected=expected.split(", or null")[0] if key in required else expected,
            )  # fmt: skip
