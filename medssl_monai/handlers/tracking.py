"""Runs in MLflow: the rows of the run's history, its settings, and the test metrics of its evaluation."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler

from medssl_monai.core import ConfigError, make_folder, read_json, text_digest, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.handlers.history import History
from medssl_monai.handlers.prediction_files import TEST
from medssl_monai.handlers.predictions import EvaluationWriter

logger = logging.getLogger(__name__)

#: beside the checkpoints: which MLflow run each stage has
MLFLOW_FILE = "mlflow.json"
_SQLITE = "sqlite:///"


def _without_password(uri: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", uri)


def _require_mlflow(uri: str) -> None:
    """Refuse to start where MLflow is not installed; set what our users need of it, unless they have set it themselves.

    Its telemetry is off, and a server that does not answer is given up after seconds: MLflow's own seven attempts, each
    twice as far from the last, would hold every epoch for minutes, and the end of a process that is told to end.
    """
    try:
        if uri.startswith("sqlite:"):
            import alembic  # noqa: F401
            import sqlalchemy  # noqa: F401
        # MONAI may have imported MLflow before this could be set: it is asked to look again
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
        from mlflow.telemetry import set_telemetry_client
    except ImportError as error:
        raise ConfigError(
            f"MLflow, or what it needs for this store, is not installed ({error})", where="mlflow_uri",
            found=_without_password(uri),
            advice='Install it with `pip install "medssl-monai[mlflow]"`, or set mlflow_uri=null.',
        ) from error  # fmt: skip
    set_telemetry_client()  # type: ignore[no-untyped-call]


def _store_errors() -> tuple[type[Exception], ...]:
    """What a store that cannot be opened raises: MLflow lets errors of the database through, or of a missing driver."""
    from mlflow.exceptions import MlflowException

    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:  # a server's client does without
        return (MlflowException, ValueError)
    return (MlflowException, ValueError, ImportError, SQLAlchemyError)


class _TrackedRun(MLFlowHandler):  # type: ignore[misc]
    """One run in a store: MONAI's handler, which knows the stores, told when and what to log by ours.

    MONAI finds a run that goes on by its name; two runs of one name would become one. Ours is known by its id.
    """

    experiment: Any
    cur_run: Any

    def __init__(self, uri: str, experiment: str) -> None:
        if uri.startswith(_SQLITE):
            make_folder(Path(unquote(uri.removeprefix(_SQLITE))).parent)
        try:
            super().__init__(tracking_uri=uri, iteration_log=False, experiment_name=experiment)
            self._set_experiment()  # type: ignore[no-untyped-call]
        except _store_errors() as error:
            raise ConfigError(
                f"MLflow cannot use this store: {_without_password(' '.join(str(error).split()))[:300]}",
                where="mlflow_uri", found=_without_password(uri), expected="sqlite:///FILE or the URL of a server",
                advice="See that the server answers or the file can be written; mlflow_uri=null runs without either.",
            ) from error  # fmt: skip

    def find(self, run_id: str | None) -> bool:
        """Go on with a run; ``False`` where the store does not have it (any more)."""
        from mlflow.exceptions import MlflowException

        if run_id is None:
            return False
        try:
            found = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if found.info.lifecycle_stage == "active":
            self.cur_run = found
        return self.cur_run is not None

    def create(self, stage: str, parameters: Mapping[str, Any]) -> str:
        """Begin a run; returns its id."""
        tags = {"stage": stage, **{f"version.{name}": text for name, text in versions().items()}}
        name = f"{stage} {datetime.now(UTC).isoformat(timespec='seconds')}"
        self.cur_run = self.client.create_run(self.experiment.experiment_id, tags=tags, run_name=name)
        self._log_params(dict(parameters))
        return str(self.cur_run.info.run_id)

    def steps(self, metric: str) -> set[int]:
        """Steps at which a metric of this run is logged."""
        return {entry.step for entry in self.client.get_metric_history(self.cur_run.info.run_id, metric)}

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics in one transaction."""
        self._log_metrics(dict(metrics), step=step)

    def go_on(self) -> None:
        """Mark a run that had ended as running."""
        self.client.update_run(self.cur_run.info.run_id, status="RUNNING")

    def end(self, status: str) -> None:
        """Say how the run has ended: ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_terminated(self.cur_run.info.run_id, status)

    def leave(self) -> None:
        """Release the store; the run keeps its status."""
        self.cur_run = None
        self.close()


class _Records:
    """Which MLflow run each stage of a run folder has, by store; kept as digests, because a URI may hold a password."""

    def __init__(self, folder: str | Path, uri: str) -> None:
        self.path = Path(folder) / MLFLOW_FILE
        self.store = text_digest([os.environ.get("MLFLOW_TRACKING_URI") or uri])

    def get(self, stage: str) -> str | None:
        """The run's id."""
        content = read_json(self.path) if self.path.is_file() else {}
        entry = content.get(stage, {})
        return entry.get("run_id") if entry.get("store") == self.store else None

    def set(self, stage: str, run_id: str) -> None:
        """Keep a run's id."""
        content = read_json(self.path) if self.path.is_file() else {}
        write_json(self.path, {**content, stage: {"store": self.store, "run_id": run_id}})


class MLflowTracking:
    """Logs a training run to MLflow: a step an epoch, with every loss term, learning rate and validation metric.

    Parameters are the run's settings; neither names nor paths of images are among them. A resumed run goes on in the
    same MLflow run, and an epoch that is repeated because it was not yet in the checkpoint is not logged twice. With
    several processes the first one logs. A store that fails during the run is a warning: the rows are sent again with
    the next epoch, and ``history.json`` has them all. The environment variable ``MLFLOW_TRACKING_URI`` precedes
    ``uri``, as it does in MONAI.

    It must stand behind the trainer's :class:`History`, whose rows it logs, in the list of handlers.

    Args:
        uri: the bundle's key ``mlflow_uri``: ``sqlite:///FILE`` or a server's URL; ``None`` logs nothing.
        folder: ``mlflow.json`` with the ids of the runs is kept here.
        settings: plain values; ``bundle`` names the experiment, ``stage`` the run.

    Raises:
        ConfigError: when MLflow is not installed, (as it is attached) no history stands before it, or (as the run
            begins) the store cannot be used.
    """

    history: History

    def __init__(self, uri: str | None, folder: str | Path, settings: Mapping[str, Any]) -> None:
        self.uri, self.settings = uri, settings
        self.run: _TrackedRun | None = None
        self._logged: set[int] = set()
        if uri is not None:
            _require_mlflow(uri)
            self.records = _Records(folder, uri)

    def attach(self, engine: Engine) -> None:
        """Follow ``engine`` (the trainer)."""
        handlers = list(getattr(engine, "handlers", []))
        before = handlers[: handlers.index(self)] if self in handlers else []
        found = [handler for handler in before if isinstance(handler, History)]
        if self.uri is not None and not found:
            raise ConfigError(
                "MLflow logs the rows of the history, and none stands before it", where="train::handlers",
                expected="medssl_monai.handlers.History before medssl_monai.handlers.MLflowTracking",
            )  # fmt: skip
        if self.uri is not None and is_main():
            self.history = found[0]
            # not at STARTED: a later handler restores the state of a resumed run then
            engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Begin the run, or find that of the checkpoint this one goes on from."""
        if self.run is None:
            self._open(resumed=engine.state.iteration > 0)

    def epoch_completed(self, engine: Engine) -> None:
        """Log the epoch, and those that the store has refused before."""
        self._send()

    def after_run(self, engine: Engine, error: BaseException | None = None) -> None:
        """Say how the run has ended."""
        if self.uri is None or not is_main():
            return
        if self.run is None and error is None and engine.state.iteration > 0:
            self._open(resumed=True)  # nothing was left to do: the run may have been killed before it said so
        if self.run is None:
            return
        complete = engine.state.iteration >= (engine.state.max_epochs or 0) * (engine.state.epoch_length or 0)
        stopped = isinstance(error, (KeyboardInterrupt, SystemExit)) or (error is None and not complete)
        self._send("KILLED" if stopped else "FINISHED" if error is None else "FAILED")
        self.run.leave()
        self.run = None

    def _open(self, resumed: bool) -> None:
        assert self.uri is not None  # noqa: S101  (attached only then)
        stage = str(self.settings["stage"])
        run = _TrackedRun(self.uri, str(self.settings["bundle"]))
        if resumed and run.find(self.records.get(stage)):
            run.go_on()
            self._logged = run.steps("loss")
        else:
            self.records.set(stage, run.create(stage, self.settings))
        self.run = run

    def _send(self, status: str | None = None) -> None:
        from mlflow.exceptions import MlflowException

        assert self.run is not None  # noqa: S101  (called behind _open)
        try:
            for row in self.history.rows:
                if row["epoch"] not in self._logged:
                    self.run.log({name: value for name, value in row.items() if name != "epoch"}, row["epoch"])
                    self._logged.add(row["epoch"])
            if status is not None:
                self.run.end(status)
        except MlflowException as error:
            missing = len({row["epoch"] for row in self.history.rows} - self._logged)
            text = _without_password(" ".join(str(error).split()))[:300]
            logger.warning("MLflow lacks %d epochs (%s has them all): %s", missing, self.history.path.name, text)


class MLflowMetrics:
    """Logs the test metrics of an evaluation to the MLflow run of the training it evaluates.

    Estimates and 95 % limits are named ``test_...``; the first evaluation is step 0, a repeated one the next step.
    Where training was not logged in this store, the evaluation gets a run of its own.

    It must stand behind ``writer`` in the list of handlers.

    Args:
        uri: as for :class:`MLflowTracking`.
        folder: the folder of ``mlflow.json``, that of the checkpoints.
        writer: the handler that computes the metrics.

    Raises:
        ConfigError: as for :class:`MLflowTracking`.
    """

    def __init__(self, uri: str | None, folder: str | Path, writer: EvaluationWriter) -> None:
        self.uri, self.writer = uri, writer
        if uri is not None:
            _require_mlflow(uri)
            self.records = _Records(folder, uri)

    def attach(self, engine: Engine) -> None:
        """Log when ``engine`` (an evaluator) is done."""
        if self.uri is not None and is_main():
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_completed(self, engine: Engine) -> None:
        """Log the metrics of the writer's report."""
        assert self.uri is not None  # noqa: S101  (attached only then)
        settings = self.writer.serving["settings"]
        run = _TrackedRun(self.uri, str(settings["bundle"]))
        if not any(run.find(self.records.get(stage)) for stage in ("train", "evaluate")):
            self.records.set("evaluate", run.create("evaluate", settings))
            run.end("FINISHED")
        metrics = flat_metrics(self.writer.report)
        step = max(run.steps(next(iter(metrics))), default=-1) + 1 if metrics else 0
        run.log(metrics, step)
        run.leave()


def flat_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Estimates and 95 % limits of a report, as flat names; what is undefined is left out.

    Names begin with the split, ``test`` or ``validation``.
    """
    split = report.get("split", TEST)
    found: dict[str, float | None] = {f"{split}_n": report["n"], f"{split}_n_subjects": report["n_subjects"]}
    for name, entry in report["metrics"].items():
        low, high = entry["interval_95"] or (None, None)
        found |= {f"{split}_{name}": entry["estimate"], f"{split}_{name}_low_95": low, f"{split}_{name}_high_95": high}
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
