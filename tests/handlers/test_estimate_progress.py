"""The estimate before a run and the bar over it: neither changes a number."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from tiny_training import EpochLoader, Recorder, assert_state, copy_state, tiny_net

from medssl_monai.engines import MeanTeacherTrainer
from medssl_monai.handlers import EMATeacher, RunCheckpoint, RunEstimate, RunProgress
from medssl_monai.losses import ProbabilityMSELoss


def train(handlers: list[Any], epochs: int = 3, loader: EpochLoader | None = None) -> tuple[Any, Recorder]:
    network, recorder = tiny_net(dropout=0.4), Recorder()
    teacher = EMATeacher(network)
    engine = MeanTeacherTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=loader or EpochLoader(), network=network, teacher=teacher,
        weights={"supervised": 1.0, "relation": 1.0}, supervised_loss=ProbabilityMSELoss(),
        optimizer=torch.optim.Adam(network.parameters(), lr=0.1), train_handlers=[*handlers, recorder],
    )  # fmt: skip
    engine.run()
    return engine, recorder


def test_the_estimate_has_no_effect_on_the_run(caplog: pytest.LogCaptureFixture) -> None:
    estimate = RunEstimate()
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        measured, rows = train([estimate])
    plain, expected = train([])
    assert rows.rows == expected.rows
    assert_state(measured.network, copy_state(plain.network))
    assert_state(measured.teacher.module, copy_state(plain.teacher.module))
    lines = [record.message for record in caplog.records if record.message.startswith("estimate")]
    pattern = (
        r"estimate: about \d+\.\d minutes \(3 epochs of 3 steps, \d+ ms a step, validation not counted\), "
        r"\d+\.\d GiB memory"
    )
    assert len(lines) == 1
    assert re.fullmatch(pattern, lines[0])
    assert estimate.minutes is not None
    assert 0 < estimate.minutes < 1
    assert estimate.gibibytes > 0.05


def test_minutes_are_steps_times_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class SlowLoader(EpochLoader):
        num_workers = 0

    estimate, loader = RunEstimate(), SlowLoader(steps=2)
    loader.set_epoch(0)
    clock = iter([10.0, 14.0])  # fetching a batch takes 4 s
    monkeypatch.setattr("medssl_monai.handlers.estimate.time.perf_counter", lambda: next(clock))
    engine = Engine(lambda engine, batch: None)
    engine.data_loader, engine.measure_step = loader, lambda batch: 2.0  # type: ignore[attr-defined]
    engine.state.device = torch.device("cpu")  # type: ignore[attr-defined]
    engine.state.epoch, engine.state.max_epochs, engine.state.epoch_length = 1, 10, 6
    estimate(engine)
    assert estimate.minutes == pytest.approx(10 * 6 * (2 + 4) / 60)

    with_workers = RunEstimate()
    clock = iter([10.0, 14.0])
    loader.num_workers = 4
    with_workers(engine)
    assert with_workers.minutes == pytest.approx(10 * 6 * max(2, 4 / 4) / 60)


def test_the_estimate_of_a_resumed_run_counts_what_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def checkpoint(engine_objects: dict[str, Any], resume: bool) -> RunCheckpoint:
        return RunCheckpoint(tmp_path, engine_objects, {}, resume=resume)

    train([checkpoint({}, False)], epochs=2)
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        # the checkpoint is the last of the handlers, the estimate the first
        train([RunEstimate(), checkpoint({}, True)], epochs=5)
    assert "(3 epochs of 3 steps" in caplog.text


class Screen:
    """Stands for tqdm and notes what it is told."""

    made: list[Screen] = []  # noqa: RUF012

    def __init__(self, **kwargs: Any) -> None:
        self.settings, self.steps, self.closed, self.descriptions = kwargs, 0, False, []
        Screen.made.append(self)

    def set_description(self, text: str, refresh: bool = True) -> None:
        self.descriptions.append(text)

    def update(self) -> None:
        self.steps += 1

    def close(self) -> None:
        self.closed = True


def test_one_bar_over_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.handlers.progress.tqdm", Screen)
    Screen.made = []
    train([RunProgress("src")])
    (bar,) = Screen.made
    assert bar.settings == {"total": 9, "initial": 0, "unit": "step", "disable": None}
    assert (bar.steps, bar.closed) == (9, True)
    assert bar.descriptions == ["src, epoch 1/3", "src, epoch 2/3", "src, epoch 3/3"]


def test_the_bar_goes_on_where_a_run_is_resumed_and_closes_when_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.handlers.progress.tqdm", Screen)
    Screen.made = []

    class Resume:
        def attach(self, engine: Engine) -> None:
            engine.add_event_handler(Events.STARTED, self)
            engine.add_event_handler(Events.ITERATION_STARTED(once=8), self.fail)

        def __call__(self, engine: Engine) -> None:
            engine.state.epoch, engine.state.iteration = 1, 3

        def fail(self, engine: Engine) -> None:
            raise ValueError("out of memory")

    with pytest.raises(ValueError, match="out of memory"):
        train([RunProgress(), Resume()])
    (bar,) = Screen.made
    assert (bar.settings["total"], bar.settings["initial"], bar.steps, bar.closed) == (9, 3, 4, True)


def test_no_bar_is_drawn_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    train([RunProgress()])
    assert "epoch" not in capfd.readouterr().err
