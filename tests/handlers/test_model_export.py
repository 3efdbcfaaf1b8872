"""What is served is the best network on validation, or the last."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Engine, Events
from tiny_training import tiny_net

from medssl_monai.handlers import ModelExport, load_tensors


def export(
    folder: Path, values: list[float | None], epochs: int | None = None, **kwargs: Any
) -> tuple[ModelExport, list[int]]:
    """Epochs whose validation gives ``values`` (``None``: not validated); returns the epochs that were saved."""
    network = tiny_net()
    evaluator = Engine(lambda engine, batch: None)
    handler = ModelExport(network, folder, evaluator, **kwargs)
    trainer = Engine(lambda engine, batch: network.classifier.bias.data.fill_(engine.state.epoch))
    saved: list[int] = []

    def validate(engine: Engine) -> None:
        value = values[engine.state.epoch - 1]
        if value is not None:
            evaluator.state.epoch = engine.state.epoch
            evaluator.state.metrics = {"macro_auroc": value}

    def look(engine: Engine) -> None:
        if handler.path.is_file():
            saved.append(int(load_tensors(handler.path)["classifier.bias"][0]))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    handler.attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, look)
    trainer.run([0], max_epochs=epochs or len(values))
    return handler, saved


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.5, 0.7, 0.6, 0.7], [1, 2, 2, 2]),  # of equals, the earlier
        ([0.9, None, 0.8, None], [1, 1, 1, 1]),  # an epoch without validation keeps what there is
        ([None, 0.3, None, 0.4], [2, 2, 4]),
        ([NAN, 0.2, NAN], [2, 2]),
        ([NAN, NAN, 0.1], [3]),
        ([NAN, NAN, NAN], [3]),  # undefined throughout: the last
        ([None, None], [2]),
        ([0.0, 0.0], [1, 1]),
    ],
)
def test_the_best_epoch_on_validation_is_kept(tmp_path: Path, values: list[float | None], kept: list[int]) -> None:
    handler, saved = export(tmp_path, values)
    assert saved == kept
    assert handler.best_epoch == kept[-1]


def test_a_metric_that_was_never_defined_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export(tmp_path, [0.5, NAN])
    assert not caplog.records
    export(tmp_path, [NAN, NAN])
    assert "macro_auroc was undefined in every epoch: the last epoch's network is kept" in caplog.text


def test_without_selection_the_last_epoch_is_kept(tmp_path: Path) -> None:
    assert export(tmp_path / "a", [0.9, 0.1, 0.2], select=False)[1] == [1, 2, 3]
    network = tiny_net()
    trainer = Engine(lambda engine, batch: None)
    handler = ModelExport(network, tmp_path / "b", filename="pretrain.pt", attribute="encoder")
    handler.attach(trainer)
    trainer.run([0], max_epochs=2)
    assert (tmp_path / "b" / "pretrain.pt").is_file()
    network.encoder.load_state_dict(load_tensors(tmp_path / "b" / "pretrain.pt"))  # the keys of the sub-module alone


def test_a_resumed_selection_does_not_forget_the_best(tmp_path: Path) -> None:
    first, _ = export(tmp_path, [0.8, 0.9])
    evaluator = Engine(lambda engine, batch: None)
    resumed = ModelExport(tiny_net(), tmp_path, evaluator)
    resumed.load_state_dict(first.state_dict())
    before = (tmp_path / "model.pt").read_bytes()
    trainer = Engine(lambda engine, batch: None)
    trainer.state.epoch, trainer.state.max_epochs = 3, 3
    evaluator.state.epoch, evaluator.state.metrics = 3, {"macro_auroc": 0.85}
    resumed.epoch_completed(trainer)
    assert (tmp_path / "model.pt").read_bytes() == before
    assert (resumed.best_value, resumed.best_epoch) == (0.9, 2)
