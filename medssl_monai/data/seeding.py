"""Seeding a chain of random transforms anew for every sample, without making new generators each time.

MONAI's ``set_random_state(seed=...)`` makes a new NumPy generator for each random transform, at some 60 microseconds
each: with cached volumes that is most of a sample's time. Seeding the generators that are there gives the same draws in
a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.transforms import Compose, Randomizable
from monai.utils.misc import MAX_SEED

from medssl_monai.core import derive_seed
from medssl_monai.core.randomness import Part
from medssl_monai.transforms import TwoViews

_MAX_SEED_32 = 2**32 - 1
_PROBES = (1, 20261120)  # two seeds, so that no generator matches by chance


@dataclass
class _Step:
    """How one transform takes a seed.

    Attributes:
        transform: the transform.
        generators: (transform, its generator) for each that takes the very seed; empty: ``set_random_state`` is called.
        children: steps that get seeds of their own, drawn from the first generator in this order.
    """

    transform: Randomizable
    generators: list[tuple[Randomizable, np.random.RandomState]]
    children: list[_Step]

    def seed(self, value: int) -> None:
        if not self.generators:
            self.transform.set_random_state(seed=value)
            return
        for _, generator in self.generators:
            generator.seed(value)
        own = self.generators[0][1]
        for child in self.children:
            child.seed(int(own.randint(MAX_SEED, dtype="uint32")))

    def owners(self) -> Iterator[tuple[Randomizable, np.random.RandomState]]:
        yield from self.generators
        for child in self.children:
            yield from child.owners()


class TransformSeeder:
    """Seeds a transform from parts, with the very draws of :func:`~medssl_monai.core.seed_transform`.

    How each transform hands a seed on is found out once: ``Compose`` and ``TwoViews`` draw a seed for each of their
    transforms; of any other, it is tried with two seeds whether every generator inside takes the seed itself. One for
    which that does not hold, or whose ``set_random_state`` is neither MONAI's nor ours (and may do more), is seeded by
    calling it.

    Args:
        transform: any transform; one without randomness is left alone.
    """

    def __init__(self, transform: Any) -> None:
        self.transform = transform
        self._plan: _Step | None = None

    def __call__(self, *parts: Part) -> None:
        """Seed the transform from ``parts`` (seed, epoch, sample, ...)."""
        if not isinstance(self.transform, Randomizable):
            return
        value = derive_seed(*parts) % _MAX_SEED_32
        # somebody may have given a transform another generator since; then the plan is out of date
        if self._plan is None or any(owner.R is not generator for owner, generator in self._plan.owners()):
            self._plan = None
            self.transform.set_random_state(seed=value)
            plan = _plan(self.transform)
            generators = [id(generator) for _, generator in plan.owners()]
            # the plan was tried with other seeds; two that share a generator draw from it in turn
            self._plan = plan if len(set(generators)) == len(generators) else _Step(self.transform, [], [])
        self._plan.seed(value)


def _plan(transform: Randomizable) -> _Step:
    drawing = _drawing(transform)
    if drawing is not None:
        children = [_plan(child) for child in drawing if isinstance(child, Randomizable)]
        return _Step(transform, [(transform, transform.R)], children)
    inner = list(_randomizables(transform, set()))
    known = all(_module(entry.set_random_state).split(".")[0] in ("monai", "medssl_monai") for entry in inner)
    if not known or not all(_takes_the_seed(transform, inner, probe) for probe in _PROBES):
        return _Step(transform, [], [])
    return _Step(transform, [(entry, entry.R) for entry in inner], [])


def _drawing(transform: Randomizable) -> list[Any] | None:
    """The transforms for which this one draws seeds from its own generator; ``None`` for any other rule."""
    rule = type(transform).set_random_state
    if isinstance(transform, (Compose, TwoViews)) and rule in (Compose.set_random_state, TwoViews.set_random_state):
        return list(transform.transforms)
    return None


def _module(function: Callable[..., Any]) -> str:
    return getattr(function, "__module__", None) or ""


def _takes_the_seed(transform: Randomizable, inner: list[Randomizable], seed: int) -> bool:
    transform.set_random_state(seed=seed)
    expected = np.random.RandomState(seed).get_state(legacy=False)["state"]
    states = (entry.R.get_state(legacy=False)["state"] for entry in inner)
    return all(s["pos"] == expected["pos"] and np.array_equal(s["key"], expected["key"]) for s in states)


def _randomizables(value: Any, seen: set[int]) -> Iterator[Randomizable]:
    """Every random transform reachable from ``value`` through attributes, sequences and mappings, itself first."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Randomizable):
        yield value
    if isinstance(value, (list, tuple, set)):
        for entry in value:
            yield from _randomizables(entry, seen)
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _randomizables(entry, seen)
    elif _module(type(value)).split(".")[0] not in ("builtins", "numpy", "torch") and hasattr(value, "__dict__"):
        for entry in vars(value).values():
            yield from _randomizables(entry, seen)
