"""Scans and masks that are not as they should be: a clear error that names the file, or a defined result."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medssl_monai.apps.run import root_cause, run_stage
from medssl_monai.core import DataError, MedSSLError
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom

BUNDLE = "cowpro_abdominal_segmentation"
KEYS = {"backbone": "resnet18", "stages": 3, "num_features": 8, "slice_spacing": 16.0, "pretrained": None}

pytestmark = pytest.mark.bundle


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("abdomens") / "data"
    make_phantom("abdomen", folder, subjects=4, size=32, split=(0.5, 0.0, 0.5), slice_spacing=16.0)
    return folder


@pytest.fixture(scope="module")
def bank(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose train stage has written a bank."""
    root = tmp_path_factory.mktemp("bank")
    run("train", scans, root)
    return root


def run(stage: str, data: Path, root: Path, **keys: Any) -> None:
    own = {key: value for key, value in KEYS.items() if stage == "train" or key != "pretrained"}
    run_stage(BUNDLE, stage, {"dataset_dir": str(data), **own, **keys}, ["smoke"], root)


def cause(stage: str, data: Path, root: Path, **keys: Any) -> MedSSLError:
    with pytest.raises(Exception, match=r".") as caught:
        run(stage, data, root, **keys)
    found = root_cause(caught.value)
    assert isinstance(found, MedSSLError), repr(found)
    return found


def support_of(folder: Path) -> dict[str, Any]:
    return load_datalist(folder).records("training")[0]


def edited(scans: Path, place: Path, key: str, edit: Callable[[np.ndarray], np.ndarray]) -> Path:
    """A copy of the dataset in which the support's image or mask is another."""
    shutil.copytree(scans, place)
    path = Path(support_of(place)[key])
    image = nib.load(path)
    values = edit(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(values, image.affine), path)
    return place


def query(scans: Path, place: Path, edit: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> Path:
    """A folder that holds one scan, edited, to be segmented."""
    image = nib.load(load_datalist(scans).records("test")[0]["image"])
    place.mkdir()
    nib.save(edit(image), place / "query.nii.gz")
    return place


def without(value: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda mask: np.where(mask == value, 0, mask).astype(mask.dtype)


@pytest.mark.parametrize(
    ("key", "edit", "message"),
    [
        ("label", np.zeros_like, "no labelled scan shows liver"),
        ("label", without(3), "no labelled scan shows left kidney"),
        ("label", lambda mask: mask[:, :, 1:], "the mask has another grid than its scan"),
        ("label", lambda mask: mask.astype(np.float32) + 0.5, "not whole numbers"),
        ("image", lambda image: np.where(image > image.mean(), np.nan, image).astype(np.float32), "not finite"),
        ("image", lambda image: np.stack([image, image], axis=3), "channels or points in time"),
    ],
    ids=["empty mask", "organ absent", "differing grids", "mask of fractions", "NaN", "4-D"],
)
def test_supports_that_cannot_be(
    scans: Path, tmp_path: Path, key: str, edit: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    data = edited(scans, tmp_path / "data", key, edit)
    name = load_datalist(data).splits["training"][0].name
    error = cause("train", data, tmp_path / "run", supports=[name])
    assert isinstance(error, DataError)
    assert message in str(error)
    if "shows" not in message:
        assert Path(name).parent.name in str(error)  # the file is named
    assert not (tmp_path / "run" / "models" / "model.pt").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda i: nib.Nifti1Image(np.where(i.get_fdata() > 0, np.nan, 0), i.affine), "not finite"),
        (lambda i: nib.Nifti1Image(np.stack([i.get_fdata()] * 2, axis=3), i.affine), "channels or points in time"),
        (lambda i: nib.Nifti1Image(i.get_fdata()[:, :, 0], i.affine), "image has 2 spatial dimensions"),
    ],
    ids=["NaN", "4-D", "2-D"],
)
def test_queries_that_cannot_be(scans: Path, bank: Path, tmp_path: Path, edit: Any, message: str) -> None:
    data = query(scans, tmp_path / "new", edit)
    error = cause("inference", data, bank, output_dir=str(tmp_path / "out"))
    assert message in str(error)
    assert "query.nii.gz" in str(error)
    assert not (tmp_path / "out" / "query.nii.gz").exists()


def sheared(image: nib.Nifti1Image) -> nib.Nifti1Image:
    shear = np.eye(4)
    shear[1, 2] = 0.3
    return nib.Nifti1Image(image.get_fdata().astype(np.float32), image.affine @ shear)


@pytest.mark.parametrize(
    "edit",
    [lambda i: nib.Nifti1Image(i.get_fdata()[:, :, 6:7].astype(np.float32), i.affine), sheared],
    ids=["one slice", "sheared affine"],
)
def test_queries_with_a_defined_result(scans: Path, bank: Path, tmp_path: Path, edit: Any) -> None:
    data = query(scans, tmp_path / "new", edit)
    run("inference", data, bank, output_dir=str(tmp_path / "out"))
    given, found = nib.load(data / "query.nii.gz"), nib.load(tmp_path / "out" / "query.nii.gz")
    assert found.shape == given.shape
    np.testing.assert_allclose(found.affine, given.affine, atol=1e-5)
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2, 3, 4}
    assert np.asarray(found.dataobj).any()  # the bank finds something somewhere


def test_another_modality_is_told(scans: Path, bank: Path, tmp_path: Path) -> None:
    """A CT in Hounsfield units, given to a bank of MR: segmented, and flagged."""
    data = query(
        scans, tmp_path / "new", lambda i: nib.Nifti1Image((i.get_fdata() * 4 - 1000).astype(np.float32), i.affine)
    )
    run("inference", data, bank, output_dir=str(tmp_path / "out"))
    with (tmp_path / "out" / "inference.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 4
    assert all("intensit" in row["differs"] for row in rows)


def test_a_bank_says_what_it_was_made_of(bank: Path) -> None:
    record = json.loads((bank / "models" / "support.json").read_text())
    assert [organ["name"] for organ in record["organs"]] == ["liver", "right kidney", "left kidney", "spleen"]
    assert record["label_counts"]["n_labels_training"] == 1
