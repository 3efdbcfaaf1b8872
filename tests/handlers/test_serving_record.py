"""What is stored with the weights: calibration on validation, profile of the inputs, the weights it belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from scipy.optimize import minimize_scalar
from tiny_images import image_dataset
from tiny_training import assert_state, copy_state, tiny_net

from medssl_monai.core import CheckpointError
from medssl_monai.data import select_budget
from medssl_monai.handlers import (
    LoadModel,
    ServingRecord,
    read_serving,
    save_tensors,
    serving_exclusive,
    serving_labels,
    serving_temperature,
)
from medssl_monai.transforms import DescribeInputd

NAMES = ["a", "b", "c"]


def validation(count: int = 60) -> list[dict[str, Any]]:
    """Batches whose labels follow the trained network's logits, with noise, so that a temperature is defined."""
    rng = np.random.default_rng(1)
    images = torch.tensor(rng.standard_normal((count, 2, 2, 2)))
    with torch.no_grad():
        logits = 3 * trained().eval()(images).numpy()
    labels = torch.tensor((logits + rng.gumbel(size=logits.shape)).argmax(1))
    return [{"image": images[i : i + 16], "label": labels[i : i + 16]} for i in range(0, count, 16)]


def trained() -> Any:
    return tiny_net(seed=7)


def record(tmp_path: Path, calibrate: bool = True, network: Any = None, **kwargs: Any) -> ServingRecord:
    if not (tmp_path / "data").exists():
        image_dataset(tmp_path / "data", training=4)
    datalist = image_dataset(tmp_path / "data", training=4)
    save_tensors(trained().state_dict(), tmp_path / "models" / "model.pt")
    budget = select_budget(datalist, validation_share=0.0)
    loading = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), DescribeInputd("image")])
    return ServingRecord(
        tmp_path / "models", network or tiny_net(seed=1), validation(), NAMES, calibrate=calibrate,
        records=budget.records("training"), loading=loading, budget=budget, settings={"seed": 3}, **kwargs,
    )  # fmt: skip


def test_calibration_uses_the_weights_that_are_served_and_leaves_the_network(tmp_path: Path) -> None:
    network = tiny_net(seed=1)
    before = copy_state(network)
    record(tmp_path, network=network).write()
    assert_state(network, before)
    assert network.training

    content = json.loads((tmp_path / "models" / "serving.json").read_text())
    data = validation()
    with torch.no_grad():
        logits = torch.cat([trained().eval()(entry["image"]) for entry in data])
    labels = torch.cat([entry["label"] for entry in data])

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / temperature, labels))

    best = minimize_scalar(loss, bounds=(0.02, 20), method="bounded", options={"xatol": 1e-7})
    assert content["temperature"] == pytest.approx(best.x, rel=1e-3)
    assert set(content["operating_points"]) == set(NAMES)
    assert content["operating_points"]["a"]["n_positive"] == int((labels == 0).sum())
    assert content["calibration_note"] == "set on 60 validation images"
    assert content["labels"] == NAMES
    assert content["settings"] == {"seed": 3}
    assert content["label_counts"]["n_labels_training"] == 4
    assert content["inputs"]["n"] == 4
    assert (content["inputs"]["width"], content["inputs"]["height"]) == ([12.0, 12.0], [10.0, 10.0])
    assert content["model_sha256"] == hashlib.sha256((tmp_path / "models" / "model.pt").read_bytes()).hexdigest()
    assert "torch" in content["versions"]
    assert not any(text in json.dumps(content) for text in ("00.png", "subject:"))  # no case name leaves with it


def test_written_when_the_run_is_complete(tmp_path: Path) -> None:
    from ignite.engine import Engine

    engine = Engine(lambda engine, batch: None)
    record(tmp_path).attach(engine)
    assert not (tmp_path / "models" / "serving.json").exists()
    engine.run([0])
    assert read_serving(tmp_path / "models", NAMES)["labels"] == NAMES


def test_too_few_validation_labels_set_nothing(tmp_path: Path) -> None:
    record(tmp_path, calibrate=False).write()
    content = read_serving(tmp_path / "models")
    assert (content["temperature"], content["operating_points"]) == (None, {})
    assert content["calibration_note"] == "too few validation labels to set a temperature or operating points"
    assert serving_temperature(tmp_path / "models") == 1.0


def test_the_rule_is_passed_on(tmp_path: Path) -> None:
    record(tmp_path, rule="sensitivity@0.90").write()
    points = read_serving(tmp_path / "models")["operating_points"]
    assert {point["rule"] for point in points.values()} == {"sensitivity@0.90"}
    assert all(point["sensitivity"] >= 0.9 for point in points.values() if point["threshold"] is not None)


def test_temperature_of_the_folder(tmp_path: Path) -> None:
    assert serving_temperature(tmp_path) == 1.0
    record(tmp_path).write()
    assert serving_temperature(tmp_path / "models") == read_serving(tmp_path / "models")["temperature"] != 1.0


def test_labels_of_the_folder(tmp_path: Path) -> None:
    assert serving_labels(tmp_path / "models", ["no", "yes"]) == ["no", "yes"]
    record(tmp_path).write()
    assert serving_labels(tmp_path / "models", ["no", "yes"]) == NAMES


def test_kind_of_the_outputs(tmp_path: Path) -> None:
    assert serving_exclusive(tmp_path / "models")
    assert not serving_exclusive(tmp_path / "models", default=False)
    record(tmp_path).write()
    assert serving_exclusive(tmp_path / "models", default=False)
    path = tmp_path / "models/serving.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "exclusive": False}))
    assert not serving_exclusive(tmp_path / "models")


def test_errors_of_reading(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"models: no serving\.json here\. The train stage writes it beside model\.p"
    ):
        read_serving(tmp_path / "models")
    record(tmp_path).write()
    with pytest.raises(
        CheckpointError, match=r"trained for other labels \(found \['a', 'b', 'c'\], expected \['b', 'a'\]\)"
    ):
        read_serving(tmp_path / "models", ["b", "a"])
    save_tensors(tiny_net(seed=2).state_dict(), tmp_path / "models" / "model.pt")
    with pytest.raises(
        CheckpointError, match=r"serving\.json belongs to another model\.pt\. Thresholds and temperature"
    ):
        read_serving(tmp_path / "models", NAMES)


# --- loading the weights
def test_the_served_weights_are_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from ignite.engine import Engine

    save_tensors(trained().state_dict(), tmp_path / "model.pt")
    network = tiny_net(seed=1)
    engine = Engine(lambda engine, batch: None)
    LoadModel(network, tmp_path).attach(engine)
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        engine.run([0])
    assert_state(network, copy_state(trained()))
    assert f"{len(network.state_dict())} keys loaded" in caplog.text


def test_errors_of_loading(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"model\.pt: no trained network here\. Run the train stage first, or name it"
    ):
        LoadModel(tiny_net(), tmp_path)()
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04 cut off")
    network = tiny_net()
    before = copy_state(network)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        LoadModel(network, tmp_path)()
    save_tensors(tiny_net(batch_norm=False).state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        CheckpointError, match=r"model\.pt: checkpoint of another network: 5 of \d+ keys .* are not in it"
    ):
        LoadModel(network, tmp_path)()
    assert_state(network, before)
