"""Folders of runs and studies as the stages leave them, small, for tests of the report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medssl_monai.metrics import classification_report

CLASSES = ["benign", "mela & noma", "rare"]
FINGERPRINT = "0123456789abcdef"
VERSIONS = {"medssl-monai": "0.1.0", "python": "3.11.7", "torch": "2.13.0"}
HARDWARE = {"processor": "A Processor", "cores": 2, "memory_gib": 23.5, "accelerator": None}
SECRET = "images/secret_patient_007.png"  # a case name, which may not leave its folder


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit(path: Path, **changes: Any) -> None:
    """Change top-level keys of a JSON file."""
    write(path, {**json.loads(path.read_text()), **changes})


def picture() -> bytes:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=50, metadata={"Software": None})
    return stream.getvalue()


def make_run(folder: Path, seed: int = 0, n: int = 120, names: list[str] | None = None, skill: float = 1.0) -> Path:
    """A complete run: pretrain, train, evaluate."""
    names = names or CLASSES
    rng = np.random.default_rng(seed)
    label = np.concatenate([rng.integers(0, len(names) - 1, n - 6), np.full(6, len(names) - 1)])
    logits = rng.normal(size=(n, len(names))) + skill * np.eye(len(names))[label]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    sex = np.array(["female", "male"])[rng.integers(0, 2, n)]
    points = {
        name: {"threshold": None if k == 2 else 0.4, "reason": "only 2 positive validation cases" if k == 2 else None}
        for k, name in enumerate(names)
    }  # fmt: skip
    report = classification_report(
        label, probabilities, [f"p{i // 2}" for i in range(n)], names, n_boot=60, temperature=1.5,
        operating_points=points, columns={"sex": list(sex)},
    )  # fmt: skip
    budget = {
        "dataset": "toy <lesions>", "label_fraction": 0.1, "label_budget": None, "split_seed": 5, "n_requested": 40,
        "n_labels": 41, "n_labels_training": 31, "n_labels_validation": 10, "n_subjects_training": 20,
        "n_subjects_validation": 7, "n_unlabeled": 300, "n_test": n, "classes_training": dict.fromkeys(names, 10),
        "classes_validation": dict.fromkeys(names, 3), "select_on_validation": True, "fingerprint": FINGERPRINT,
        "training": [SECRET], "validation": [],
    }  # fmt: skip
    models, evaluation = folder / "models", folder / "eval"
    write(models / "budget.json", budget)
    counts = {key: value for key, value in budget.items() if not isinstance(value, list)}
    settings = {"bundle": "srcl_skin_lesion_classification", "regime": "srcl", "seed": seed}
    write(evaluation / "metrics.json", {
        "dataset": "toy <lesions>", "settings": settings, "label_counts": counts, **report, "versions": VERSIONS,
        "n_subjects_seen_in_training": 0,
    })  # fmt: skip
    rows = [
        {"epoch": k + 1, "learning_rate": 0.01, "loss": 1.0 / (k + 1), "val_macro_auroc": 0.5 + 0.1 * k, "seconds": 3.0}
        for k in range(4)
    ]
    write(models / "history.json", rows)
    write(models / "pretrain_history.json", [{"epoch": 1, "loss": 2.5, "seconds": 1.0}])
    for stage, place in {"pretrain": models, "train": models, "evaluate": evaluation}.items():
        text = f"seed: {seed}\nmax_epochs: {1 if stage == 'pretrain' else 4}\nlabels: [a, b]\nnet:\n  _target_: x.Y\n"
        (place / f"{stage}_config.yaml").write_text(text)
        write(place / f"{stage}_run.json", {
            "stage": stage, "bundle": "srcl_skin_lesion_classification", "bundle_version": "0.1.0",
            "started": "2026-11-20T09:00:00+00:00", "seconds": 61.0, "versions": VERSIONS, "hardware": HARDWARE,
            "overlays": ["cpu"], "overrides": {"dataset_dir": "/data/my lesions", "labels": names, "seed": seed},
        })  # fmt: skip
    for name in ("roc", "saliency"):
        (evaluation / f"{name}.png").write_bytes(picture())
    features = rng.normal(size=(n, 16)) + 3 * rng.normal(size=(len(names), 16))[label]
    np.savez(
        evaluation / "features.npz", embeddings=features.astype(np.float32), label=label,
        predicted=probabilities.argmax(axis=1), class_names=np.array(names),
        case=np.array([f"{i:012x}" for i in range(n)]), split=np.array(["test"] * n),
    )  # fmt: skip
    return folder


def interval(middle: float, half: float) -> dict[str, Any]:
    return {
        "estimate": middle, "interval_90": [middle - half, middle + half],
        "interval_95": [middle - 1.2 * half, middle + 1.2 * half],
    }  # fmt: skip


def study_content() -> dict[str, Any]:
    """A study of two arms, two budgets and two seeds; the method helps at the smaller budget only."""
    budgets = [
        {
            "name": name, "label_fraction": share, "label_budget": number, "n_labels_training": training,
            "n_labels_validation": validation,
        }
        for name, share, number, training, validation in (
            ("5pct", 0.05, None, 31, 10), ("80labels", None, 80, 64, 16), ("100pct", 1.0, None, 640, 160),
        )
    ]  # fmt: skip
    figures = {
        ("srcl", "5pct"): 0.7123, ("srcl", "80labels"): 0.7634, ("supervised", "5pct"): 0.6411,
        ("supervised", "80labels"): 0.7512, ("supervised", "100pct"): 0.8377,
    }  # fmt: skip
    summary: list[dict[str, Any]] = []
    for (arm, budget), middle in figures.items():
        row = {
            "arm": arm,
            "budget": budget,
            "n_subjects": 60,
            "note": None,
            "seed_values": [middle - 0.011, middle + 0.011],
        }
        summary.append({**row, "metric": "macro_auroc", "class": None, **interval(middle, 0.031)})
        summary.append({**row, "metric": "top1_accuracy", "class": None, **interval(middle - 0.1, 0.027)})
        summary.append({**row, "metric": "auroc", "class": "benign", **interval(middle + 0.01, 0.05)})
        summary.append({
            **row, "metric": "auroc", "class": "rare", "estimate": middle - 0.02, "interval_90": None,
                "interval_95": None,
            "n_subjects": 3, "note": "only 3 subjects with this class",
        })  # fmt: skip
    claims = [
        {"budget": budget, "metric": "macro_auroc", "difference": interval(*difference), "p": p, "p_holm": p_holm,
         "seed_differences": seeds}
        for budget, difference, p, p_holm, seeds in (
            ("5pct", (0.0712, 0.021), 0.004, 0.008, [0.06, 0.0824]),
            ("80labels", (0.0122, 0.033), 0.43, 0.43, [0.001, 0.0234]),
        )
    ]  # fmt: skip
    keys = [(a, b, s) for a, b in figures for s in (0, 1)]
    return {
        "format": 1, "bundle": "srcl_skin_lesion_classification", "bundle_version": "0.1.0", "dataset": "toy <lesions>",
        "data_fingerprint": FINGERPRINT, "task": "multiclass", "class_names": CLASSES, "primary_metric": "macro_auroc",
        "baseline_arm": "supervised", "primary_arm": "srcl", "budgets": budgets, "seeds": [0, 1],
        "arms": {
            "supervised": {"stages": ["train", "evaluate"], "overrides": {"regime": "supervised"}},
            "srcl": {"stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "srcl"}},
        },
        "overlays": ["cpu"], "overrides": {"max_epochs": 4}, "n_test": 120, "n_test_subjects": 60,
        "runs": [
            {"arm": a, "budget": b, "seed": s, "folder": f"runs/{a}/{b}/seed{s}", "complete": True, "seconds": 183.0}
            for a, b, s in keys
        ],
        "summary": summary, "claims": claims,
        "exploratory": [{
            "arm": "srcl", "versus": "supervised", "budget": "5pct", "metric": "top1_accuracy",
            "difference": interval(-0.0456, 0.06), "p": 0.21,
        }],
        "annotation_saved": {
            "srcl": {"budget": "80labels", "labels": 80, "labels_full": 800, "saved_fraction": 0.9, "margin": 0.01,
                     "text": "srcl: with 80 labels 90% of the labels saved."},
            "supervised": {"budget": None, "labels": None, "labels_full": 800, "saved_fraction": None, "margin": 0.01,
                           "text": "supervised: at no budget."},
        },
        "versions": VERSIONS, "hardware": HARDWARE, "warnings": ["validation is small"], "complete": True,
    }  # fmt: skip


def make_study(folder: Path) -> Path:
    """A complete study; every run is there."""
    content = study_content()
    write(folder / "study.json", content)
    for k, run in enumerate(content["runs"]):
        make_run(folder / run["folder"], seed=run["seed"], n=90 + 2 * k)
    return folder
