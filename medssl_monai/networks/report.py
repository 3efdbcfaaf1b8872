"""What a loading of weights did, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_SHOWN = 5


@dataclass(frozen=True)
class LoadReport:
    """What was loaded from where; ``str()`` gives a table, long lists cut to their first lines.

    Attributes:
        source: file, package or URL the weights came from.
        network: the network they went into.
        matched: the network's keys that got a value, also those renamed or adapted.
        renamed: key in the source -> key of the network, where they differ.
        adapted: network key -> how its value was changed to fit (a stem for another number of channels).
        kept: network keys the source lacks and need not have (the batch counters that older files leave out).
        missing: network keys the source lacks.
        skipped: key in the source -> why it was not used.
    """

    source: str
    network: str
    matched: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    adapted: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every key of the network that must have a value got one."""
        return bool(self.matched) and not self.missing

    def __str__(self) -> str:
        total = len(self.matched) + len(self.kept) + len(self.missing)
        rows: list[tuple[str, int, list[str]]] = [
            (f"matched (of {total})", len(self.matched), []),
            ("renamed", len(self.renamed), [f"{old} -> {new}" for old, new in self.renamed.items()]),
            ("adapted", len(self.adapted), [f"{key}: {how}" for key, how in self.adapted.items()]),
            ("kept", len(self.kept), list(self.kept)),
            ("missing", len(self.missing), list(self.missing)),
            ("skipped", len(self.skipped), [f"{key}: {why}" for key, why in self.skipped.items()]),
        ]
        lines = [f"weights for {self.network} from {self.source}"]
        for name, count, entries in rows:
            lines.append(f"  {name:<18} {count:>5}")
            lines += [f"    {entry}" for entry in entries[:_SHOWN]]
            if len(entries) > _SHOWN:
                lines.append(f"    ... and {len(entries) - _SHOWN} more")
        return "\n".join(lines)
