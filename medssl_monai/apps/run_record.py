"""``<stage>_run.json`` beside a stage's configuration: what was asked for, on which machine, and how long it took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medssl_monai.core import bundle_dir, read_json, write_json
from medssl_monai.core.environment import describe_hardware, versions


def start_record(
    bundle: str | Path, stage: str, overrides: Mapping[str, Any], overlays: Sequence[str] = ()
) -> dict[str, Any]:
    """What is known when a stage starts; ``seconds`` stays ``None`` until it has ended well.

    Returns:
        ``stage``, ``bundle`` (its folder's name), ``bundle_version``, ``started`` (ISO 8601, UTC), ``seconds``,
        ``versions``, ``hardware``, ``overlays`` and ``overrides`` (plain values).
    """
    root = bundle_dir(bundle)
    return {
        "stage": stage,
        "bundle": root.name,
        "bundle_version": read_json(root / "configs" / "metadata.json").get("version"),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": None,
        "versions": versions(),
        "hardware": describe_hardware(),
        "overlays": [str(name) for name in overlays],
        # YAML knows dates and the like, JSON does not: they stand as text
        "overrides": json.loads(json.dumps(dict(overrides), default=str)),
    }


def write_record(folder: str | Path, record: Mapping[str, Any]) -> None:
    """Write a record into the folder of its stage."""
    write_json(Path(folder) / f"{record['stage']}_run.json", record)
