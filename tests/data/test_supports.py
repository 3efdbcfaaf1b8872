"""Supports by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, choose_supports, load_datalist, select_budget
from medssl_monai.data.datalist import Item


@pytest.fixture
def datalist(tmp_path: Path) -> Datalist:
    """Four labelled scans to train (the organs of each in its name), one without label, one to test."""
    items = []
    for name in ("a12", "b1", "c12", "d2"):
        mask = np.zeros((2, 2, 2), np.uint8)
        for value in name[1:]:
            mask[0, 0, int(value) - 1] = int(value)
        for kind, values in (("image", mask.astype(np.float32)), ("label", mask)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"{kind}_{name}.nii.gz")
        items.append(Item(f"image_{name}.nii.gz", f"label_{name}.nii.gz", f"subject:{name}"))
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), tmp_path / "bare.nii.gz")
    bare = [Item("bare.nii.gz", None, "subject:bare")]
    splits = {"training": items[:3], "test": [items[3]], "unlabeled": bare}
    Datalist("scans", "segmentation", {0: "background", 1: "liver", 2: "spleen"}, splits).save(tmp_path)
    return load_datalist(tmp_path)


def test_named_scans_are_the_labelled_ones(datalist):
    drawn = select_budget(datalist, label_budget=2, validation_share=0)
    budget = choose_supports(drawn, ["image_c12.nii.gz", "image_b1.nii.gz"])
    assert [item.name for item in budget.labeled] == ["image_c12.nii.gz", "image_b1.nii.gz"]
    assert {item.name for item in budget.unlabeled} == {"image_a12.nii.gz", "bare.nii.gz"}
    assert all(item.label is None for item in budget.unlabeled)
    assert budget.classes_training == {"liver": 2, "spleen": 1}
    assert budget.n_labels == budget.n_requested == 2
    assert budget.to_json()["supports"] == ["image_c12.nii.gz", "image_b1.nii.gz"]
    assert budget.test == drawn.test
    assert budget.fingerprint != choose_supports(drawn, ["image_c12.nii.gz"]).fingerprint


@pytest.mark.parametrize("names", [None, []])
def test_no_name_leaves_the_budget(datalist, names):
    budget = select_budget(datalist, label_budget=2, validation_share=0)
    assert choose_supports(budget, names) is budget


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["image_a1.nii.gz"], ConfigError, "no training image is called 'image_a1.nii.gz'.*Did you mean"),
        (["image_d2.nii.gz"], ConfigError, "'image_d2.nii.gz' is in the split test"),
        (["image_b1.nii.gz", "image_b1.nii.gz"], ConfigError, "given twice"),
        (["bare.nii.gz"], ConfigError, "'bare.nii.gz' is in the split unlabeled"),
    ],
)
def test_errors(datalist, names, error, message):
    with pytest.raises(error, match=message):
        choose_supports(select_budget(datalist, label_budget=2, validation_share=0), names)


def test_one_name_must_be_a_list_too(datalist):
    with pytest.raises(
        ConfigError, match=r"^supports: .* as a list \(found image_b1.nii.gz, expected \[image_b1.nii.gz\]"
    ):
        choose_supports(select_budget(datalist, label_budget=1, validation_share=0), "image_b1.nii.gz")


def test_a_scan_that_validates_is_refused(datalist):
    budget = select_budget(datalist, validation_share=0.4)
    assert budget.validation
    with pytest.raises(ConfigError, match="validates in this run"):
        choose_supports(budget, [budget.validation[0].name])


def test_a_dataset_without_masks(datalist):
    bare = {"training": [replace(item, label=None) for item in datalist.splits["training"]]}
    budget = select_budget(replace(datalist, splits=bare), need_labels=False)
    with pytest.raises(DataError, match=r"image_b1\.nii\.gz: it has no mask"):
        choose_supports(budget, ["image_b1.nii.gz"])
