"""The page of a run that was only pre-trained: its data, seed and curves, and a map where there are embeddings."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_folders import FINGERPRINT, SECRET, make_run, write

from medssl_monai.visualize.report import report_page

SUBJECTS = ["aaaa", "bbbb", "cccc"]
ROWS = [
    {"epoch": k + 1, "loss": 4.0 - k, "embedding_alignment": 0.5 - 0.1 * k, "embedding_uniformity": -1.0 - k,
     "embedding_effective_rank": 3.25 + k, "embedding_collapsed": 0.0, "seconds": 2.0}
    for k in range(3)
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As ``python -m monai.bundle run`` of a pretrain stage leaves it: without a configuration and a record."""
    models = tmp_path / "encoder" / "models"
    write(models / "pretrain_history.json", ROWS)
    write(models / "pretrain_budget.json", {
        "dataset": "toy <knees>", "split_seed": 5, "fingerprint": FINGERPRINT, "n_requested": 3, "n_labels": 3,
        "n_labels_training": 3, "n_labels_validation": 0, "n_unlabeled": 2, "classes_training": {"tear": 3},
        "classes_validation": {}, "select_on_validation": False, "transductive": False, "training": [SECRET],
    })  # fmt: skip
    write(models / "pretrain.pt.seen.json", {"dataset": "toy <knees>", "labeled": [], "subjects": SUBJECTS})
    settings = {"stage": "pretrain", "seed": 17, "data_fingerprint": FINGERPRINT}
    write(models / "pretrain_encoder.json", {"format": 1, "bundle": "some_bundle", "settings": settings})
    return tmp_path / "encoder"


def words(folder: Path) -> str:
    page = re.sub(r"<(style|dl).*?</\1>", "", report_page(folder), flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def test_dataset_fingerprint_and_seed(run: Path) -> None:
    found = words(run)
    assert "Run “encoder” on toy <knees>" in found
    assert "Dataset toy <knees> " in found
    assert f"Fingerprint of the data {FINGERPRINT} Seed of pre-training 17 Seed of the choice of labels 5" in found
    assert "Seed of training" not in found
    assert "some_bundle" not in found or "Bundle some_bundle" in found
    assert SECRET not in found
    assert not [name for name in SUBJECTS if name in found]


def test_curves_and_the_answer_are_of_the_history(run: Path) -> None:
    page, found = report_page(run), words(run)
    assert "This run was pre-trained only: no figures." in found
    assert (
        "After 3 epochs the embedding's effective rank is 5.2, after the first it was 3.2. The embedding has not "
        "collapsed."
    ) in found
    for name, first, last in (
        ("Loss", "4", "2"), ("Embedding alignment", "0.5", "0.3"), ("Embedding uniformity", "-1", "-3"),
        ("Embedding effective rank", "3.25", "5.25"),
    ):  # fmt: skip
        assert f"{name} from {first} in the first epoch to {last} in the last." in found
    assert page.count('role="img"') >= 5
    assert "Confusion matrix" not in found  # what a classifier leaves is no hole of a page about an encoder
    assert "cannot be shown" not in found


def test_labels_of_pre_training(run: Path) -> None:
    assert "Pre-training has used no labels. It has seen images of 3 subjects." in words(run)
    write(run / "models/pretrain.pt.seen.json", {"labeled": ["x", "y", "z"], "subjects": SUBJECTS})
    found = words(run)
    assert "Labels used before testing Class Training Validation tear 3 – all 3 0" in found
    assert "used no labels" not in found


def test_collapse_and_transductive_are_cautioned_of(run: Path) -> None:
    assert "Bear in mind" not in words(run)
    write(run / "models/pretrain_history.json", [*ROWS[:2], {**ROWS[2], "embedding_collapsed": 1.0}])
    budget = json.loads((run / "models/pretrain_budget.json").read_text())
    write(run / "models/pretrain_budget.json", {**budget, "transductive": True})
    found = words(run)
    assert "Bear in mind (2 cautions)" in found
    assert "The embedding has collapsed." in found
    assert "Stage pretrain: the embedding was found collapsed 1 of the 3 times it was looked at" in found
    assert "Transductive: unlabelled images" in found


@pytest.mark.parametrize("kind", ["protocols", "inference", "labels", "folder"])
def test_embeddings_are_mapped_where_there_are_some(run: Path, kind: str) -> None:
    """Of the test images; where none is known to be one, of all."""
    assert "No features: eval/features.npz is not there" in words(run)
    rng = np.random.default_rng(0)
    n, label = 40, np.arange(40) % 2
    split = np.array(["training", "test"])[(np.arange(n) >= 16).astype(int)]
    content = {
        "embeddings": (rng.normal(size=(n, 8)) + 6 * np.eye(8)[label]).astype(np.float32), "label": label,
        "predicted": np.full(n, -1), "class_names": np.array(["whole", "torn"]), "split": split,
    }  # fmt: skip
    if kind == "labels":  # each there or not, of some images unknown
        table = np.stack([label, 1 - label], axis=1)
        table[-2:] = -1
        content["label"] = table
    if kind == "folder":  # of no dataset
        content |= {"label": np.full(n, -1), "class_names": np.array([], dtype=str), "split": np.full(n, "")}
    path = run / "eval" / ("protocols/features_pretrain.npz" if kind == "protocols" else "embeddings.npz")
    path.parent.mkdir(parents=True)
    np.savez(path, **content)
    found = words(run)
    assert "cannot be shown" not in found
    if kind == "folder":
        assert "Map of the features of 40 images" in found
        assert "t-SNE of the images' features" in found
        assert "Do images of a class lie together?" not in found
        return
    assert "Map of the features of 24 images" in found
    assert "t-SNE of the test images' features" in found
    name, count = ("whole", 11) if kind == "labels" else ("torn", 12)
    assert f"{name} {count} 1.000 " in found  # all five neighbours of the same class: the classes lie far apart


def test_a_damaged_piece_is_named(run: Path) -> None:
    for name in ("pretrain_budget.json", "pretrain_encoder.json"):
        (run / "models" / name).write_text("{")
    found = words(run)
    assert "Run “encoder” on unknown dataset" in found
    assert "Seed of pre-training not recorded" in found
    for name in ("pretrain_budget.json", "pretrain_encoder.json"):
        assert re.search(rf"models/{name} damaged: .*? Run the pretrain stage again\.", found)


def test_a_run_that_was_trained_too_names_both_seeds(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "both", seed=3)
    write(folder / "models/pretrain_encoder.json", {"settings": {"seed": 8}})
    assert "Seed of pre-training 8 Seed of training 3 " in words(folder)
    shutil.rmtree(folder / "eval")  # not evaluated: what its stages were run with tells
    assert "Seed of pre-training 8 Seed of training 3 " in words(folder)
