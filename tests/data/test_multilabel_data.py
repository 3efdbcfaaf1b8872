"""Labels that are each there or not, from datalist to batch; one label of a dataset; validation items of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from tiny_images import write_png

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import (
    Datalist,
    Item,
    SeededCacheDataset,
    classification_datalist,
    evaluation_items,
    evaluation_records,
    select_budget,
)
from medssl_monai.handlers import BudgetRecord

NAMES = ["abnormal", "acl", "meniscus"]


def dataset(root: Path, task: str = "multilabel", labels: list[str] | None = None, **splits: list[Any]) -> Path:
    """A dataset whose items are given by their labels; ``None`` is an item without."""
    found = {
        split: [Item(f"{split}/{k}.png", label, f"subject:{split}{k}") for k, label in enumerate(values)]
        for split, values in splits.items()
    }
    Datalist("knees", task, labels or NAMES, found).save(root)  # type: ignore[arg-type]
    return root


def knees(root: Path, n: int = 60) -> Path:
    rng = np.random.default_rng(0)
    table = [tuple(int(v) for v in row) for row in rng.random((n, 3)) < [0.7, 0.2, 0.4]]
    return dataset(root, training=table[: n // 2], test=table[n // 2 :], unlabeled=[None, None])


def test_all_labels_in_their_own_order(tmp_path: Path) -> None:
    datalist = classification_datalist(knees(tmp_path), NAMES, exclusive=False)
    assert (datalist.task, datalist.labels, datalist.exclusive) == ("multilabel", NAMES, False)
    turned = classification_datalist(tmp_path, ["meniscus", "abnormal"], exclusive=None)
    assert (turned.task, turned.labels) == ("multilabel", ["meniscus", "abnormal"])
    for item, other in zip(datalist.splits["training"], turned.splits["training"]):
        assert other.label == (item.label[2], item.label[0])
        assert (other.name, other.subject) == (item.name, item.subject)
    assert [item.label for item in turned.splits["unlabeled"]] == [None, None]


@pytest.mark.parametrize("exclusive", [False, None])
@pytest.mark.parametrize(("name", "column"), [("abnormal", 0), ("acl", 1), ("meniscus", 2)])
def test_one_label_is_a_binary_task(tmp_path: Path, name: str, column: int, exclusive: bool | None) -> None:
    content = json.loads((knees(tmp_path) / "datalist.json").read_text())
    datalist = classification_datalist(tmp_path, [name], exclusive=exclusive)
    assert (datalist.task, datalist.labels, datalist.exclusive) == ("binary", [name], False)
    for split in ("training", "test"):
        assert [item.label for item in datalist.splits[split]] == [entry["label"][column] for entry in content[split]]


@pytest.mark.parametrize(
    ("task", "labels", "values", "chosen", "expected"),
    [
        ("multiclass", ["bcc", "mel", "nv"], [0, 1, 2, 1], "mel", [0, 1, 0, 1]),
        ("multiclass", ["bcc", "mel", "nv"], [0, 1, 2, 0], "bcc", [1, 0, 0, 1]),
        ("binary", ["benign", "malignant"], [0, 1, 1], "malignant", [0, 1, 1]),
        ("binary", ["benign", "malignant"], [0, 1, 1], "benign", [1, 0, 0]),
        ("binary", ["tear"], [0, 1, 1], "tear", [0, 1, 1]),
    ],
)
def test_one_class_against_everything_else(
    tmp_path: Path, task: str, labels: list[str], values: list[int], chosen: str, expected: list[int]
) -> None:
    datalist = classification_datalist(dataset(tmp_path, task, labels, training=values), [chosen], exclusive=None)
    assert (datalist.task, datalist.labels) == ("binary", [chosen])
    assert [item.label for item in datalist.splits["training"]] == expected


def test_exclusive_classes_stay_exclusive_where_the_dataset_says(tmp_path: Path) -> None:
    dataset(tmp_path, "multiclass", ["bcc", "mel", "nv"], training=[0, 1, 2])
    datalist = classification_datalist(tmp_path, ["bcc", "mel", "nv"], exclusive=None)
    assert (datalist.task, datalist.exclusive) == ("multiclass", True)
    with pytest.raises(ConfigError, match="labels: the dataset has other classes than the configuration"):
        classification_datalist(tmp_path, ["mel", "bcc"], exclusive=None)
    with pytest.raises(ConfigError, match=r"no separate questions \(found task multiclass, labels \['bcc', 'mel'\]"):
        classification_datalist(tmp_path, ["bcc", "mel"], exclusive=False)


def test_refused_choices(tmp_path: Path) -> None:
    knees(tmp_path)
    with pytest.raises(ConfigError, match=r"labels: the dataset has no label 'menisus' .* Did you mean 'meniscus'\?"):
        classification_datalist(tmp_path, ["acl", "menisus"], exclusive=False)
    for labels in ([], ["acl", "acl"]):
        with pytest.raises(ConfigError, match=r"labels: a list of different names is needed \(found \["):
            classification_datalist(tmp_path, labels, exclusive=False)
    with pytest.raises(ConfigError, match="this bundle learns one class an image"):
        classification_datalist(tmp_path, NAMES)
    masks = tmp_path / "masks"
    Datalist("m", "segmentation", {0: "none", 1: "liver"}, {"test": [Item("1.png", "2.png")]}).save(masks)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"this bundle learns labels of an image .*found task segmentation"):
        classification_datalist(masks, ["liver"], exclusive=None)


def test_partly_known_labels_are_refused_by_name(tmp_path: Path) -> None:
    dataset(tmp_path, training=[(1, 0, 1), (1, -1, 0)])
    with pytest.raises(DataError, match=r"training\[1\]: label must be a list of 0 and 1, found \[1, -1, 0\]"):
        classification_datalist(tmp_path, NAMES, exclusive=False)


def loader(root: Path, records: list[dict[str, Any]], value: int | None = -1) -> DataLoader:
    for k, record in enumerate(records):
        write_png(root / record["name"], k)
    transform = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    data = SeededCacheDataset(records, transform, unlabeled_value=value)
    return DataLoader(data, batch_size=len(records))


def test_vectors_come_to_the_network_as_a_table(tmp_path: Path) -> None:
    dataset(tmp_path, training=[(1, 0, 1), (0, 0, 1)], unlabeled=[None])
    datalist = classification_datalist(tmp_path, NAMES, exclusive=False)
    (batch,) = loader(tmp_path, datalist.records("training") + datalist.records("unlabeled"))
    assert batch["label"].dtype == torch.float32
    assert batch["label"].tolist() == [[1, 0, 1], [0, 0, 1], [-1, -1, -1]]
    one = classification_datalist(tmp_path, ["acl"], exclusive=False)
    (batch,) = loader(tmp_path, one.records("training") + one.records("unlabeled"))
    assert batch["label"].tolist() == [0, 0, -1]


def test_a_binary_budget_of_one_label_shows_both_sides(tmp_path: Path) -> None:
    datalist = classification_datalist(knees(tmp_path), ["acl"], exclusive=False)
    n_all = Counter(item.label for item in datalist.splits["training"])
    budget = select_budget(datalist, label_budget=4, validation_share=0.25, min_validation=1)
    assert {item.label for item in budget.labeled} == {0, 1}
    assert budget.classes_training.keys() == {"not acl", "acl"}
    everything = select_budget(datalist, validation_share=0)
    assert everything.classes_training == {"not acl": n_all[0], "acl": n_all[1]}


def test_validation_items_are_those_whose_labels_were_used(tmp_path: Path) -> None:
    datalist = classification_datalist(knees(tmp_path), NAMES, exclusive=False)  # without a validation split
    budget = select_budget(datalist, label_fraction=0.6, validation_share=0.4, split_seed=3)
    BudgetRecord(budget, tmp_path / "models").write()
    found = evaluation_items(datalist, "validation", tmp_path / "models")
    assert [item.name for item in found] == [item.name for item in budget.validation]
    assert 0 < len(found) < 12
    records = evaluation_records(datalist, "validation", tmp_path / "models")
    assert [record["label"].tolist() for record in records] == [list(item.label) for item in budget.validation]
    assert [item.name for item in evaluation_items(datalist)] == [item.name for item in datalist.splits["test"]]


def test_errors_of_validation_items(tmp_path: Path) -> None:
    datalist = classification_datalist(knees(tmp_path), NAMES, exclusive=False)
    with pytest.raises(DataError, match="ckpt_dir: which labels have validated is not known"):
        evaluation_items(datalist, "validation")
    with pytest.raises(DataError, match=r"models/budget.json: which labels have validated is not known. The train"):
        evaluation_items(datalist, "validation", tmp_path / "models")
    with pytest.raises(ConfigError, match=r"split: unknown split 'validaton'. Did you mean 'validation'\?"):
        evaluation_items(datalist, "validaton")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "budget.json").write_text(json.dumps({"dataset": "other", "validation": []}))
    with pytest.raises(DataError, match=r"validated on other images \(found dataset 'other', expected the items of"):
        evaluation_items(datalist, "validation", folder)
    (folder / "budget.json").write_text(json.dumps({"dataset": "knees", "validation": ["training/0.png", "x.png"]}))
    with pytest.raises(DataError, match=r"found 1 that are not in the dataset"):
        evaluation_items(datalist, "validation", folder)
    (folder / "budget.json").write_text(json.dumps({"dataset": "knees", "validation": []}))
    with pytest.raises(DataError, match=r"no labelled validation image. Train with more labels"):
        evaluation_items(datalist, "validation", folder)
