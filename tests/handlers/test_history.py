"""The history: means over the steps of an epoch, written, logged and drawn."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from medssl_monai.handlers import History

STEPS = [
    [{"supervised": 1.0}, {"supervised": 3.0}],
    # the second term begins within an epoch: its mean is over its own steps
    [{"supervised": 2.0}, {"supervised": 4.0, "consistency": 0.5}],
    [{"supervised": math.nan, "consistency": 0.25}, {"supervised": 1.0, "consistency": 0.75}],
]


def run(folder: Path, validated: dict[int, float], **kwargs: Any) -> History:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.8)
    evaluator = Engine(lambda engine, batch: None)

    def step(engine: Engine, number: int) -> dict[str, Any]:
        terms = {name: torch.tensor(value) for name, value in STEPS[engine.state.epoch - 1][number].items()}
        return {"loss": torch.stack(list(terms.values())).sum(), "terms": terms}

    trainer = Engine(step)

    def finish(engine: Engine) -> None:
        if engine.state.epoch in validated:
            evaluator.state.epoch = engine.state.epoch
            evaluator.state.metrics = {"macro_auroc": validated[engine.state.epoch]}
        optimizer.param_groups[0]["lr"] /= 2  # the schedule steps before the history is written

    trainer.add_event_handler(Events.EPOCH_COMPLETED, finish)
    history = History(folder, optimizer, evaluator, **kwargs)
    history.attach(trainer)
    trainer.run([0, 1], max_epochs=3)
    return history


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_rows_are_means_of_the_epoch_s_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        history = run(tmp_path, {1: 0.75, 3: math.nan})
    rows = without_seconds(history.rows)
    assert rows[0] == {"epoch": 1, "learning_rate": 0.8, "loss": 2.0, "supervised": 2.0, "val_macro_auroc": 0.75}
    assert rows[1] == {"epoch": 2, "learning_rate": 0.4, "loss": 3.25, "supervised": 3.0, "consistency": 0.5}
    assert rows[2]["consistency"] == 0.5
    assert math.isnan(rows[2]["supervised"])
    assert all(row["seconds"] >= 0 for row in history.rows)
    # the file has no word for not-a-number
    stored = without_seconds(json.loads((tmp_path / "history.json").read_text()))
    assert stored[:2] == rows[:2]
    assert stored[2]["supervised"] is stored[2]["val_macro_auroc"] is None
    assert "epoch 1/3  learning_rate 0.8  loss 2  supervised 2  val_macro_auroc 0.75  seconds" in caplog.text
    assert [record.message[:9] for record in caplog.records] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_rows_survive_a_resume(tmp_path: Path) -> None:
    history = run(tmp_path / "a", {})
    other = History(tmp_path / "b", torch.optim.SGD([torch.zeros(1)], lr=1.0))
    state = history.state_dict()
    other.load_state_dict(state)
    assert other.rows[:2] == history.rows[:2]
    other.rows[0]["epoch"] = 99
    assert history.rows[0]["epoch"] == 1


def test_tensorboard_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, {1: 0.75}, tensorboard_dir=tmp_path / "tb", filename="other.json")
    assert (tmp_path / "other.json").is_file()
    curves = EventAccumulator(str(tmp_path / "tb"))
    curves.Reload()
    assert {"loss", "supervised", "consistency", "learning_rate", "val_macro_auroc"} <= set(curves.Tags()["scalars"])
    assert [(e.step, e.value) for e in curves.Scalars("loss")[:2]] == [(1, 2.0), (2, 3.25)]
    assert [e.step for e in curves.Scalars("consistency")] == [2, 3]
