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
from medssl_monai.apps.run import parse_overrides, run_stage
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


def in_this_process(command: list[str], log: Path, threads: int, stop: Any) -> int:
    """A stage without a process of its own, which would take longer to start than to work."""
    run_dir = command[command.index("--run-dir") + 1]
    run_stage(command[4], command[5], parse_overrides([text for text in command[6:] if "=" in text]), [], run_dir)
    log.write_text("")
    return 0


@pytest.mark.parametrize("labels", [NAMES, ["blue"]], ids=["multilabel", "binary"])
def test_a_study(
    bundle: Path, data: Datalist, tmp_path: Path, labels: list[str], capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medssl_monai.apps.arms.run_process", in_this_process)
    command = [
        "study", str(bundle), "--data", str(data.root), "--budgets", "50%", "--seeds", "1",
        "--out", str(tmp_path / "s"), "max_epochs=2", f"labels={labels}",
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "macro AUROC" in said
    content = json.loads((tmp_path / "s" / "study.json").read_text())
    assert content["task"] == ("multilabel" if len(labels) > 1 else "binary")
    assert content["class_names"] == labels
    columns = [NAMES.index(name) for name in labels]
    truth = np.array([item.label for item in data.splits["test"]])[:, columns]
    majority = np.maximum(truth.mean(axis=0), 1 - truth.mean(axis=0)).mean()
    assert content["majority_accuracy"] == pytest.approx(majority)
    (claim,) = [one for one in content["claims"] if one["budget"] == "50pct"]
    figures = {}
    for arm in ("plain", "weighted"):
        table = rows(tmp_path / "s" / f"runs/{arm}/50pct/seed0/eval/predictions.csv")
        scores = np.array([[float(row[f"probability_{name}"]) for name in labels] for row in table])
        figures[arm] = np.mean([roc_auc_score(truth[:, k], scores[:, k]) for k in range(len(labels))])
    assert claim["difference"]["estimate"] == pytest.approx(figures["weighted"] - figures["plain"], abs=1e-6)
    table = rows(tmp_path / "s" / "results.csv")
    assert {row["metric"] for row in table} == {"macro_auroc", "auroc"}
    assert {row["class"] for row in table} == {"", *labels}
    assert "annotation_saved" in content
    budget = json.loads((tmp_path / "s" / "runs/plain/50pct/seed0/models/budget.json").read_text())
    (entry,) = [one for one in content["budgets"] if one["name"] == "50pct"]
    assert entry["n_labels_training"] == budget["n_labels_training"]
    assert main(["report", str(tmp_path / "s"), "--out", str(tmp_path / "page.html")]) == 0
    assert "cannot be shown" not in re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text())


def test_a_study_of_the_most_probable_class_is_refused(data: Datalist, tmp_path: Path, capsys: Any) -> None:
    other = make_bundle(tmp_path)
    path = other / "configs" / "study.yaml"
    path.write_text(path.read_text().replace("macro_auroc", "top1_accuracy"))
    command = [
        "study",
        str(other),
        "--data",
        str(data.root),
        "--budgets",
        "50%",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(command) == 2
    message = "primary_metric: labels that are each there or not have no most probable class"
    assert f"{message} (found top1_accuracy, expected macro_auroc)" in capsys.readouterr().err
