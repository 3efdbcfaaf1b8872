"""The bundle of abdominal organs on scans of all kinds: other integers, axes, DICOM, CT; and real ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from medssl_monai.apps.run import run_stage
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.readers import read_image

BUNDLE = "cowpro_abdominal_segmentation"
#: as CHAOS publishes its masks
GAPS = {63: "liver", 126: "right kidney", 189: "left kidney", 252: "spleen"}
LIGHT: dict[str, Any] = {"backbone": "resnet18", "stages": 3}

pytestmark = pytest.mark.bundle


def run(stage: str, data: Path, root: Path, **keys: Any) -> None:
    run_stage(BUNDLE, stage, {"dataset_dir": str(data), **LIGHT, **keys}, ["smoke"], root)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(int)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight scans along axes of all kinds, the first three as DICOM too; the organs have the integers of CHAOS."""
    folder = tmp_path_factory.mktemp("scans") / "data"
    options = {"slice_spacing": 10.0, "orientation": "mixed", "dicom": 3}
    make_phantom("abdomen", folder, subjects=8, seed=4, size=32, split=(0.75, 0.0, 0.25), **options)
    integers = np.array([0, *GAPS], np.uint8)
    for path in folder.glob("scans/*/label.nii.gz"):
        mask = nib.load(path)
        nib.save(nib.Nifti1Image(integers[np.asarray(mask.dataobj).astype(int)], mask.affine), path)
    content = json.loads((folder / "datalist.json").read_text())
    content["labels"] = {"0": "background", **{str(value): name for value, name in GAPS.items()}}
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def root(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a bank; its encoder has learnt a little."""
    root = tmp_path_factory.mktemp("run")
    size = {"image_size": 64}
    run("pretrain", scans, root, **size, max_epochs=3, steps_per_epoch=10, learning_rate=0.02)
    run("train", scans, root, **size)
    return root


def test_integers_of_the_dataset_come_back(scans: Path, root: Path, tmp_path: Path) -> None:
    run("evaluate", scans, root, image_size=64, masks=True, mosaics=False, output_dir=str(tmp_path))
    found = set()
    table = rows(tmp_path / "predictions.csv")
    for item in load_datalist(scans).splits["test"]:
        mask, image = nib.load(tmp_path / item.name), nib.load(scans / item.name)
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        values, truth = voxels(tmp_path / item.name), voxels(scans / str(item.label))
        assert set(np.unique(values)) <= {0, *GAPS}
        found |= set(np.unique(values))
        for row in (row for row in table if row["image"] == item.name):
            one, other = values == int(row["label"]), truth == int(row["label"])
            assert GAPS[int(row["label"])] == row["organ"]
            assert float(row["dice"]) == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()), abs=1e-6)
    assert found == {0, *GAPS}


def test_the_labelled_scan_is_segmented_by_itself(scans: Path, root: Path, tmp_path: Path) -> None:
    """A wrong turn or shift anywhere would leave little of this, tilted scans included."""
    dice: dict[str, float] = {}
    mirrored: dict[str, float] = {}
    for item in load_datalist(scans).splits["training"]:
        folder = tmp_path / Path(item.name).parent.name
        run("train", scans, folder, image_size=64, supports=[item.name], pretrained=str(root / "models/pretrain.pt"))
        keys = {"image_size": 64, "inference_split": "training", "mosaics": False}
        single = scans / item.name
        run("inference", single, folder, **{**keys, "inference_split": None})
        (written,) = folder.glob("eval/**/*.nii.gz")
        one, other = voxels(written) == 63, voxels(scans / str(item.label)) == 63
        sides = int(np.flatnonzero(io_orientation(nib.load(written).affine)[:, 0] == 0)[0])
        dice[item.name], mirrored[item.name] = (
            2 * (mask & other).sum() / (mask.sum() + other.sum()) for mask in (one, np.flip(one, sides))
        )
    assert min(dice.values()) > 0.35, dice  # the encoder has hardly learnt
    assert all(mirrored[name] < 0.6 * value for name, value in dice.items()), mirrored


def as_axes(path: Path, codes: str, out: Path) -> None:
    """The same scan with its voxels stored along other axes."""
    scan = nib.load(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    nib.save(scan.as_reoriented(ornt_transform(io_orientation(scan.affine), axcodes2ornt(codes))), out)


def test_a_folder_of_nifti_and_dicom(scans: Path, root: Path, tmp_path: Path) -> None:
    """The same scan as NIfTI, as DICOM, and stored along other axes has the same mask in the world."""
    folder, out = tmp_path / "in", tmp_path / "out"
    for number in range(3):
        name = f"A{number:05d}"
        image = scans / "scans" / name / "image.nii.gz"
        (folder / name).mkdir(parents=True)
        shutil.copyfile(image, folder / name / "nifti.nii.gz")
        shutil.copytree(scans / "dicom" / name, folder / name / "series")
        for codes in ("LPS", "RAI", "SLA"):
            as_axes(image, codes, folder / name / f"{codes}.nii.gz")
    run("inference", folder, root, image_size=64, mosaics=False, output_dir=str(out))
    table = rows(out / "inference.csv")
    assert len({row["image"] for row in table}) == 15
    shown = 0
    for number in range(3):
        name = f"A{number:05d}"
        mask, series = nib.load(out / name / "nifti.nii.gz"), nib.load(out / name / "series.nii.gz")
        np.testing.assert_allclose(mask.affine, nib.load(folder / name / "nifti.nii.gz").affine, atol=1e-5)
        pixels, _ = read_image(folder / name / "series")
        assert series.shape == pixels.shape[-3:]
        for other in ("series", "LPS", "RAI", "SLA"):
            found = nib.load(out / name / f"{other}.nii.gz")
            turned = found.as_reoriented(ornt_transform(io_orientation(found.affine), io_orientation(mask.affine)))
            np.testing.assert_allclose(turned.affine, mask.affine, atol=1e-3)
            one, two = np.asarray(mask.dataobj), np.asarray(turned.dataobj)
            assert (one != two).mean() < 1e-3, (name, other)
            if other == "series":
                np.testing.assert_array_equal(one, two)
            shown += int((one > 0).sum())
    assert shown > 1000


def test_scans_unlike_the_labelled_one_are_told(
    scans: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = nib.load(scans / "scans/A00000/image.nii.gz")
    values = np.asarray(scan.dataobj).astype(float)
    (tmp_path / "in").mkdir()
    nib.save(scan, tmp_path / "in/mr.nii.gz")
    nib.save(nib.Nifti1Image((values * 3 - 1000).astype(np.int16), scan.affine), tmp_path / "in/ct.nii.gz")
    run("inference", tmp_path / "in", root, image_size=64, mosaics=False, output_dir=str(tmp_path / "out"))
    told = {row["image"]: row["differs"] for row in rows(tmp_path / "out/inference.csv")}
    assert told["mr.nii.gz"] == ""
    assert told["ct.nii.gz"].startswith("intensity mean -")
    assert "1 of 2 scans differ from the labelled ones" in "".join(capsys.readouterr())


# --- real scans
@pytest.mark.real
def test_chaos_and_a_dicom_ct(real_data: Path, tmp_path: Path) -> None:
    """MR scans of patients through all stages; a CT series is segmented in its own place, and told as another kind."""
    data = tmp_path / "data"
    prepare_dataset(
        "nifti", real_data / "chaos_t2spir", data, link=True, split="50/0/50", modality="MR",
        image="image_{subject}.nii.gz", label="label_{subject}.nii.gz",
        labels="1=liver,2=right kidney,3=left kidney,4=spleen",
    )  # fmt: skip
    keys = {"image_size": 64, "width": 0.25}
    run("pretrain", data, tmp_path, **keys, max_epochs=2, steps_per_epoch=20, batch_size=4)
    run("train", data, tmp_path, **keys)
    run("evaluate", data, tmp_path, **keys, masks=True, mosaics=False)
    report = json.loads((tmp_path / "eval/metrics.json").read_text())
    assert report["n"] == 5
    assert report["per_class"]["liver"]["dice"]["estimate"] > 0.3
    assert 0.05 < report["metrics"]["paper/mean_dice"]["estimate"] < 1
    for item in load_datalist(data).splits["test"]:
        mask, image = nib.load(tmp_path / "eval" / item.name), nib.load(data / item.name)
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-4)
    run("inference", real_data / "chaos_ct_dicom/DICOM", tmp_path, **keys, output_dir=str(tmp_path / "ct"))
    (written,) = (tmp_path / "ct").rglob("*.nii.gz")
    pixels, _ = read_image(real_data / "chaos_ct_dicom/DICOM")
    assert nib.load(written).shape == pixels.shape[-3:] == (512, 512, 12)
    assert written.with_name(written.name.replace(".nii.gz", ".png")).is_file()
    assert all("intensity mean -540" in row["differs"] for row in rows(tmp_path / "ct/inference.csv"))
