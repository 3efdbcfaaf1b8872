"""MLflow: one run a training run however often it is stopped, no step twice, test metrics beside it, clear refusals."""

from __future__ import annotations

import builtins
import json
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from tiny_training import EpochLoader, tiny_net

from medssl_monai.core import ConfigError
from medssl_monai.engines import MeanTeacherTrainer
from medssl_monai.handlers import History, MLflowMetrics, MLflowTracking, RunCheckpoint
from medssl_monai.losses import ProbabilityMSELoss

mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
SETTINGS = {"bundle": "a_classification", "stage": "train", "seed": 0, "labels": ["x", "y"]}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store for all tests: its tables take a second to make. In a folder that does not exist yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/new folder/mlruns.db"


def settings(name: str, **more: Any) -> dict[str, Any]:
    """Settings of an experiment of its own."""
    return {**SETTINGS, "bundle": name, **more}


class StopAt:
    """Stops a run behind the logs of an epoch and before its checkpoint."""

    def __init__(self, epoch: int, error: BaseException | None) -> None:
        self.epoch, self.error = epoch, error

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if engine.state.epoch == self.epoch:
            if self.error is not None:
                raise self.error
            engine.terminate()


def train(
    folder: Path, uri: str | None, values: dict[str, Any], resume: bool = False, epochs: int = 3, extra: Any = None
) -> tuple[MLflowTracking, History]:
    network = tiny_net(dropout=0.2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    history = History(folder, optimizer)
    tracking = MLflowTracking(uri, folder, values)
    last = RunCheckpoint(folder, {"network": network, "optimizer": optimizer}, values, resume=resume)
    MeanTeacherTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=EpochLoader(), network=network, optimizer=optimizer,
        supervised_loss=ProbabilityMSELoss(), weights={"supervised": 1.0},
        train_handlers=[history, tracking, *([extra] if extra else []), last],
    ).run()  # fmt: skip
    return tracking, history


def runs(uri: str, experiment: str) -> list[Any]:
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def logged(uri: str, run: Any, name: str) -> list[tuple[int, float]]:
    history = mlflow.MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, name)
    return sorted((entry.step, entry.value) for entry in history)


def expected(history: History, name: str) -> list[tuple[int, float]]:
    return [(row["epoch"], pytest.approx(row[name], rel=1e-12)) for row in history.rows]


def test_rows_settings_versions_and_status(uri: str, tmp_path: Path) -> None:
    _, history = train(tmp_path, uri, settings("plain"))
    (run,) = runs(uri, "plain")
    assert len(history.rows) == 3
    for name in ("loss", "supervised", "learning_rate", "seconds"):
        assert logged(uri, run, name) == expected(history, name)
    assert run.data.params == {"bundle": "plain", "stage": "train", "seed": "0", "labels": "['x', 'y']"}
    assert run.data.tags["stage"] == "train"
    assert run.data.tags["version.torch"] == torch.__version__
    assert run.info.run_name.startswith("train 20")
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time
    record = json.loads((tmp_path / "mlflow.json").read_text())
    assert record["train"]["run_id"] == run.info.run_id
    assert "sqlite" not in (tmp_path / "mlflow.json").read_text()  # a URI may hold a password


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("damaged"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (None, "KILLED")]
)
def test_a_resumed_run_goes_on_in_its_own_and_logs_no_step_twice(
    error: BaseException | None, status: str, uri: str, tmp_path: Path
) -> None:
    values = settings(f"resumed {status} {error!r}".replace("(", " ").replace(")", " "))
    if error is None:  # ends as SIGTERM makes it end
        train(tmp_path, uri, values, extra=StopAt(2, None))
    else:
        with pytest.raises(type(error)):
            train(tmp_path, uri, values, extra=StopAt(2, error))
    (first,) = runs(uri, values["bundle"])
    assert first.info.status == status
    assert [step for step, _ in logged(uri, first, "loss")] == [1, 2]
    _, history = train(tmp_path, uri, values, resume=True)
    (second,) = runs(uri, values["bundle"])
    assert (second.info.run_id, second.info.status) == (first.info.run_id, "FINISHED")
    # the second epoch was computed again, to the same numbers, because its checkpoint was not yet written
    assert [row["epoch"] for row in history.rows] == [1, 2, 3]
    assert logged(uri, second, "loss") == expected(history, "loss")


def test_a_run_that_starts_anew_has_a_run_of_its_own(uri: str, tmp_path: Path) -> None:
    train(tmp_path, uri, settings("anew"))
    train(tmp_path, uri, settings("anew"))
    found = runs(uri, "anew")
    assert len(found) == 2
    record = json.loads((tmp_path / "mlflow.json").read_text())
    assert record["train"]["run_id"] == found[0].info.run_id  # the later one: the store lists it first
    assert [len(logged(uri, run, "loss")) for run in found] == [3, 3]


def test_a_run_that_was_killed_when_all_was_done_is_finished_by_resuming(uri: str, tmp_path: Path) -> None:
    train(tmp_path, uri, settings("late"))
    (run,) = runs(uri, "late")
    mlflow.MlflowClient(tracking_uri=uri).update_run(run.info.run_id, status="RUNNING")
    train(tmp_path, uri, settings("late"), resume=True)
    (again,) = runs(uri, "late")
    assert again.info.status == "FINISHED"
    assert [step for step, _ in logged(uri, again, "loss")] == [1, 2, 3]


def test_mlflow_may_join_later_and_the_run_may_be_gone(uri: str, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        train(tmp_path, None, settings("joined"), extra=StopAt(3, RuntimeError()))
    assert not (tmp_path / "mlflow.json").exists()
    with pytest.raises(RuntimeError):
        train(tmp_path, uri, settings("joined"), resume=True, extra=StopAt(3, RuntimeError()))
    (run,) = runs(uri, "joined")
    assert [step for step, _ in logged(uri, run, "loss")] == [1, 2, 3]  # those before it joined too
    mlflow.MlflowClient(tracking_uri=uri).delete_run(run.info.run_id)
    train(tmp_path, uri, settings("joined"), resume=True)
    (other,) = runs(uri, "joined")
    assert other.info.run_id != run.info.run_id
    assert [step for step, _ in logged(uri, other, "loss")] == [1, 2, 3]


def test_only_the_first_process_logs(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.handlers.tracking.is_main", lambda: False)
    train(tmp_path, uri, settings("second process"))
    assert runs(uri, "second process") == []


def test_a_store_that_fails_is_a_warning_and_is_told_again(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from medssl_monai.handlers import tracking

    log, calls = tracking._TrackedRun.log, []

    def failing(self: Any, metrics: dict[str, float], step: int) -> None:
        calls.append(step)
        if len(calls) < 3:
            raise mlflow.MlflowException("no answer from https://me:secret@server")
        log(self, metrics, step)

    monkeypatch.setattr(tracking._TrackedRun, "log", failing)
    with caplog.at_level(logging.WARNING):
        _, history = train(tmp_path, uri, settings("failing"))
    assert calls == [1, 1, 1, 2, 3]
    assert [r.message for r in caplog.records if "MLflow lacks" in r.message] == [
        f"MLflow lacks {n} epochs (history.json has them all): no answer from https://...@server" for n in (1, 2)
    ]
    (run,) = runs(uri, "failing")
    assert logged(uri, run, "loss") == expected(history, "loss")


# --- evaluation
def evaluate(folder: Path, uri: str | None, name: str, auroc: float) -> None:
    undefined = {"estimate": None, "interval_90": None, "interval_95": None}
    report = {
        "n": 20, "n_subjects": 12,
        "metrics": {"macro_auroc": {"estimate": auroc, "interval_95": [0.5, 0.9]}, "other": undefined},
    }  # fmt: skip
    writer: Any = SimpleNamespace(report=report, serving={"settings": settings(name)})
    engine = Engine(lambda *_: None)
    MLflowMetrics(uri, folder, writer).attach(engine)
    engine.run([0])


def test_test_metrics_join_the_training_run(uri: str, tmp_path: Path) -> None:
    train(tmp_path, uri, settings("evaluated"))
    evaluate(tmp_path, uri, "evaluated", 0.75)
    evaluate(tmp_path, uri, "evaluated", 0.875)
    evaluate(tmp_path, None, "evaluated", 0.1)
    (run,) = runs(uri, "evaluated")
    assert run.info.status == "FINISHED"
    assert logged(uri, run, "test_macro_auroc") == [(0, 0.75), (1, 0.875)]
    assert {k: v for k, v in run.data.metrics.items() if k.startswith("test_")} == {
        "test_n": 20, "test_n_subjects": 12, "test_macro_auroc": 0.875, "test_macro_auroc_low_95": 0.5,
        "test_macro_auroc_high_95": 0.9,
    }  # fmt: skip


def test_an_evaluation_alone_has_a_run_of_its_own(uri: str, tmp_path: Path) -> None:
    evaluate(tmp_path, uri, "alone", 0.75)
    evaluate(tmp_path, uri, "alone", 0.5)
    (run,) = runs(uri, "alone")
    assert (run.data.tags["stage"], run.info.status) == ("evaluate", "FINISHED")
    assert logged(uri, run, "test_macro_auroc") == [(0, 0.75), (1, 0.5)]


# --- refusals
@pytest.mark.parametrize("missing", ["mlflow", "sqlalchemy", "alembic"])
def test_mlflow_that_is_not_installed(missing: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(missing):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    writer: Any = None
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as caught:
        MLflowTracking(uri, tmp_path, SETTINGS)
    with pytest.raises(ConfigError, match=r'pip install "medssl-monai\[mlflow\]"'):
        MLflowMetrics(uri, tmp_path, writer)
    MLflowTracking(None, tmp_path, SETTINGS)
    monkeypatch.undo()
    text = str(caught.value)
    assert text.startswith("mlflow_uri: MLflow, or what it needs for this store, is not installed (No module named")
    assert text.endswith('Install it with `pip install "medssl-monai[mlflow]"`, or set mlflow_uri=null.')


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("file:///somewhere/mlruns", "no longer supports the filesystem"),
        ("mlruns", "no longer supports the filesystem"),
        ("nonsense://me:secret@place", "."),
        ("postgresql://me:secret@place.invalid/x", "."),  # no driver, or no such place
        ("http://me:secret@127.0.0.1:9", "Max retries exceeded"),
        ("sqlite:///{folder}/notes.txt", "file is not a database"),
    ],
)
def test_a_store_that_cannot_be_used(wrong: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (tmp_path / "notes.txt").write_text("my notes, which are not a database" * 10)
    before = (tmp_path / "notes.txt").read_bytes()
    with pytest.raises(ConfigError, match=rf"^mlflow_uri: MLflow cannot use this store: .*{reason}") as caught:
        train(tmp_path / "run", wrong.format(folder=tmp_path), settings("x"))
    assert str(caught.value).endswith(
        "expected sqlite:///FILE or the URL of a server). See that the server answers or the file can be written; "
        "mlflow_uri=null runs without either."
    )
    assert "secret" not in str(caught.value)
    assert (tmp_path / "notes.txt").read_bytes() == before


def test_what_is_logged_must_stand_before(uri: str, tmp_path: Path) -> None:
    engine = Engine(lambda engine, batch: None)
    tracking = MLflowTracking(uri, tmp_path, SETTINGS)
    engine.handlers = [tracking, History(tmp_path, torch.optim.SGD([torch.zeros(1)], lr=0.1))]  # type: ignore[attr-defined]
    with pytest.raises(
        ConfigError, match=r"train::handlers: MLflow logs the rows of the history, and none stands before"
    ):
        tracking.attach(engine)
    MLflowTracking(None, tmp_path, SETTINGS).attach(engine)


def test_telemetry_is_off_unless_it_was_asked_for(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.telemetry import get_telemetry_client

    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    MLflowTracking(uri, tmp_path, SETTINGS)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert get_telemetry_client() is None
    monkeypatch.setattr("mlflow.telemetry.set_telemetry_client", lambda: None)  # nothing is sent from here
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")
    MLflowTracking(uri, tmp_path, SETTINGS)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"
