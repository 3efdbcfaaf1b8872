"""Stages and commands on labels that are each there or not: train, evaluate, inference, features, next, report."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from multilabel_bundle import NAMES, make_bundle, make_dataset
from sklearn.metrics import roc_auc_score

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import run_stage
from medssl_monai.data import Datalist, load_datalist
from medssl_monai.handlers import read_features

pytestmark = pytest.mark.bundle


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Datalist:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=[NAMES, ["green"]], ids=["multilabel", "binary"])
def trained(request: pytest.FixtureRequest, bundle: Path, data: Datalist, tmp_path_factory: Any) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("run")
    for stage in ("train", "evaluate"):
        run_stage(bundle, stage, {"dataset_dir": str(data.root), "labels": request.param}, [], root)
    run_stage(
        bundle, "evaluate", {"dataset_dir": str(data.root), "labels": request.param, "split": "validation"}, [], root
    )
    return root, request.param


def test_it_learns_and_is_evaluated(trained: tuple[Path, list[str]], data: Datalist) -> None:
    root, labels = trained
    columns = [NAMES.index(name) for name in labels]
    truth = np.array([item.label for item in data.splits["test"]])[:, columns]
    table = rows(root / "eval" / "predictions.csv")
    scores = np.array([[float(row[f"probability_{name}"]) for name in labels] for row in table])
    assert [[int(row[f"label_{name}"]) for name in labels] for row in table] == truth.tolist()
    report = json.loads((root / "eval" / "metrics.json").read_text())
    expected = np.mean([roc_auc_score(truth[:, k], scores[:, k]) for k in range(len(labels))])
    assert report["metrics"]["macro_auroc"]["estimate"] == pytest.approx(expected, abs=1e-6)
    assert expected > 0.6
    assert report["class_names"] == labels
    history = json.loads((root / "models" / "history.json").read_text())
    assert {"val_macro_auroc", "val_balanced_accuracy", "supervised"} <= history[0].keys()
    assert history[-1]["loss"] < history[0]["loss"]


def test_validation_predictions_are_of_the_budget_s_items(trained: tuple[Path, list[str]]) -> None:
    root, labels = trained
    budget = json.loads((root / "models" / "budget.json").read_text())
    table = rows(root / "eval" / "validation_predictions.csv")
    assert [row["image"] for row in table] == budget["validation"]
    report = json.loads((root / "eval" / "validation_metrics.json").read_text())
    assert (report["split"], report["n"]) == ("validation", len(budget["validation"]))
    serving = json.loads((root / "models" / "serving.json").read_text())
    for name in labels:  # what was promised on validation is what these predictions have
        point = serving["operating_points"][name]
        assert point["threshold"] is not None
        called = [int(row[f"predicted_{name}"]) for row in table if row[f"label_{name}"] == "1"]
        assert np.mean(called) == pytest.approx(point["sensitivity"])
    for name in ("roc", "confusion", "calibration", "saliency"):
        assert (root / "eval" / f"validation_{name}.png").is_file()


def test_inference_agrees_with_evaluation(trained: tuple[Path, list[str]], bundle: Path, data: Datalist) -> None:
    root, labels = trained
    keys = {"dataset_dir": str(data.root), "labels": labels, "inference_split": "test"}
    run_stage(bundle, "inference", keys, [], root)
    evaluated = {row["image"]: row for row in rows(root / "eval" / "predictions.csv")}
    found = rows(root / "eval" / "inference.csv")
    assert len(found) == len(evaluated)
    for row in found:
        for name in labels:
            probability = float(evaluated[row["image"]][f"probability_{name}"])
            assert float(row[f"probability_{name}"]) == pytest.approx(probability, abs=2e-6)
            assert row[f"predicted_{name}"] == evaluated[row["image"]][f"predicted_{name}"]


def test_features_next_and_report(
    trained: tuple[Path, list[str]], bundle: Path, data: Datalist, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, labels = trained
    where = [str(bundle), str(data.root)]
    assert main(["features", *where, str(tmp_path / "f.npz"), "--run-dir", str(root)]) == 0
    features = read_features(tmp_path / "f.npz")
    columns = [NAMES.index(name) for name in labels]
    known = [
        [-1] * len(labels) if item.label is None else [item.label[k] for k in columns]
        for _, item in load_datalist(data.root)
    ]
    assert features.label.tolist() == known
    evaluated = read_features(root / "eval" / "features.npz")
    test = features.split == "test"
    np.testing.assert_allclose(features.embeddings[test], evaluated.embeddings, rtol=1e-3, atol=1e-4)
    assert features.predicted[test].tolist() == evaluated.predicted.tolist()
    assert main(["next", *where, "--k", "3", "--out", str(tmp_path / "next.csv"), "--run-dir", str(root)]) == 0
    proposed = rows(tmp_path / "next.csv")
    assert len(proposed) == 3
    for row in proposed:
        assert row["image"].startswith("unlabeled/")
        assert row["predicted"] == "none" or set(row["predicted"].split(" + ")) <= set(labels)
    assert main(["report", str(root), "--out", str(tmp_path / "page.html")]) == 0
    words = re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text())
    assert "cannot be shown" not in words
    assert "Calibration of each label" in words
    assert "cannot be shown" not in capsys.readouterr().out
