"""What an encoder has seen: labels count against later budgets only where the stage has learnt from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, Item, select_budget
from medssl_monai.handlers import PretrainRecord
from medssl_monai.handlers.provenance import pretraining


def datalist() -> Datalist:
    splits = {
        split: [Item(f"{split}/{i}.png", label=i % 2, subject=f"subject:{split}{i}") for i in range(number)]
        for split, number in (("training", 80), ("test", 10))
    }
    return Datalist("toy", "multiclass", ["a", "b"], splits)  # type: ignore[arg-type]


def record(folder: Path, **further: object) -> Path:
    encoder = folder / "pretrain.pt"
    encoder.write_bytes(b"weights")
    PretrainRecord(select_budget(datalist(), label_fraction=1.0), folder, **further).write()  # type: ignore[arg-type]
    return encoder


def test_an_encoder_that_learnt_without_labels_serves_every_budget(tmp_path: Path) -> None:
    encoder = record(tmp_path, uses_labels=False)
    content = json.loads((tmp_path / "pretrain.pt.seen.json").read_text())
    assert content["labeled"] == []
    # images of all training items but those that validate: 80 less a fifth
    assert len(content["subjects"]) == 64
    for fraction in (0.1, 0.5, 1.0):
        assert pretraining(select_budget(datalist(), label_fraction=fraction), encoder) == content


def test_one_that_learnt_from_labels_serves_its_own(tmp_path: Path) -> None:
    encoder = record(tmp_path)
    assert pretraining(select_budget(datalist(), label_fraction=1.0), encoder) is not None
    with pytest.raises(ConfigError, match=r"pre-trained with 5\d labels that are outside this run's budget"):
        pretraining(select_budget(datalist(), label_fraction=0.1), encoder)


def test_labels_of_the_encoder_it_started_from_count(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    parent = pretraining(select_budget(datalist(), label_fraction=1.0), record(tmp_path / "first"))
    encoder = record(tmp_path, uses_labels=False, parent=parent)
    with pytest.raises(ConfigError, match="labels that are outside this run's budget"):
        pretraining(select_budget(datalist(), label_fraction=0.1), encoder)


def test_subjects_that_validate_elsewhere_are_noticed(tmp_path: Path) -> None:
    encoder = record(tmp_path, uses_labels=False)
    with pytest.raises(DataError, match="that validate or test here were seen in pre-training"):
        pretraining(select_budget(datalist(), label_fraction=1.0, split_seed=1), encoder)
