"""Training and evaluation on two processes against one process with the doubled batch."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from tiny_training import CLASSES, Recorder, TinyNet, assert_state, copy_state, tiny_net
from torch.utils.data import DataLoader, Dataset
from two_processes import Pair

from medssl_monai.core import generator
from medssl_monai.core.distributed import all_gather_objects, rank, world_size
from medssl_monai.data import SampleKey, SeededBatchSampler, ShardSampler, TwoStreamBatchSampler
from medssl_monai.engines import ClassificationEvaluator, MeanTeacherTrainer, SupConTrainer
from medssl_monai.engines.objective import synchronised_batch_norm
from medssl_monai.handlers import EMATeacher, History, NonFiniteError, RunCheckpoint, RunEstimate, RunProgress
from medssl_monai.handlers.predictions import CollectOutputs, PredictionWriter
from medssl_monai.losses import SupConLoss, supervised_loss

SIZE, LABELED, EPOCHS = 37, 9, 4
REGIMES = {
    "supervised": {"supervised": 1.0},
    "src": {"supervised": 1.0, "consistency": 0.7, "relation": 0.5},
    "srcl_joint": {"supervised": 1.0, "consistency": 0.7, "relation": 0.5, "supcon": 0.3},
}


class Views(Dataset[dict[str, Any]]):
    """Two views of sample ``index``, a function of (index, epoch, repeat) as the bundles' augmentations are."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.records = [{"label": i % CLASSES} if i < LABELED else {} for i in range(SIZE)]

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        draw = generator(7, "sample", key.index).standard_normal((2, 2, 2))
        views = draw + 0.3 * generator(7, key.index, key.epoch, key.repeat).standard_normal((2, 2, 2, 2))
        view1, view2 = torch.tensor(views, dtype=self.dtype)
        return {
            "view1": view1, "view2": view2, "name": f"{key.index}.png",
            "label": self.records[key.index].get("label", -1),
        }  # fmt: skip


def trainer(
    regime: str, batch_size: int, dtype: torch.dtype = torch.float64, handlers: Any = (), **options: Any
) -> Any:
    net = {name: options.pop(name) for name in ("dropout", "batch_norm") if name in options}
    network = tiny_net(1, dtype=dtype, **{"batch_norm": False, **net})
    data = Views(dtype)
    keys = {
        "device": "cpu", "max_epochs": EPOCHS, "network": network, "train_handlers": list(handlers),
        "optimizer": torch.optim.Adam(network.parameters(), lr=0.02, weight_decay=0.01), "seed": 5, **options,
    }  # fmt: skip
    if regime == "supcon":
        sampler: Any = SeededBatchSampler(SIZE - 1, batch_size, seed=2, min_batch_size=2)
        loader = DataLoader(data, batch_sampler=sampler)
        return SupConTrainer(loss=SupConLoss(0.2, gather_distributed=True), train_data_loader=loader, **keys)
    sampler = TwoStreamBatchSampler(data.records, batch_size, batch_size // 2, seed=2)
    weights = REGIMES[regime]
    mode = keys.pop("mode", "train")
    teacher = EMATeacher(network, decay=0.9, mode=mode) if "relation" in weights else None
    return MeanTeacherTrainer(
        supervised_loss=supervised_loss("cross_entropy", [0.3, 1.0, 2.0], gather_distributed=True),
        teacher=teacher, weights=weights, teacher_warmup=0.25,
        train_data_loader=DataLoader(data, batch_sampler=sampler), **keys,
    )  # fmt: skip


def outcome(engine: Any, recorder: Recorder) -> dict[str, Any]:
    teacher = getattr(engine, "teacher", None)
    return {
        "rows": recorder.rows,
        "network": copy_state(engine.network),
        "teacher": None if teacher is None else copy_state(teacher.module),
    }


def train(regime: str, batch_size: int, dtype: torch.dtype, **options: Any) -> dict[str, Any]:
    recorder = Recorder()
    engine = trainer(regime, batch_size, dtype, [recorder], **options)
    engine.run()
    return outcome(engine, recorder)


def assert_close(one: Any, other: Any, tolerance: float) -> None:
    assert len(one["rows"]) == len(other["rows"]) > 8
    for row, expected in zip(one["rows"], other["rows"]):
        assert row == pytest.approx(expected, rel=tolerance, abs=tolerance)
    for kind in ("network", "teacher"):
        assert (one[kind] is None) == (other[kind] is None)
        for name, value in (other[kind] or {}).items():
            torch.testing.assert_close(one[kind][name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("regime", ["supervised", "src", "srcl_joint", "supcon"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=["64", "32"])
def test_trajectory_of_one_process_with_the_doubled_batch(
    pair: Pair, regime: str, dtype: torch.dtype, tolerance: float
) -> None:
    one = train(regime, 8, dtype, max_grad_norm=0.5)
    two = pair(_train_clipped, regime, 4, dtype)
    for result in two:
        assert_close(result, one, tolerance)
        assert result["network"].keys() == TinyNet(batch_norm=False).state_dict().keys()  # without `module.`
    assert_same(*two)
    first, last = one["rows"][0]["loss"], one["rows"][-1]["loss"]
    assert abs(last - first) > 0.01  # something was learnt that could have gone another way


def _train_clipped(regime: str, batch_size: int, dtype: torch.dtype) -> dict[str, Any]:
    return train(regime, batch_size, dtype, max_grad_norm=0.5)


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["rows"] == other["rows"]
    for kind in ("network", "teacher"):
        for name, value in (one[kind] or {}).items():
            assert torch.equal(value, other[kind][name]), f"{kind} {name}"


def _train_with_statistics(mode: str) -> dict[str, Any]:
    result = train("src", 4, torch.float64, batch_norm=True, dropout=0.5, mode=mode)
    buffers = [value for name, value in result["network"].items() if "running" in name]
    assert len(buffers) == 2
    return result


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_statistics_and_the_teacher_are_the_same_everywhere(pair: Pair, mode: str) -> None:
    """On the processor BatchNorm sees its process's share; what is kept is the first process's, everywhere."""
    assert_same(*pair(_train_with_statistics, mode))


def _converted(kind: str) -> tuple[list[str], bool]:
    network = tiny_net(1, batch_norm=True)
    before = copy_state(network)
    parameters = list(network.parameters())
    synchronised_batch_norm([network], torch.device(kind))
    assert_state(network, before)
    assert [a is b for a, b in zip(network.parameters(), parameters)] == [True] * len(parameters)
    return [type(module).__name__ for module in network.modules()], network.training


def test_batch_statistics_over_processes_on_gpus_only(pair: Pair) -> None:
    """The layers' own arithmetic needs GPUs; that they are put in, with the same parameters, does not."""
    for names, _ in pair(_converted, "cuda"):
        assert "SyncBatchNorm" in names
        assert "BatchNorm1d" not in names
    for names, _ in [*pair(_converted, "cpu"), _converted("cuda")]:  # nor in one process
        assert "SyncBatchNorm" not in names
        assert "BatchNorm1d" in names


def _dropped() -> tuple[list[int], list[list[bool]]]:
    seeds: list[int] = []
    masks: list[list[bool]] = []
    engine = trainer("supervised", 4, dropout=0.5)
    engine.network.dropout.register_forward_hook(
        lambda module, inputs, output: masks.append((output == 0).flatten().tolist())
    )
    engine.network.dropout.register_forward_hook(lambda *_: seeds.append(torch.initial_seed()))
    engine.run()
    return seeds, masks


def test_dropout_differs_by_process_and_repeats(pair: Pair) -> None:
    (first, first_masks), (second, second_masks) = pair(_dropped)
    assert len(set(first) | set(second)) == len(first) + len(second)
    assert first_masks != second_masks
    assert pair(_dropped) == [(first, first_masks), (second, second_masks)]


def _poisoned(where: str, process: int) -> tuple[str, int]:
    engine = trainer("srcl_joint" if where == "gathered" else "supervised", 4)
    original = engine.loss_terms

    def loss_terms(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        terms: dict[str, torch.Tensor] = original(batch)
        if engine.state.iteration == 3 and rank() == process:
            if where == "gradient":
                terms["supervised"].register_hook(lambda gradient: gradient * math.inf)
            else:
                terms["supervised"] = terms["supervised"] * math.nan
        return terms

    engine.loss_terms = loss_terms
    with pytest.raises(NonFiniteError) as caught:
        engine.run()
    return str(caught.value), engine.state.iteration


@pytest.mark.parametrize("process", [0, 1])
@pytest.mark.parametrize("where", ["loss", "gathered", "gradient"])
def test_all_stop_where_one_is_not_finite(pair: Pair, where: str, process: int) -> None:
    (message, step), (other, other_step) = pair(_poisoned, where, process)
    assert step == other_step == 3
    assert message == other
    assert ("gradient norm" if where == "gradient" else "supervised = nan") in message
    assert len(message.split("cases ")[1].split(")")[0].split()) == 8  # the cases of both


def _scaled() -> tuple[list[float], dict[str, torch.Tensor]]:
    network = tiny_net(1, dtype=torch.float32, batch_norm=False)
    scales: list[float] = []
    data = Views(torch.float32)
    engine = SupConTrainer(
        loss=SupConLoss(0.2, gather_distributed=True), device="cpu", max_epochs=1, network=network,
        train_data_loader=DataLoader(data, batch_sampler=SeededBatchSampler(SIZE, 4, min_batch_size=2)),
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), amp=True, amp_dtype="float16",
    )  # fmt: skip
    engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # small: nothing overflows by itself
    network.projector.register_forward_hook(
        lambda module, inputs, output: (
            output.register_hook(
                lambda gradient: gradient * math.inf if rank() == 1 and engine.state.iteration == 2 else gradient
            )
            and None
        )
    )
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: scales.append(engine.grad_scaler.get_scale()))
    engine.run()
    return scales, copy_state(network)


def test_gradient_scale_is_lowered_by_all(pair: Pair) -> None:
    (scales, state), (other_scales, other) = pair(_scaled)
    assert scales == other_scales
    assert scales[:2] == [1024.0, 512.0]
    assert set(scales[1:]) == {512.0}
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert all(value.isfinite().all() for value in state.values())


def _estimated(measured: bool) -> dict[str, Any]:
    recorder = Recorder()
    estimate = RunEstimate()
    engine = trainer("srcl_joint", 4, torch.float64, [estimate, recorder] if measured else [recorder], dropout=0.3)
    engine.run()
    assert (estimate.minutes is not None) == measured
    return outcome(engine, recorder)


def test_measuring_a_step_changes_nothing(pair: Pair) -> None:
    plain, measured = pair(_estimated, False), pair(_estimated, True)
    assert_same(plain[0], measured[0])
    assert_same(plain[1], measured[1])


def _resumable(folder: str, stop_at: int | None, resume: bool) -> dict[str, Any]:
    recorder = Recorder()
    network_handlers: list[Any] = []
    engine = trainer("srcl_joint", 4, torch.float64, [], dropout=0.3)
    history = History(folder, engine.optimizer, tensorboard_dir=Path(folder) / "tensorboard")
    checkpoint = RunCheckpoint(
        folder, {"network": engine.network, "teacher": engine.teacher, "optimizer": engine.optimizer}, {"seed": 5},
        resume=resume, every=2,
    )  # fmt: skip
    network_handlers += [recorder, history, RunProgress(), checkpoint]
    engine.handlers = network_handlers
    engine._register_handlers(network_handlers)

    def stop() -> None:
        if engine.state.iteration == stop_at:
            raise KeyboardInterrupt

    engine.add_event_handler(Events.ITERATION_STARTED, stop)
    if stop_at is None:
        engine.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            engine.run()
    return {**outcome(engine, recorder), "history": history.rows}


def _without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_stopped_within_an_epoch_and_resumed(pair: Pair, tmp_path: Path) -> None:
    whole = pair(_resumable, str(tmp_path / "whole"), None, False)
    steps = len(whole[0]["rows"]) // EPOCHS
    stop_at = steps + 4
    pair(_resumable, str(tmp_path / "run"), stop_at, False)
    resumed = pair(_resumable, str(tmp_path / "run"), None, True)
    for result, expected in zip(resumed, whole):
        done = len(expected["rows"]) - len(result["rows"])
        assert steps < done < stop_at  # from within the second epoch
        result["rows"] = expected["rows"][:done] + result["rows"]
        assert_same(result, expected)
        assert _without_seconds(result["history"]) == _without_seconds(expected["history"])
    one, other = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("run", "whole"))
    assert _without_seconds(one) == _without_seconds(other)
    assert len(one) == EPOCHS
    # the history is that of the trajectory's means
    means = [np.mean([row["loss"] for row in whole[0]["rows"][e * steps :][:steps]]) for e in range(EPOCHS)]
    assert [row["loss"] for row in other] == pytest.approx(means, rel=1e-12)
    events = list((tmp_path / "whole" / "tensorboard").iterdir())
    assert len(events) == 1  # one process wrote curves


def _resume_alone(folder: str) -> str:
    with pytest.raises(
        Exception, match="the checkpoint was made with other settings: processes: 2 there, 1 here"
    ) as caught:
        _resumable(folder, None, True)
    return str(caught.value)


def test_another_number_of_processes_does_not_resume(pair: Pair, tmp_path: Path) -> None:
    pair(_resumable, str(tmp_path), 6, False)
    assert world_size() == 1
    _resume_alone(str(tmp_path))


class Images(Dataset[dict[str, Any]]):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        values = generator(11, index).standard_normal((2, 2, 2))
        return {"image": torch.tensor(values), "label": index % CLASSES, "name": f"{index}.png"}


class Collected(CollectOutputs):
    pass


def _evaluate(size: int, divided: bool, folder: str) -> dict[str, Any]:
    network = tiny_net(3, batch_norm=True)
    images = Images(size)
    loader = DataLoader(images, batch_size=2, sampler=ShardSampler(images) if divided else None)
    collected = Collected()
    seen: list[str] = []
    evaluator = ClassificationEvaluator(
        device="cpu", val_data_loader=loader, network=network,
        val_handlers=[collected, PredictionWriter(folder, list("abc"))],
    )  # fmt: skip
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.extend(evaluator.state.batch["name"]))
    evaluator.run()
    ran = bool(size)
    return {
        "metrics": dict(evaluator.state.metrics) if ran else {},
        "names": collected.names if ran else [],
        "outputs": collected.outputs if ran else np.empty(0),
        "labels": collected.labels if ran else np.empty(0),
        "seen": all_gather_objects(seen),
    }


@pytest.mark.parametrize("divided", [True, False])
@pytest.mark.parametrize("size", [11, 8, 2, 1, 0])
def test_evaluation_is_that_of_one_process(pair: Pair, size: int, divided: bool, tmp_path: Path) -> None:
    one = _evaluate(size, divided, str(tmp_path / "one"))
    two = pair(_evaluate, size, divided, str(tmp_path / "two"))
    for result in two:
        # nan where a single image leaves the metric undefined
        assert result["metrics"] == pytest.approx(one["metrics"], rel=0, abs=0, nan_ok=True)
        assert result["names"] == one["names"] == [f"{i}.png" for i in range(size)]
        np.testing.assert_allclose(result["outputs"], one["outputs"], rtol=1e-6)
        np.testing.assert_array_equal(result["labels"], one["labels"])
    shares = two[0]["seen"]
    if divided and size >= 2:
        assert sorted(shares[0] + shares[1]) == sorted(one["names"])  # nobody twice
        assert abs(len(shares[0]) - len(shares[1])) <= 1
    if size:
        tables = [_table(tmp_path / name / "inference.csv") for name in ("one", "two")]
        assert [row["image"] for row in tables[0]] == [row["image"] for row in tables[1]]
        assert tables[0] == tables[1]
        assert {path.name for path in (tmp_path / "two").iterdir()} - {".lock"} == {"inference.csv"}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))
