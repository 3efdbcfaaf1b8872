"""``medssl supports`` on a small dataset, with the shipped bundle."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from labelled_scans import ORGANS, SIZE, tiny_segmenter, write_dataset

from medssl_monai.apps.cli import main
from medssl_monai.apps.supports import open_memory, printed, write_rows
from medssl_monai.core import CheckpointError, ConfigError, DataError, bundle_dir
from medssl_monai.engines.support import read_scans
from medssl_monai.engines.support_table import SupportRow, support_table

BUNDLE = "cowpro_abdominal_segmentation"
SETTINGS = {
    "backbone": "resnet18", "width": 0.0625, "num_features": 6, "stages": 3, "pool": 2, "device": "cpu",
    "image_size": SIZE, "field_of_view": 2.0 * SIZE, "slice_spacing": 8.0,
}  # fmt: skip
KEYS = [f"{key}={value}" for key, value in SETTINGS.items()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "pretrain.pt"
    torch.save(tiny_segmenter().encoder.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def expected(data, weights):
    memory = open_memory(BUNDLE, data, data / "run", weights, SETTINGS)
    return support_table(tiny_segmenter(), read_scans(memory.dataset, list(ORGANS)))


def read(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_is_printed_and_written(data, weights, expected, tmp_path, capsys):
    out = tmp_path / "table.csv"
    command = ["supports", BUNDLE, str(data), "--run-dir", str(tmp_path), "--weights", str(weights), "--out", str(out)]
    assert main([*command, *KEYS]) == 0
    rows = read(out)
    assert [row["support"] for row in rows] == [row.name for row in expected]
    assert sorted(row["support"] for row in rows) == [f"scan{k}.nii.gz" for k in range(3)]
    for row, found in zip(rows, expected):
        assert float(row["mean"]) == pytest.approx(found.mean, abs=1e-6)
        for organ, (dice, number) in zip(ORGANS.values(), zip(found.dice, found.n_queries)):
            assert float(row[f"dice_{organ}"]) == pytest.approx(dice, abs=1e-6)
            assert int(row[f"n_{organ}"]) == number == 2
    text = capsys.readouterr().out
    assert "best first (3 labelled scans)" in text
    assert [line.split()[0] for line in text.splitlines()[2:5]] == [row.name for row in expected]
    assert text.splitlines()[1].split() == ["support", "mean", *ORGANS.values()]
    assert f"written to {out}" in text
    assert not (tmp_path / "models").exists()  # nothing is trained or changed


def test_a_whole_model_with_what_was_recorded_beside_it(data, weights, expected, tmp_path):
    """Its encoder is taken; keys that are not given are as it was trained."""
    run = open_memory(BUNDLE, data, tmp_path, weights, {**SETTINGS, "quadrant_prior": "soft"})
    run.run()
    model = tmp_path / "models" / "model.pt"
    assert json.loads(model.with_name("support.json").read_text())["settings"]["quadrant_prior"] == "soft"
    memory = open_memory(BUNDLE, data, tmp_path, model, {"device": "cpu"})
    assert memory.network.quadrant_prior == "soft"
    assert memory.settings["image_size"] == SIZE
    assert memory.budget.n_labels == 3
    reference = tiny_segmenter(quadrant_prior="soft")
    for name, value in memory.network.encoder.state_dict().items():
        assert torch.equal(value, reference.encoder.state_dict()[name])
    rows = support_table(memory.network, read_scans(memory.dataset, list(ORGANS)))
    plain = {row.name: row.mean for row in expected}
    assert any(row.mean != plain[row.name] for row in rows)
    same = open_memory(BUNDLE, data, tmp_path, model, {"device": "cpu", "quadrant_prior": None})
    rows = support_table(same.network, read_scans(same.dataset, list(ORGANS)))
    assert {row.name: row.mean for row in rows} == pytest.approx(plain)


def test_one_organ_and_validation_scans_take_part(data, weights, tmp_path):
    memory = open_memory(BUNDLE, data, tmp_path, weights, {**SETTINGS, "labels": ["spleen"]})
    assert memory.organs == {7: "spleen"}
    assert memory.budget.n_labels_training == 3
    assert memory.budget.n_labels_validation == 0


def test_without_weights_it_is_as_for_training(data, tmp_path):
    with pytest.raises(CheckpointError, match=r"pretrain\.pt"):
        open_memory(BUNDLE, data, tmp_path, None, SETTINGS)
    memory = open_memory(BUNDLE, data, tmp_path, None, {**SETTINGS, "pretrained": None})
    assert len(memory.dataset) == 3


def test_errors(data, weights, tmp_path, capsys):
    command = ["supports", BUNDLE, str(data), "--run-dir", str(tmp_path), "--weights", str(weights), *KEYS]
    assert main([*command, "--out", str(tmp_path / "table.txt")]) == 2
    assert "table.txt: the file's name must end in .csv" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"contrastive_image_classification: this bundle has no bank of prototypes"):
        open_memory("contrastive_image_classification", data, tmp_path, weights, {})
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        open_memory(BUNDLE, data, tmp_path, tmp_path / "none.pt", SETTINGS)
    with pytest.raises(CheckpointError, match="checkpoint of another network"):
        open_memory(BUNDLE, data, tmp_path, weights, {**SETTINGS, "num_features": 8})
    with pytest.raises(ConfigError, match=r"num_featurs.*[Dd]id you mean 'num_features'"):
        open_memory(BUNDLE, data, tmp_path, weights, {"num_featurs": 6})
    alone = write_dataset(tmp_path / "alone", 1)
    memory = open_memory(BUNDLE, alone, tmp_path, weights, SETTINGS)
    with pytest.raises(DataError, match="found 1 labelled, expected two or more"):
        support_table(memory.network, read_scans(memory.dataset, list(memory.organs)))


def test_undefined_figures_are_left_empty(tmp_path):
    rows = [
        SupportRow("a.nii.gz", np.array([0.5, np.nan]), np.array([2, 0])),
        SupportRow("longer.nii.gz", np.array([np.nan, np.nan]), np.array([0, 0])),
    ]
    assert printed(rows, ["liver", "spleen"]) == [
        "support         mean  liver  spleen",
        "a.nii.gz       0.500  0.500       -",
        "longer.nii.gz      -      -       -",
    ]
    write_rows(tmp_path / "t.csv", rows, ["liver", "spleen"])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "support,mean,dice_liver,n_liver,dice_spleen,n_spleen",
        "a.nii.gz,0.500000,0.500000,2,,0",
        "longer.nii.gz,,,0,,0",
    ]


def test_the_bundle_ships():
    assert (Path(bundle_dir(BUNDLE)) / "configs" / "train.yaml").is_file()
