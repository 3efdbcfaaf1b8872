"""``<stage>_run.json``: asked for what, when, where, how long."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import monai
import pytest
from fake_bundle import make_bundle

from medssl_monai.apps.run import run_stage
from medssl_monai.core import DataError
from medssl_monai.core.environment import describe_hardware


def test_a_run_leaves_its_record(tmp_path: Path) -> None:
    bundle, run = make_bundle(tmp_path / "b"), tmp_path / "run"
    overlay = tmp_path / "o.yaml"
    overlay.write_text("seed: 4\n")
    before = datetime.now(UTC)
    run_stage(bundle, "train", {"rate": 0.25, "regime": date(2026, 1, 2)}, [str(overlay)], run)
    record = json.loads((run / "models" / "train_run.json").read_text())
    assert (record["stage"], record["bundle"], record["bundle_version"]) == ("train", "fake_classification", "0.1.0")
    started = datetime.fromisoformat(record["started"])
    assert started.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= started <= datetime.now(UTC)
    assert 0 <= record["seconds"] <= (datetime.now(UTC) - started).total_seconds() + 1
    assert record["versions"]["monai"] == monai.__version__
    assert record["hardware"] == describe_hardware()
    assert record["overlays"] == [str(overlay)]
    assert record["overrides"] == {"rate": 0.25, "regime": "2026-01-02"}
    run_stage(bundle, "evaluate", {}, run_dir=run)
    assert json.loads((run / "eval" / "evaluate_run.json").read_text())["stage"] == "evaluate"


def test_a_run_that_failed_has_no_seconds(tmp_path: Path) -> None:
    bundle, run = make_bundle(tmp_path / "b"), tmp_path / "run"
    run_stage(bundle, "train", {}, run_dir=run)
    with pytest.raises(DataError, match="the data is broken"):
        run_stage(bundle, "train", {"regime": "broken"}, run_dir=run)
    record = json.loads((run / "models" / "train_run.json").read_text())
    assert (record["seconds"], record["overrides"]) == (None, {"regime": "broken"})
