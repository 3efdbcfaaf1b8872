"""References in a circle, which MONAI finds only when it builds what they are in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from monai.bundle import ConfigComponent, ConfigExpression, ReferenceResolver

from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Stage


def cycle_problems(stage: Stage) -> Iterator[Problem]:
    """One problem for each place at which a way along the references comes back to where it has been."""
    config: Any = stage.parser.config
    needs = {
        place: sorted(set(_needs(place, value)))
        for key, item in config.items()
        if key != "_meta_"
        for place, value in _items(str(key), item)
    }
    done: set[str] = set()
    told: set[frozenset[str]] = set()
    for start in needs:
        if start in done:
            continue
        way, open_ends = [start], [iter(needs[start])]
        while way:
            following = next(open_ends[-1], None)
            if following is None:
                done.add(way.pop())
                open_ends.pop()
            elif following in way:
                cycle = _turned(way[way.index(following) :])
                if frozenset(cycle) not in told:
                    told.add(frozenset(cycle))
                    what = f"refers to itself in a circle: {' -> '.join([*cycle, cycle[0]])}"
                    yield stage.file.problem("MONAI", cycle[0], what, "Give one of them a value of its own.")
            elif following in needs and following not in done:
                way.append(following)
                open_ends.append(iter(needs[following]))


def _items(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values that can be referred to, from the top; texts among them."""
    yield place, value
    if isinstance(value, dict | list):
        for _, below, item in ReferenceResolver.iter_subconfigs(place, value):
            yield from _items(below, item)


def _needs(place: str, value: Any) -> Iterator[str]:
    """As ``ReferenceResolver.find_refs_in_config``, but what a component or expression within needs is left to it."""
    if isinstance(value, str):
        yield from ReferenceResolver.match_refs_pattern(value)
    elif isinstance(value, dict | list):
        for _, below, item in ReferenceResolver.iter_subconfigs(place, value):
            if ConfigComponent.is_instantiable(item) or ConfigExpression.is_expression(item):
                yield below
            else:
                yield from _needs(below, item)


def _turned(cycle: list[str]) -> list[str]:
    """The circle from its first place in the alphabet, so that it is the same from wherever it was entered."""
    first = cycle.index(min(cycle))
    return cycle[first:] + cycle[:first]
