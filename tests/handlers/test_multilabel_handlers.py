"""What is stored and written of labels that are each there or not: serving record, predictions, features."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Activationsd, Compose, EnsureChannelFirstd, LoadImaged, Resized
from PIL import Image
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, recall_score, roc_auc_score
from torch import nn

from medssl_monai.data import Datalist, Item, evaluation_items, evaluation_records, inference_records, select_budget
from medssl_monai.engines import ClassificationEvaluator
from medssl_monai.handlers import (
    BudgetRecord,
    EvaluationWriter,
    FeatureWriter,
    PredictionWriter,
    ServingRecord,
    read_serving,
    save_tensors,
    serving_temperature,
)
from medssl_monai.handlers.features import read_features
from medssl_monai.handlers.predictions import METRICS_FILE, PREDICTIONS_FILE
from medssl_monai.handlers.tracking import flat_metrics
from medssl_monai.transforms import AsScoresd, DescribeInputd, ScaleLogitsd

NAMES = ["abnormal", "acl", "meniscus"]


class Colours(nn.Module):
    """Logits of up to three labels from the means of the colours: plain to compute again."""

    def __init__(self, labels: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Flatten(2)
        self.scale = nn.Parameter(torch.full((labels,), 0.08))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.encoder(x).mean(dim=2)[:, : len(self.scale)] - 127) * self.scale


def pipeline() -> Compose:
    return Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), DescribeInputd("image"), Resized("image", (6, 6))]
    )


def logits_of(path: Path, labels: int = 3) -> np.ndarray:
    image = pipeline()({"image": str(path)})["image"].numpy().astype(np.float64)
    return (image.mean(axis=(1, 2))[:labels] - 127) * 0.08


def knees(root: Path, labels: list[str] = NAMES, n: int = 120) -> Datalist:
    """Images whose colours follow their labels, with noise."""
    rng = np.random.default_rng(0)
    items = []
    for k in range(n):
        vector = (rng.random(3) < [0.6, 0.3, 0.4]).astype(int)
        colour = np.clip(127 + 10 * (2 * vector - 1) + 16 * rng.standard_normal(3), 0, 255)
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.broadcast_to(colour.astype(np.uint8), (8, 7, 3))).save(root / f"images/{k:03d}.png")
        label = tuple(int(v) for v in vector) if len(labels) == 3 else int(vector[0])
        items.append(Item(f"images/{k:03d}.png", label, f"subject:{k // 2}", {"site": "ab"[k % 4 // 2]}))
    task = "multilabel" if len(labels) == 3 else "binary"
    datalist = Datalist("knees", task, labels, {"training": items[:80], "test": items[80:]}, root=root)  # type: ignore[arg-type]
    datalist.save(root)
    return datalist


def run(root: Path, labels: list[str] = NAMES) -> tuple[Datalist, dict[str, Any], list[Item]]:
    """A run folder as the train stage leaves it; returns the dataset, its serving record, the validation items."""
    datalist, models = knees(root / "data", labels), root / "models"
    budget = select_budget(datalist, validation_share=0.5)
    BudgetRecord(budget, models).write()
    network = Colours(len(labels))
    save_tensors(network.state_dict(), models / "model.pt")
    loader = DataLoader(Dataset(budget.records("validation"), pipeline()), batch_size=16)
    loading = Compose(pipeline().transforms[:3])
    ServingRecord(
        models, network, loader, labels, calibrate=budget.select_on_validation, records=budget.records("training"),
        loading=loading, budget=budget, settings={"seed": 3, "bundle": "b"}, exclusive=False,
    ).write()  # fmt: skip
    return datalist, read_serving(models, labels), budget.validation


def evaluate(root: Path, datalist: Datalist, serving: dict[str, Any], split: str = "test") -> EvaluationWriter:
    items = evaluation_items(datalist, split, root / "models")
    writer = EvaluationWriter(root / "eval", items, serving, datalist.name, n_boot=20, split=split)
    network = Colours(len(serving["labels"]))
    features = FeatureWriter(
        network, root / "eval", serving["labels"], root / "models" / "model.pt", split=split, serving=serving
    )
    loader = DataLoader(Dataset(evaluation_records(datalist, split, root / "models"), pipeline()), batch_size=16)
    ClassificationEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=network, val_handlers=[writer, features],
        exclusive=False,
    ).run()  # fmt: skip
    return writer


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("labels", [NAMES, ["abnormal"]], ids=["multilabel", "binary"])
def test_calibration_of_each_label_on_validation(tmp_path: Path, labels: list[str]) -> None:
    datalist, serving, validation = run(tmp_path, labels)
    truth = np.array([item.label for item in validation]).reshape(len(validation), len(labels))
    logits = np.array([logits_of(datalist.root / item.name, len(labels)) for item in validation])
    assert serving["exclusive"] is False
    assert serving_temperature(tmp_path / "models") == serving["temperature"]
    assert len(serving["temperature"]) == len(labels)
    for k, name in enumerate(labels):
        best = minimize_scalar(
            lambda t, k=k: log_loss(truth[:, k], 1 / (1 + np.exp(-logits[:, k] / t))), bounds=(0.05, 20),
            method="bounded", options={"xatol": 1e-8},
        )  # fmt: skip
        assert serving["temperature"][k] == pytest.approx(best.x, rel=1e-3)
        point = serving["operating_points"][name]
        called = 1 / (1 + np.exp(-logits[:, k] / serving["temperature"][k])) >= point["threshold"]
        assert recall_score(truth[:, k], called) == pytest.approx(point["sensitivity"])
        assert recall_score(1 - truth[:, k], ~called) == pytest.approx(point["specificity"])


@pytest.mark.parametrize("labels", [NAMES, ["abnormal"]], ids=["multilabel", "binary"])
def test_evaluation_writes_each_label(tmp_path: Path, labels: list[str]) -> None:
    datalist, serving, _ = run(tmp_path, labels)
    evaluate(tmp_path, datalist, serving)
    rows = read(tmp_path / "eval" / PREDICTIONS_FILE)
    assert list(rows[0]) == [
        "image", "subject", *(f"{kind}_{name}" for kind in ("label", "predicted", "probability") for name in labels),
    ]  # fmt: skip
    items = datalist.splits["test"]
    assert [row["image"] for row in rows] == [item.name for item in items]
    truth = np.array([item.label for item in items]).reshape(len(items), len(labels))
    scores = []
    for row, item, labelled in zip(rows, items, truth):
        assert row["subject"] == item.subject
        scaled = logits_of(datalist.root / item.name, len(labels)) / serving["temperature"]
        scores.append([1 / (1 + math.exp(-value)) for value in scaled])
        for k, name in enumerate(labels):
            assert float(row[f"probability_{name}"]) == pytest.approx(scores[-1][k], abs=2e-6)
            assert row[f"label_{name}"] == str(labelled[k])
            limit = serving["operating_points"][name]["threshold"]
            assert row[f"predicted_{name}"] == str(int(scores[-1][k] >= limit))
    report = json.loads((tmp_path / "eval" / METRICS_FILE).read_text())
    aucs = [roc_auc_score(truth[:, k], np.array(scores)[:, k]) for k in range(len(labels))]
    assert report["metrics"]["macro_auroc"]["estimate"] == pytest.approx(np.mean(aucs), abs=1e-6)
    assert report["threshold"] == 0.5
    assert "split" not in report
    assert report["n_subjects_seen_in_training"] == 0
    assert list(report["subgroups"]["site"]) == ["a", "b"]
    features = read_features(tmp_path / "eval" / "features.npz")
    assert features.label.tolist() == truth.tolist()
    assert features.predicted.tolist() == [[int(row[f"predicted_{name}"]) for name in labels] for row in rows]


def test_validation_figures_are_no_test_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datalist, serving, validation = run(tmp_path)
    evaluate(tmp_path, datalist, serving)
    before = {
        name: (tmp_path / "eval" / name).read_bytes() for name in (METRICS_FILE, PREDICTIONS_FILE, "features.npz")
    }
    writer = evaluate(tmp_path, datalist, serving, "validation")
    for name, content in before.items():
        assert (tmp_path / "eval" / name).read_bytes() == content
    rows = read(tmp_path / "eval" / "validation_predictions.csv")
    assert [row["image"] for row in rows] == [item.name for item in validation]
    report = json.loads((tmp_path / "eval" / "validation_metrics.json").read_text())
    assert report["split"] == "validation"
    assert report["warnings"][0].startswith("figures of the validation split, by which checkpoint, temperatures and")
    assert report["warnings"][0] in caplog.text
    assert "n_subjects_seen_in_training" not in report
    assert set(read_features(tmp_path / "eval" / "validation_features.npz").split) == {"validation"}
    assert "validation_macro_auroc" in flat_metrics(writer.report)
    assert not [name for name in flat_metrics(writer.report) if name.startswith("test_")]


@pytest.mark.parametrize("points", [True, False])
def test_inference_calls_labels_at_their_operating_points(tmp_path: Path, points: bool) -> None:
    datalist, serving, _ = run(tmp_path)
    loader = DataLoader(Dataset(inference_records(datalist.root, "test"), pipeline()), batch_size=7)
    temperatures = serving_temperature(tmp_path / "models")
    postprocessing = Compose(
        [ScaleLogitsd("pred", temperatures), Activationsd("pred", sigmoid=True), AsScoresd("pred")]
    )
    stored = serving["operating_points"] if points else None
    ClassificationEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=Colours(), postprocessing=postprocessing,
        decollate=True, with_metrics=False, exclusive=False,
        val_handlers=[PredictionWriter(tmp_path / "out", NAMES, None, exclusive=False, operating_points=stored)],
    ).run()  # fmt: skip
    rows = read(tmp_path / "out" / "inference.csv")
    assert list(rows[0]) == ["image", *(f"{kind}_{name}" for kind in ("predicted", "probability") for name in NAMES)]
    for row in rows:
        scores = 1 / (1 + np.exp(-logits_of(datalist.root / row["image"]) / temperatures))
        for k, name in enumerate(NAMES):
            assert float(row[f"probability_{name}"]) == pytest.approx(scores[k], abs=2e-6)
            limit = serving["operating_points"][name]["threshold"] if points else 0.5
            assert row[f"predicted_{name}"] == str(int(scores[k] >= limit))


def test_too_few_validation_labels(tmp_path: Path) -> None:
    datalist, serving, _ = run(tmp_path)
    serving = {**serving, "temperature": None, "operating_points": {}, "calibration_note": "too few labels"}
    report = evaluate(tmp_path, datalist, serving).report
    assert "neither calibrated nor operating points: too few labels" in report["warnings"]
    rows = read(tmp_path / "eval" / PREDICTIONS_FILE)
    for row in rows:
        scores = 1 / (1 + np.exp(-logits_of(datalist.root / row["image"])))
        assert [row[f"predicted_{name}"] for name in NAMES] == [str(int(score >= 0.5)) for score in scores]


def test_temperatures_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="2 temperatures for 3 logits; expected as many"):
        ScaleLogitsd("pred", [1.0, 2.0])({"pred": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got \[1.0, 0.0\]"):
        ScaleLogitsd("pred", [1.0, 0.0])
