"""Which labels a run used, written beside it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from ignite.engine import Engine

from medssl_monai.data import Datalist, Item, select_budget
from medssl_monai.data.budget import Budget
from medssl_monai.handlers import BudgetRecord, label_counts


def budget(n_validation: int, **kwargs: float) -> Budget:
    splits = {
        "training": [Item(f"t{i}.png", i % 2, f"subject:t{i // 2}") for i in range(40)],
        "validation": [Item(f"v{i}.png", i % 2, f"subject:v{i}") for i in range(n_validation)],
        "unlabeled": [Item(f"u{i}.png", None, f"subject:u{i}") for i in range(3)],
    }
    return select_budget(Datalist("d", "multiclass", ["a", "b"], splits), **kwargs)


def test_written_and_logged_when_the_run_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = budget(20, label_fraction=None)
    engine = Engine(lambda engine, batch: None)
    BudgetRecord(chosen, tmp_path / "models").attach(engine)
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        engine.run([0])
    content = json.loads((tmp_path / "models" / "budget.json").read_text())
    assert content == json.loads(json.dumps(chosen.to_json()))
    assert (len(content["training"]), len(content["validation"]), content["n_unlabeled"]) == (40, 20, 3)
    assert [record.message for record in caplog.records] == [
        "labels: 40 for training (20 subjects), 20 for validation (20 subjects); 3 images without label"
    ]


def test_too_few_validation_labels_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    BudgetRecord(budget(20, label_budget=20), tmp_path, "pretrain_budget.json").write()
    assert (tmp_path / "pretrain_budget.json").is_file()
    assert "too few validation labels (4) to choose by: the last epoch's network is kept" in caplog.text


def test_counts_name_no_item() -> None:
    chosen = budget(20)
    counts = label_counts(chosen)
    assert counts["n_labels_training"] == 40
    assert counts["classes_training"] == {"a": 20, "b": 20}
    assert not any(name in json.dumps(counts) for name in ("t0.png", "v0.png", "subject:"))
