"""The knee bundle end to end, as its users call it: three planes, their ensemble, new exams, models of one label."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import resolve_config, run_stage
from medssl_monai.core import CheckpointError, ConfigError, DataError
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.handlers import read_features

BUNDLE = "contrastive_knee_mri_classification"
LABELS = ["abnormal", "acl", "meniscus"]
PLANES = ["sagittal", "coronal", "axial"]

pytestmark = pytest.mark.bundle


def small(stage: str) -> dict[str, Any]:
    """What shrinks a stage beyond the smoke overlay."""
    if stage == "ensemble":
        return {}
    return {"backbone": "resnet18"} if stage == "pretrain" else {"backbone": "resnet18", "num_draws": 2}


@pytest.fixture(scope="module")
def knees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large tears in small images of the joint alone; the first exams also as DICOM series."""
    folder = tmp_path_factory.mktemp("knees") / "data"
    make_phantom(
        "knee", folder, subjects=72, size=40, split=(0.56, 0.17, 0.27), field_of_view=96.0, severity=2.5, dicom=2
    )
    return folder


def run(stage: str, folder: Path, data: Path, *overlays: str, **keys: Any) -> Path:
    """A stage in this process; its run folder."""
    run_stage(BUNDLE, stage, {"dataset_dir": str(data), **small(stage), **keys}, ["smoke", *overlays], folder)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def probabilities(path: Path) -> dict[str, list[float]]:
    return {row["image"]: [float(v) for k, v in row.items() if k.startswith("probability_")] for row in rows(path)}


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "eval/metrics.json").read_text())
    return report


@pytest.fixture(scope="module")
def planes(knees: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folders of three planes, trained from scratch and evaluated on both splits."""
    root = tmp_path_factory.mktemp("planes")
    for plane in PLANES:
        run("train", root / plane, knees, plane=plane, pretrained=None)
        for split in ("test", "validation"):
            run("evaluate", root / plane, knees, plane=plane, split=split)
    return root


class TestThroughMonai:
    """``python -m monai.bundle run``: the three planes from pre-training to the exam, and new exams from DICOM."""

    #: what a plane needs to learn something in seconds; ResNet-18 as in the other tests
    LONGER: ClassVar[dict[str, Any]] = {
        "max_epochs": 12, "steps_per_epoch": 10, "learning_rate": 0.003, "crop_scale": [0.5, 1.0], "image_size": 40,
    }  # fmt: skip

    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("monai")

    @pytest.fixture
    def stage(self, root: Path, knees: Path, run_bundle: Any) -> Callable[..., subprocess.CompletedProcess[str]]:
        """Run a stage with the folders of a bundle of one's own: ``models/NAME`` and ``eval/NAME``."""

        def stage(name: str, place: str, **keys: Any) -> subprocess.CompletedProcess[str]:
            folders = {"ckpt_dir": root / "models" / place, "output_dir": root / "eval" / place}
            result: subprocess.CompletedProcess[str] = run_bundle(
                BUNDLE, name, **{"dataset_dir": knees, "image_size": 40, **small(name), **folders, **keys}
            )
            assert result.returncode == 0, result.stderr[-3000:]
            return result

        return stage

    @pytest.mark.parametrize("plane", PLANES)
    def test_a_plane(self, plane: str, stage: Any, root: Path) -> None:
        result = stage("pretrain", plane, plane=plane, learning_rate=0.1)
        assert "estimate: about" in result.stderr
        stage("train", plane, plane=plane, **self.LONGER)
        stage("evaluate", plane, plane=plane)
        stage("evaluate", plane, plane=plane, split="validation")
        models = {path.name for path in (root / "models" / plane).iterdir()}
        assert {
            "pretrain.pt", "pretrain_checkpoint.pt", "checkpoint.pt", "model.pt", "serving.json", "budget.json",
            "encoder.ts", "pretrain_encoder.json",
        } <= models  # fmt: skip
        written = {path.name for path in (root / "eval" / plane).iterdir()}
        assert {
            "metrics.json", "predictions.csv", "validation_metrics.json", "validation_predictions.csv", "roc.png",
            "features.npz",
        } <= written  # fmt: skip

    def test_the_exam(self, stage: Any, root: Path, knees: Path) -> None:
        stage("ensemble", "exam")
        report = json.loads((root / "eval/exam/metrics.json").read_text())
        table = rows(root / "eval/exam/predictions.csv")
        votes = np.array([[float(row[f"probability_{name}"]) for name in LABELS] for row in table])
        truth = np.array([[int(row[f"label_{name}"]) for name in LABELS] for row in table])
        assert len(table) == len(load_datalist(knees).splits["test"])
        # eq. 4.19 and 4.20 from the planes' files
        weights = json.loads((root / "models/exam/ensemble.json").read_text())["weights"]
        planes = {plane: probabilities(root / "eval" / plane / "predictions.csv") for plane in PLANES}
        for row, vote in zip(table, votes):
            for k, label in enumerate(LABELS):
                expected = sum(weights[plane][label] * planes[plane][row["image"]][k] for plane in PLANES)
                assert vote[k] == pytest.approx(expected, abs=1e-6)
        assert all(sum(weights[plane][label] for plane in PLANES) == pytest.approx(1) for label in LABELS)
        for k, label in enumerate(LABELS):
            entry = report["per_class"][label]["auroc"]["estimate"]
            assert entry == pytest.approx(roc_auc_score(truth[:, k], votes[:, k]), abs=1e-6)
        low, high = report["metrics"]["macro_auroc"]["interval_95"]
        assert low <= report["metrics"]["macro_auroc"]["estimate"] <= high
        # no measurement: large tears are seen by a net of a tenth of a second an epoch, chance is 0.5
        assert report["metrics"]["macro_auroc"]["estimate"] > 0.6

    def test_new_exams_from_dicom(self, stage: Any, root: Path, knees: Path) -> None:
        """One row an exam, the same as of the exam's NIfTI files."""
        for plane in PLANES:
            stage("inference", plane, plane=plane, dataset_dir=knees / "dicom")
        stage("ensemble", "exam", new_exams=True)
        found = probabilities(root / "eval/exam/inference.csv")
        known = load_datalist(knees)
        dicom = sorted(path.name for path in (knees / "dicom").iterdir())
        assert sorted(found) == dicom
        nifti = {Path(item.name).name: split for split, item in known}
        test = probabilities(root / "eval/exam/predictions.csv")
        validation = {plane: probabilities(root / "eval" / plane / "inference.csv") for plane in PLANES}
        assert all(set(validation[plane]) == set(dicom) for plane in PLANES)
        for name in dicom:
            if nifti[name] == "test":
                (same,) = [value for key, value in test.items() if Path(key).name == name]
                assert found[name] == pytest.approx(same, abs=1e-5)


def test_the_same_exams_as_nifti_and_as_dicom(planes: Path, knees: Path, tmp_path: Path) -> None:
    folders = {"nifti": tmp_path / "new", "dicom": knees / "dicom"}
    for exam in folders["dicom"].iterdir():  # a folder of files, as a clinic's export is: no datalist
        target = folders["nifti"] / exam.name
        target.mkdir(parents=True)
        for image in (knees / "exams" / exam.name).iterdir():
            (target / image.name).write_bytes(image.read_bytes())
    run("ensemble", planes / "exam", knees)
    found = {}
    for kind, folder in folders.items():
        for plane in PLANES:
            out = tmp_path / kind / plane
            run("inference", planes / plane, folder, plane=plane, output_dir=str(out))
        dirs = {plane: str(tmp_path / kind / plane) for plane in PLANES}
        out = tmp_path / kind / "exam"
        run("ensemble", planes / "exam", knees, new_exams=True, plane_dirs=dirs, output_dir=str(out))
        found[kind] = probabilities(out / "inference.csv")
    assert sorted(found["dicom"]) == sorted(path.name for path in folders["dicom"].iterdir())
    assert found["nifti"].keys() == found["dicom"].keys()
    for name, values in found["dicom"].items():
        assert values == pytest.approx(found["nifti"][name], abs=1e-6)
    assert len({tuple(values) for values in found["dicom"].values()}) > 1


def test_a_stack_with_its_slices_first_is_refused_by_name(planes: Path, tmp_path: Path) -> None:
    """It would be taken for a volume of 40 slices of 12 x 40 pixels, and be predicted all the same."""
    volume = np.random.default_rng(0).integers(0, 255, (40, 40, 12)).astype(np.uint8)
    out = str(tmp_path / "out")
    for name, array in (("right", volume), ("wrong", volume.T)):
        (tmp_path / name / "0001").mkdir(parents=True)
        np.save(tmp_path / name / "0001/axial.npy", array)
    run("inference", planes / "axial", tmp_path / "right", plane="axial", output_dir=out)
    message = (
        r"^0001: cannot be prepared: the axes of this array seem to be mixed up: found shape \(12, 40, 40\), its "
        r"slices along axis 0 .*expected them along axis 2, such as \(40, 40, 12\)\. Save it with .*"
        r"numpy\.transpose\(array, \(2, 1, 0\)"
    )
    with pytest.raises(DataError, match=message):
        run("inference", planes / "axial", tmp_path / "wrong", plane="axial", output_dir=out)


def test_nine_models_of_one_label(knees: Path, tmp_path: Path) -> None:
    """Table 4.4's models: each plane and label its own, joined by folders PLANE/LABEL."""
    short = {"max_epochs": 1, "steps_per_epoch": 1, "pretrained": None, "cache_dir": str(tmp_path / "prepared")}
    for plane in PLANES:
        for label in LABELS:
            folder = tmp_path / plane / label
            keys = {"plane": plane, "labels": [label], "width": 0.0625}
            run("train", folder, knees, **keys, **short)
            for split in ("test", "validation"):
                run("evaluate", folder, knees, **keys, split=split)
            assert list(rows(folder / "eval/predictions.csv")[0])[-1] == f"probability_{label}"
    run("ensemble", tmp_path / "exam", knees, per_label=True)
    stored = json.loads((tmp_path / "exam/models/ensemble.json").read_text())
    assert {plane: set(by_label) for plane, by_label in stored["weights"].items()} == {
        plane: set(LABELS) for plane in PLANES
    }
    report = report_of(tmp_path / "exam")
    assert set(report["settings"]) == {f"{plane} {label}" for plane in PLANES for label in LABELS}
    assert not [text for text in report["warnings"] if "label budgets" in text]
    single = probabilities(tmp_path / "axial/acl/eval/predictions.csv")
    votes = probabilities(tmp_path / "exam/eval/predictions.csv")
    for name, vote in votes.items():
        parts = [probabilities(tmp_path / plane / "acl/eval/predictions.csv")[name][0] for plane in PLANES]
        weights = [stored["weights"][plane]["acl"] for plane in PLANES]
        assert vote[1] == pytest.approx(np.dot(parts, weights), abs=1e-6)
        assert single[name][0] == parts[2]


class TestEveryLoss:
    @pytest.fixture(scope="class")
    def prepared(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return str(tmp_path_factory.mktemp("prepared"))

    @pytest.mark.parametrize(
        "name", ["nt_xent", "dcl", "dclw", "binary", "euclidean", "mio_v1", "mio_v2", "mio_v3", "dystress", "moco"]
    )
    def test_pretrains(self, name: str, knees: Path, prepared: str, tmp_path: Path) -> None:
        run("pretrain", tmp_path, knees, loss_name=name, cache_dir=prepared, max_epochs=1, steps_per_epoch=2)
        (row,) = json.loads((tmp_path / "models/pretrain_history.json").read_text())
        assert np.isfinite(row["loss"])
        assert {"embedding_effective_rank", "embedding_alignment", "embedding_uniformity"} <= row.keys()

    def test_unknown(self, knees: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"unknown contrastive loss 'comboo'\. Did you mean 'combo'\?"):
            run("pretrain", tmp_path, knees, loss_name="comboo")


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_workers_and_resuming_change_no_number(stage: str, knees: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"max_epochs": 2, "steps_per_epoch": 2, "cache_dir": str(tmp_path / "prepared")}
    keys |= {"pretrained": None} if stage == "train" else {}
    run(stage, tmp_path / "whole", knees, **keys)
    run(stage, tmp_path / "parts", knees, **keys, **{"train::trainer::max_epochs": 1})
    run(stage, tmp_path / "parts", knees, **keys, resume=True, num_workers=1)
    name = "pretrain_checkpoint.pt" if stage == "pretrain" else "checkpoint.pt"
    whole, parts = (
        torch.load(tmp_path / place / "models" / name, weights_only=True)["objects"]["network"]
        for place in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_both_stages_share_the_prepared_volumes(knees: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("pretrain", folder, knees, max_epochs=1, steps_per_epoch=1)
    made = {path: path.stat().st_mtime_ns for path in (folder / "eval/prepared").rglob("*.volume")}
    assert len(made) == len(load_datalist(knees).splits["training"])
    run("train", folder, knees, max_epochs=1, steps_per_epoch=1)
    after = {path: path.stat().st_mtime_ns for path in (folder / "eval/prepared").rglob("*.volume")}
    assert {path: after[path] for path in made} == made
    training = sum(len(load_datalist(knees).splits[split]) for split in ("training", "validation"))
    assert len(after) == training  # those of training once; validation is prepared beside them


def test_validation_sees_what_evaluation_sees(planes: Path) -> None:
    """Operating points and weights rest on volumes prepared as those they are used on."""
    for plane in PLANES:
        history = json.loads((planes / plane / "models/history.json").read_text())
        report = json.loads((planes / plane / "eval/validation_metrics.json").read_text())
        found = report["metrics"]["macro_auroc"]["estimate"]
        assert found == pytest.approx(history[-1]["val_macro_auroc"], abs=1e-9)  # 12 labels choose no epoch


class TestFolders:
    """Runs of several planes beside each other."""

    def test_planes_of_the_bundle_that_ships_have_folders_of_their_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        expected: dict[str, dict[str, Any]] = {
            "plane": {"plane": "axial"},
            "name": {"run_name": "axial/acl"},
            "none": {"plane": None},
        }
        places = {kind: Path(resolve_config(BUNDLE, "train", keys)[0]["ckpt_dir"]) for kind, keys in expected.items()}
        home = tmp_path / "runs" / BUNDLE
        assert places == {
            "plane": home / "axial/models", "name": home / "axial/acl/models", "none": home / "volume/models",
        }  # fmt: skip
        config, _ = resolve_config(BUNDLE, "ensemble", {})
        assert Path(config["output_dir"]) == home / "exam/eval"

    def test_an_ensemble_beside_nothing(self, knees: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"planes' folders cannot be told .*--run-dir RUN/exam, or .*plane_dirs"):
            run("ensemble", tmp_path / "other", knees)

    def test_an_ensemble_of_planes_that_were_not_evaluated_on_validation(self, knees: Path, tmp_path: Path) -> None:
        missing = re.escape(str(tmp_path / "sagittal/eval/validation_predictions.csv"))
        with pytest.raises(DataError, match=rf"{missing}: no such table.*of the validation split"):
            run("ensemble", tmp_path / "exam", knees)


class TestBadInput:
    def test_a_plane_that_is_none(self, knees: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"no exam has a plane 'sagital'\. Did you mean 'sagittal'\?"):
            run("train", tmp_path, knees, plane="sagital")

    def test_another_plane_than_in_training(self, planes: Path, knees: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"other settings .found plane=axial, expected plane=sagittal"):
            run("evaluate", planes / "sagittal", knees, plane="axial", output_dir=str(tmp_path))

    def test_training_without_the_encoder(self, knees: Path, tmp_path: Path) -> None:
        with pytest.raises((ConfigError, CheckpointError), match=r"pretrain\.pt"):
            run("train", tmp_path, knees)

    def test_a_label_that_is_none(self, knees: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"the dataset has no label 'menscus'.*Did you mean 'meniscus'"):
            run("train", tmp_path, knees, labels=["menscus"], pretrained=None)

    def test_folder_without_the_plane(self, planes: Path, knees: Path, tmp_path: Path) -> None:
        (tmp_path / "new/one").mkdir(parents=True)
        image = next((knees / "exams").glob("*/axial.nii.gz"))
        (tmp_path / "new/one/axial.nii.gz").write_bytes(image.read_bytes())
        with pytest.raises(DataError, match=r"no image to predict here: no exam of 1 shows the sagittal plane \(one\)"):
            run("inference", planes / "sagittal", tmp_path / "new", plane="sagittal", output_dir=str(tmp_path / "o"))


class TestCommands:
    """`medssl features`, `next`, `protocol`, `report` and `study` on volumes and labels that are each there or not."""

    def medssl(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
        code = main([str(part) for part in arguments])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out.strip()

    def test_features_are_of_volumes(
        self, planes: Path, knees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run_dir = planes / "sagittal"
        self.medssl(capsys, "features", BUNDLE, knees, tmp_path / "f.npz", "--run-dir", run_dir)
        found, items = read_features(tmp_path / "f.npz"), list(load_datalist(knees))
        assert found.label.tolist() == [list(item.label) for _, item in items]  # type: ignore[arg-type]
        of_test = found.embeddings[found.split == "test"]
        assert of_test == pytest.approx(read_features(run_dir / "eval/features.npz").embeddings, abs=1e-5)
        assert found.metadata["settings"]["plane"] == "sagittal"

    def test_features_by_a_pretrained_encoder(
        self, knees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("pretrain", tmp_path, knees, max_epochs=1, steps_per_epoch=1)
        one = knees / load_datalist(knees).splits["test"][0].image["sagittal"]  # type: ignore[index]
        encoder = tmp_path / "models/pretrain.pt"
        self.medssl(capsys, "features", BUNDLE, one, tmp_path / "f.npz", "--encoder", encoder)
        found = read_features(tmp_path / "f.npz").embeddings
        assert found.shape == (1, 64)
        text = self.medssl(capsys, "protocol", "knn", tmp_path, knees)
        assert "knn: macro AUROC" in text
        report = json.loads((tmp_path / "eval/protocols/knn/metrics.json").read_text())
        assert set(report["per_class"]) == set(LABELS)
        page = self.medssl(capsys, "report", tmp_path)
        assert "k nearest" in Path(page).read_text().lower() or "knn" in Path(page).read_text().lower()

    def test_next_asks_for_exams(
        self, planes: Path, knees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        make_phantom(
            "knee", tmp_path / "more", subjects=4, size=40, seed=5, field_of_view=96.0, split=(0.5, 0.25, 0.25)
        )
        new = tmp_path / "more/exams"
        out = tmp_path / "next.csv"
        self.medssl(capsys, "next", BUNDLE, new, "--k", 2, "--run-dir", planes / "axial", "--out", out)
        assert {row["image"] for row in rows(out)} < {path.name for path in new.iterdir()}
        assert len(rows(out)) == 2

    def test_reports(self, planes: Path, knees: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run("ensemble", planes / "exam", knees)
        for name in ("coronal", "exam"):
            page = Path(self.medssl(capsys, "report", planes / name)).read_text()
            assert "meniscus" in page
            assert not [item.name for _, item in load_datalist(knees) if item.name in page]

    def test_a_study_of_one_plane(self, knees: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "study"
        self.medssl(
            capsys, "study", BUNDLE, "--data", knees, "--budgets", "100%", "--seeds", 1, "--out", out, "--overlay",
            "smoke", "plane=axial", "backbone=resnet18", "max_epochs=1", "steps_per_epoch=1", "num_draws=1",
        )  # fmt: skip
        content = json.loads((out / "study.json").read_text())
        assert all(one["complete"] for one in content["runs"])
        assert {one["arm"] for one in content["runs"]} == {"scratch", "combo"}
        assert "scratch" in Path(self.medssl(capsys, "report", out)).read_text()


@pytest.mark.real
def test_cardiac_volumes_of_five_groups(real_data: Path, tmp_path: Path) -> None:
    """Single volumes with exclusive classes through the same stages: that they run, and that their files are right."""
    if not (real_data / "acdc").is_dir():
        pytest.skip("no acdc among the real images")
    datalist = prepare_dataset("acdc", real_data / "acdc", tmp_path / "data", progress=False)
    keys = {"plane": None, "labels": datalist.class_names, "image_size": 64, "width": 0.25}
    short = {"max_epochs": 2, "steps_per_epoch": None, "batch_size": 4}
    run("pretrain", tmp_path / "run", tmp_path / "data", **keys, **{**short, "batch_size": 16})
    run("train", tmp_path / "run", tmp_path / "data", **keys, **short)
    run("evaluate", tmp_path / "run", tmp_path / "data", **keys)
    table, test = rows(tmp_path / "run/eval/predictions.csv"), load_datalist(tmp_path / "data").splits["test"]
    assert [row["image"] for row in table] == [item.name for item in test]
    assert [row["label"] for row in table] == [datalist.class_names[int(item.label)] for item in test]  # type: ignore[arg-type]
    sums = [sum(float(row[f"probability_{name}"]) for name in datalist.class_names) for row in table]
    assert sums == pytest.approx([1.0] * len(test), abs=1e-5)
    history = json.loads((tmp_path / "run/models/history.json").read_text())
    assert len(history) == 2
    assert all(np.isfinite(row["loss"]) for row in history)
    counts = report_of(tmp_path / "run")["label_counts"]
    assert counts["n_labels_training"] == len(load_datalist(tmp_path / "data").splits["training"])


def test_pre_training_on_volumes_without_any_label(tmp_path: Path) -> None:
    """Stacks of one plane, as files in one folder; then their embeddings, by the slices' encoder."""
    (tmp_path / "scans").mkdir()
    random = np.random.default_rng(0)
    for k in range(10):
        np.save(tmp_path / f"scans/P{k}.npy", random.integers(0, 255, (40, 40, 5 + k % 3)).astype(np.uint8))
    datalist = prepare_dataset("folder", tmp_path / "scans", tmp_path / "data", subject_regex=r"(P\d+)")
    assert {split: len(items) for split, items in datalist.splits.items()} == {"unlabeled": 10}
    folder = run("pretrain", tmp_path / "run", tmp_path / "data", plane=None, batch_size=4)
    encoder, out = folder / "models/pretrain.pt", tmp_path / "features.npz"
    assert main(["features", BUNDLE, str(tmp_path / "data"), str(out), "plane=null", "--encoder", str(encoder)]) == 0
    found = read_features(out)
    assert len(found.embeddings) == 10
    assert np.isfinite(found.embeddings).all()
    with pytest.raises(DataError, match=r"no image of this dataset has a label, and this stage needs labels .found 10"):
        run("train", folder, tmp_path / "data", plane=None)


def test_a_dataset_without_a_test_part(knees: Path, planes: Path, tmp_path: Path) -> None:
    """As ``medssl prepare mrnet --paper-protocol`` leaves it: figures of the validation split, and nothing else."""
    datalist = load_datalist(knees)
    del datalist.splits["test"]
    for part in ("train", "exams", "validation", "images"):
        if (knees / part).is_dir():
            (tmp_path / part).symlink_to(knees / part)
    datalist.save(tmp_path)
    message = r"no labelled test image\. Where .*--paper-protocol.*split=validation, whose figures are too good"
    with pytest.raises(DataError, match=message):
        run("evaluate", planes / "axial", tmp_path, plane="axial", output_dir=str(tmp_path / "e"))
    dirs = {plane: str(planes / plane / "eval") for plane in PLANES}
    with pytest.raises(DataError, match=message):
        run("ensemble", tmp_path / "exam", tmp_path, plane_dirs=dirs)
    run("ensemble", tmp_path / "exam", tmp_path, plane_dirs=dirs, split="validation")
    report = json.loads((tmp_path / "exam/eval/validation_metrics.json").read_text())
    assert report["n"] == len(datalist.splits["validation"])
    assert "from which the weights were set" in report["warnings"][0]
    assert not (tmp_path / "exam/eval/metrics.json").exists()
