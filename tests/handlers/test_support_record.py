"""Reading what is stored with a bank of prototypes."""

from __future__ import annotations

import pytest
import torch

from medssl_monai.core import CheckpointError, file_digest, write_json
from medssl_monai.handlers.support_record import absence_thresholds, read_support, support_organs

ORGANS = {3: "liver", 7: "spleen"}


@pytest.fixture
def folder(tmp_path):
    torch.save({"foreground": torch.zeros(3)}, tmp_path / "model.pt")
    organs = [{"name": name, "value": value, "absence_threshold": 0.5 if value == 3 else None}
              for value, name in ORGANS.items()]  # fmt: skip
    record = {"organs": organs, "settings": {"image_size": 64}, "model_sha256": file_digest(tmp_path / "model.pt")}
    write_json(tmp_path / "support.json", record)
    return tmp_path


def test_reading(folder):
    record = read_support(folder, ORGANS, {"image_size": 64, "not_recorded": 1})
    assert absence_thresholds(record) == {"liver": 0.5, "spleen": None}
    assert support_organs(folder) == ORGANS
    assert support_organs(folder, {1: "other"}) == ORGANS


def test_none_yet(tmp_path):
    with pytest.raises(CheckpointError, match=r"no support.json here\. The train stage writes it beside model.pt"):
        read_support(tmp_path)
    assert read_support(tmp_path, ORGANS, required=False)["organs"] == []
    assert support_organs(tmp_path, ORGANS) == ORGANS
    with pytest.raises(CheckpointError, match=r"no support.json here"):
        support_organs(tmp_path)


def test_a_network_without_its_record_is_not_taken_for_none_yet(tmp_path):
    """Its organs would be guessed."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"no support.json here\. The train stage writes it beside model.pt"):
        read_support(tmp_path, ORGANS, required=False)


def test_of_other_organs_or_settings(folder):
    with pytest.raises(CheckpointError, match=r"the bank was written of other organs \(found 3 liver, 7 spleen, "
                                              r"expected 3 liver, 7 kidney\)\. Give `labels` as it was"):  # fmt: skip
        read_support(folder, {3: "liver", 7: "kidney"})
    with pytest.raises(
        CheckpointError, match=r"trained with other settings \(found image_size=32, expected image_size=64"
    ):
        read_support(folder, settings={"image_size": 32})


def test_of_another_bank(folder):
    torch.save({"foreground": torch.ones(3)}, folder / "model.pt")
    with pytest.raises(CheckpointError, match=r"support.json belongs to another model.pt"):
        read_support(folder)
    (folder / "model.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"model.pt: not a readable checkpoint"):
        read_support(folder)
