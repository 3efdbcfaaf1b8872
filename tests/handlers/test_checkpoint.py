"""A run that is stopped and resumed is the run never stopped."""

from __future__ import annotations

import logging
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler
from tiny_training import EpochLoader, Recorder, assert_state, copy_state, tiny_net

from medssl_monai.core import CheckpointError, ConfigError, DataError, OutputError
from medssl_monai.engines import MeanTeacherTrainer, exponential_with_warmup
from medssl_monai.handlers import EMATeacher, History, ModelExport, NonFiniteError, RunCheckpoint, load_tensors
from medssl_monai.handlers.storage import CheckpointFile
from medssl_monai.losses import ProbabilityMSELoss

SETTINGS = {"seed": 3, "regime": "src", "nested": [1, (2, 3)]}


class Run:
    """A trainer with everything a run holds, dropout and momentum included."""

    def __init__(
        self, folder: Path, epochs: int = 4, resume: bool = False, every: int | None = None, **kwargs: Any
    ) -> None:
        self.network = kwargs.pop("network", None) or tiny_net(dropout=0.4)
        self.teacher = EMATeacher(self.network, decay=0.8)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.05, weight_decay=1e-3)
        self.scheduler = exponential_with_warmup(self.optimizer, 0.9, warmup_epochs=1.0)
        self.history = History(folder, self.optimizer)
        self.recorder = Recorder()
        objects = {
            "network": self.network, "teacher": self.teacher, "optimizer": self.optimizer,
            "lr_scheduler": self.scheduler, "history": self.history, "nothing": None, **kwargs.pop("objects", {}),
        }  # fmt: skip
        self.checkpoint = RunCheckpoint(folder, objects, kwargs.pop("settings", SETTINGS), resume, every=every)
        handlers = [LrScheduleHandler(self.scheduler, print_lr=False), self.history, self.recorder, self.checkpoint]
        self.trainer = MeanTeacherTrainer(
            device="cpu", max_epochs=epochs, train_data_loader=EpochLoader(), network=self.network, seed=3,
            optimizer=self.optimizer, supervised_loss=ProbabilityMSELoss(), teacher=self.teacher, teacher_warmup=0.25,
            weights={"supervised": 1.0, "consistency": 1.0, "relation": 1.0}, train_handlers=handlers,
        )  # fmt: skip

    def stop_after(self, epochs: int, step: int = 0) -> Run:
        """Break off after so many epochs and steps, as a process that is killed does."""

        def stop(engine: Engine) -> None:
            if engine.state.iteration == 3 * epochs + step + 1:
                raise KeyboardInterrupt

        self.trainer.add_event_handler(Events.ITERATION_STARTED, stop)
        with pytest.raises(KeyboardInterrupt):
            self.trainer.run()
        return self

    def go(self) -> Run:
        self.trainer.run()
        return self

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in self.history.rows]


def assert_same_run(one: Run, other: Run) -> None:
    assert_state(one.network, copy_state(other.network))
    assert_state(one.teacher.module, copy_state(other.teacher.module))
    assert one.teacher.updates == other.teacher.updates
    assert one.rows == other.rows
    assert one.scheduler.state_dict() == other.scheduler.state_dict()
    moments, others = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert moments["param_groups"] == others["param_groups"]
    for key, value in moments["state"].items():
        assert all(torch.equal(tensor, others["state"][key][name]) for name, tensor in value.items())
    assert (one.trainer.state.epoch, one.trainer.state.iteration) == (
        other.trainer.state.epoch,
        other.trainer.state.iteration,
    )


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize(("epochs", "step"), [(2, 0), (2, 2), (3, 1), (1, 0), (0, 2)])
def test_a_resumed_run_is_the_run_never_stopped(tmp_path: Path, epochs: int, step: int, every: int | None) -> None:
    whole = Run(tmp_path / "whole").go()
    assert len(whole.recorder.rows) == 12
    stopped = Run(tmp_path / "run", every=every).stop_after(epochs, step)
    assert stopped.recorder.rows == whole.recorder.rows[: 3 * epochs + step]
    done = 3 * epochs + step
    saved = 3 * epochs if every is None else max(3 * epochs, done // every * every)
    # another initial network shows that nothing is taken from it
    network = tiny_net(seed=9 if saved else 0, dropout=0.4)
    resumed = Run(tmp_path / "run", resume=True, network=network).go()
    assert resumed.recorder.rows == whole.recorder.rows[saved:]
    assert_same_run(resumed, whole)


def test_a_run_may_be_stopped_and_resumed_many_times(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").go()
    for step in range(1, 12):
        Run(tmp_path / "run", resume=step > 1, every=1).stop_after(*divmod(step, 3))
    assert_same_run(Run(tmp_path / "run", resume=True).go(), whole)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    whole = Run(tmp_path).go()
    completed = []
    again = Run(tmp_path, resume=True)
    again.trainer.add_event_handler(Events.COMPLETED, lambda: completed.append(1))
    again.go()
    assert (again.recorder.rows, completed) == ([], [1])
    assert_same_run(again, whole)


def test_without_resume_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    Run(tmp_path).go()
    run = Run(tmp_path, settings={"seed": 4}).go()
    assert len(run.recorder.rows) == 12
    assert load_tensors(tmp_path / "checkpoint.pt")["settings"] == '{"seed": 4}'


def test_resume_without_a_checkpoint_begins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        run = Run(tmp_path, resume=True).go()
    assert len(run.recorder.rows) == 12
    assert "checkpoint.pt yet, the run starts from the beginning" in caplog.text


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path: Path) -> None:
    Run(tmp_path).go()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(content) == {"objects", "epoch", "iteration", "settings", "processes", "versions", "digest"}
    assert set(content["objects"]) == {"network", "teacher", "optimizer", "lr_scheduler", "history"}
    assert (content["epoch"], content["iteration"]) == (4, 12)
    assert {"medssl-monai", "python", "torch", "monai"} <= set(content["versions"])
    assert [path.name for path in tmp_path.glob(".*")] == [".lock"]


def test_handlers_with_a_state_are_saved_with_the_run(tmp_path: Path) -> None:
    def run(resume: bool, values: dict[int, float]) -> tuple[ModelExport, History, History]:
        network = tiny_net()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        evaluator = Engine(lambda engine, batch: None)
        selection = ModelExport(network, tmp_path, evaluator)
        first, second = (History(tmp_path, optimizer, filename=name) for name in ("a.json", "b.json"))
        checkpoint = RunCheckpoint(tmp_path, {"network": network, "named": second}, {}, resume=resume)

        class Validate:
            def attach(self, engine: Engine) -> None:
                engine.add_event_handler(Events.EPOCH_COMPLETED, self)

            def __call__(self, engine: Engine) -> None:
                evaluator.state.epoch = engine.state.epoch
                evaluator.state.metrics = {"macro_auroc": values[engine.state.epoch]}

        MeanTeacherTrainer(
            device="cpu", max_epochs=max(values), train_data_loader=EpochLoader(), network=network, optimizer=optimizer,
            supervised_loss=ProbabilityMSELoss(), weights={"supervised": 1.0},
            train_handlers=[Validate(), selection, first, second, History(tmp_path / "c", optimizer), checkpoint],
        ).run()  # fmt: skip
        return selection, first, second

    run(False, {1: 0.6, 2: 0.8})
    assert set(load_tensors(tmp_path / "checkpoint.pt")["objects"]) == {
        "network", "named", "ModelExport", "History", "History 2",
    }  # fmt: skip
    served = (tmp_path / "model.pt").read_bytes()
    selection, first, second = run(True, {3: 0.7, 4: 0.75})
    assert (selection.best_value, selection.best_epoch) == (0.8, 2)
    assert (tmp_path / "model.pt").read_bytes() == served
    assert [row["epoch"] for row in first.rows] == [row["epoch"] for row in second.rows] == [1, 2, 3, 4]


def test_other_settings_are_refused_all_at_once(tmp_path: Path) -> None:
    Run(tmp_path).go()
    with pytest.raises(ConfigError) as caught:
        Run(tmp_path, resume=True, settings={**SETTINGS, "seed": 4, "regime": "srcl", "new": True}).go()
    message = str(caught.value)
    assert f"{tmp_path / 'checkpoint.pt'}: the checkpoint was made with other settings: " in message
    assert "new: None there, True here; regime: 'src' there, 'srcl' here; seed: 3 there, 4 here" in message
    assert "nested" not in message
    assert message.endswith("Give the same settings, name another ckpt_dir, or start anew with resume=False.")


def test_another_network_is_refused_with_what_differs(tmp_path: Path) -> None:
    Run(tmp_path).go()
    network = tiny_net(dropout=0.4)
    network.encoder = torch.nn.Sequential(
        network.encoder[0], network.encoder[1], torch.nn.Identity(), network.encoder[2]
    )
    with pytest.raises(
        CheckpointError, match=r"network does not fit this run: .*Missing key.*encoder\.3.*another network"
    ):
        Run(tmp_path, resume=True, network=network).go()
    with pytest.raises(
        CheckpointError, match=r"selection does not fit this run: it is not in the file\. It is of another"
    ):
        Run(tmp_path, resume=True, objects={"selection": ModelExport(tiny_net(), tmp_path)}).go()
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    content, _ = file.load()
    content["objects"]["history"] = None
    file.save(content)
    with pytest.raises(CheckpointError, match=r"history does not fit this run: 'NoneType' object is not subscriptable"):
        Run(tmp_path, resume=True).go()


@pytest.mark.parametrize("damaged", ["newest", "both"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tmp_path: Path, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Run(tmp_path / "whole").go()
    Run(tmp_path / "run", every=1).stop_after(2, 2)
    file = CheckpointFile(tmp_path / "run" / "checkpoint.pt")
    for path in [file.path] + [file.previous] * (damaged == "both"):
        path.write_bytes(path.read_bytes()[:-2000])
    if damaged == "both":
        with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not a readable checkpoint"):
            Run(tmp_path / "run", resume=True).go()
        return
    resumed = Run(tmp_path / "run", resume=True, network=tiny_net(seed=9, dropout=0.4)).go()
    assert "The one before it is used instead: " in caplog.text
    assert resumed.recorder.rows == whole.recorder.rows[7:]
    assert_same_run(resumed, whole)


def send_sigterm(run: Run, step: int) -> Run:
    """The cluster's signal arrives within the given step (from 1)."""
    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: os.kill(os.getpid(), signal.SIGTERM))
    return run


@pytest.mark.parametrize("step", [1, 5, 6, 12])
def test_sigterm_saves_after_the_step_and_ends_with_143(tmp_path: Path, step: int) -> None:
    whole = Run(tmp_path / "whole").go()
    before = signal.getsignal(signal.SIGTERM)
    completed = []
    run = send_sigterm(Run(tmp_path / "run"), step)
    run.trainer.add_event_handler(Events.COMPLETED, lambda: completed.append(1))
    with pytest.raises(SystemExit) as caught:
        run.go()
    assert caught.value.code == 143
    assert completed == []  # what follows a complete training is left to the run that goes on
    assert signal.getsignal(signal.SIGTERM) == before
    assert run.recorder.rows == whole.recorder.rows[:step]
    resumed = Run(tmp_path / "run", resume=True, network=tiny_net(seed=9, dropout=0.4)).go()
    assert resumed.recorder.rows == whole.recorder.rows[step:]
    assert_same_run(resumed, whole)


def test_a_second_sigterm_does_not_wait_for_the_step(tmp_path: Path) -> None:
    run = Run(tmp_path, every=1)
    run.trainer.add_event_handler(
        Events.ITERATION_STARTED(once=4), lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]
    )
    with pytest.raises(SystemExit) as caught:
        run.go()
    assert caught.value.code == 143
    assert (len(run.recorder.rows), CheckpointFile(tmp_path / "checkpoint.pt").load()[0]["iteration"]) == (3, 3)


def test_sigterm_that_kills_the_workers_too_saves_what_is_whole(tmp_path: Path) -> None:
    # the cluster signals all processes: the loader's workers die, and fetching the next batch fails
    whole = Run(tmp_path / "whole").go()
    for step, event in ((4, Events.GET_BATCH_STARTED), (5, Events.ITERATION_STARTED)):
        folder = tmp_path / event.name
        run = Run(folder)

        def fail(engine: Engine, step: int = step) -> None:
            if engine.state.iteration == step:
                os.kill(os.getpid(), signal.SIGTERM)
                raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

        run.trainer.add_event_handler(event, fail)
        with pytest.raises(SystemExit) as caught:
            run.go()
        assert caught.value.code == 143
        # between two steps the state is whole and saved; within one only the last epoch's end is
        saved = CheckpointFile(folder / "checkpoint.pt").load()[0]["iteration"]
        assert saved == (4 if event is Events.GET_BATCH_STARTED else 3)
        assert_same_run(Run(folder, resume=True).go(), whole)


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    run = Run(tmp_path)
    other = Run(tmp_path)
    refused: list[str] = []

    def start() -> None:
        with pytest.raises(OutputError, match="another run is writing in this folder") as caught:
            other.go()
        refused.append(str(caught.value))

    run.trainer.add_event_handler(Events.ITERATION_STARTED(once=2), start)
    run.go()
    assert len(refused) == 1
    assert other.recorder.rows == []
    other.go()  # free again


def test_a_dataset_that_changed_is_named(tmp_path: Path) -> None:
    Run(tmp_path, settings={**SETTINGS, "data_fingerprint": "a"}).go()
    with pytest.raises(DataError, match="the dataset has changed since this checkpoint") as caught:
        Run(tmp_path, resume=True, settings={**SETTINGS, "data_fingerprint": "b"}).go()
    assert "Put the dataset back as it was, name another ckpt_dir, or start anew" in str(caught.value)


def test_steps_between_checkpoints_are_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"checkpoint_every: steps between checkpoints \(found 0, expected 1 or more\)"
    ):
        RunCheckpoint(tmp_path, {}, {}, every=0)


def test_a_non_finite_loss_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path, every=1)
    original = run.trainer.loss_terms

    def poisoned(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        terms = original(batch)
        if run.trainer.state.iteration == 8:
            terms["relation"] = terms["relation"] * math.nan
        return terms

    run.trainer.loss_terms = poisoned  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"non-finite value at step 8: relation = nan") as caught:
        run.go()
    message = str(caught.value)
    assert "learning rate 0.0" in message
    assert "case" in message
    assert "png" not in message  # names are hashed
    state, _ = CheckpointFile(tmp_path / "checkpoint.pt").load()
    assert state["iteration"] == 7
    assert all(bool(tensor.isfinite().all()) for tensor in state["objects"]["network"].values())


def test_objects_beyond_tensors_are_not_loaded(tmp_path: Path) -> None:
    torch.save({"network": Path("x")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt: not a readable checkpoint"):
        load_tensors(tmp_path / "a.pt")


def test_a_folder_that_is_a_file_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    for handler in (ModelExport(tiny_net(), tmp_path / "models"), RunCheckpoint(tmp_path / "models", {}, {})):
        with pytest.raises(OutputError, match=r"models: an output folder is needed here, but this is a file"):
            handler.attach(Engine(lambda engine, batch: None))
