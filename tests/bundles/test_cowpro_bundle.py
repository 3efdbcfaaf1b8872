"""The bundle of abdominal organs end to end, as its users call it."""

from __future__ import annotations

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

import nibabel as nib
import numpy as np
import pytest
import torch

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import run_stage
from medssl_monai.core import CheckpointError, ConfigError, DataError, MedSSLError, hash_case
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.handlers import read_organ_scores
from medssl_monai.handlers.storage import CheckpointFile

BUNDLE = "cowpro_abdominal_segmentation"
STAGES = ["pretrain", "train", "evaluate", "inference"]
ORGANS = {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
LIGHT: dict[str, Any] = {"backbone": "resnet18", "stages": 3}

pytestmark = pytest.mark.bundle


def folders(root: Path) -> dict[str, str]:
    return {"ckpt_dir": str(root / "models"), "output_dir": str(root / "eval")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def run(stage: str, data: Path, root: Path, overlays: tuple[str, ...] = ("smoke",), **keys: Any) -> None:
    run_stage(BUNDLE, stage, {"dataset_dir": str(data), **LIGHT, **keys}, list(overlays), root)


def numbers(root: Path, name: str = "pretrain_history.json") -> list[dict[str, float]]:
    content = json.loads((root / "models" / name).read_text())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in content]


def support(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "models/support.json").read_text())
    return content


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(int)


def names(data: Path, split: str) -> list[str]:
    return [item.name for item in load_datalist(data).splits[split]]


@pytest.fixture(scope="module")
def abdomens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten scans with masks, stored along axes of all kinds, some tilted."""
    folder = tmp_path_factory.mktemp("abdomens") / "data"
    make_phantom("abdomen", folder, subjects=10, seed=1, size=32, slice_spacing=10.0, orientation="mixed")
    return folder


@pytest.fixture(scope="module")
def pretrained(abdomens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which nothing but the pretrain stage was run."""
    root = tmp_path_factory.mktemp("pretrained")
    run("pretrain", abdomens, root)
    return root


@pytest.fixture(scope="module")
def encoder(pretrained: Path) -> str:
    return str(pretrained / "models/pretrain.pt")


@pytest.fixture(scope="module")
def trained(abdomens: Path, encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the bank of one labelled scan."""
    root = tmp_path_factory.mktemp("trained")
    run("train", abdomens, root, pretrained=encoder)
    return root


def check_label_map(mask: Path, image: Path, values: set[int]) -> None:
    """The mask lies on its scan's own grid and knows the dataset's values only."""
    found, scan = nib.load(mask), nib.load(image)
    assert found.shape == scan.shape
    np.testing.assert_allclose(found.affine, scan.affine, atol=1e-5)
    assert found.get_data_dtype().kind == "u"
    assert set(np.unique(np.asarray(found.dataobj)).tolist()) <= values


class TestThroughMonai:
    """``python -m monai.bundle run`` of all four stages with the bundle's own network, and the report of the run."""

    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("monai")

    @pytest.mark.parametrize("stage", STAGES)
    def test_stage_ends_well_within_a_minute(self, stage: str, root: Path, abdomens: Path, run_bundle: Any) -> None:
        start = time.monotonic()
        more = {"evaluate": {"masks": True, "output_dir": root / "test"}, "inference": {"inference_split": "test"}}
        result = run_bundle(BUNDLE, stage, **{"dataset_dir": abdomens, **folders(root), **more.get(stage, {})})
        assert result.returncode == 0, result.stderr[-3000:]
        assert time.monotonic() - start < 60
        if stage == "pretrain":
            assert "estimate: about" in result.stderr
        named = [name for name in names(abdomens, "training") + names(abdomens, "test") if name in result.stderr]
        assert named == []

    def test_files_of_the_contract(self, root: Path) -> None:
        assert {
            "pretrain.pt", "pretrain.pt.seen.json", "pretrain_checkpoint.pt", "pretrain_encoder.ts",
            "pretrain_encoder.json", "pretrain_history.json", "pretrain_budget.json", "model.pt", "support.json",
            "budget.json",
        } <= {path.name for path in (root / "models").iterdir()}  # fmt: skip
        state = torch.load(root / "models/model.pt", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        first = torch.load(root / "models/pretrain.pt", weights_only=True)
        assert len(first) > 100
        assert all(torch.equal(value, state[f"encoder.{key}"]) for key, value in first.items())  # no gradients

    def test_metrics_follow_from_the_label_maps(self, root: Path, abdomens: Path) -> None:
        tested = load_datalist(abdomens).splits["test"]
        table, report = rows(root / "test/predictions.csv"), json.loads((root / "test/metrics.json").read_text())
        assert [row["image"] for row in table] == [item.name for item in tested for _ in ORGANS]
        dice = np.zeros((len(tested), len(ORGANS)))
        for k, item in enumerate(tested):
            check_label_map(root / "test" / item.name, abdomens / item.name, {0, *ORGANS})
            found, truth = voxels(root / "test" / item.name), voxels(abdomens / str(item.label))
            for o, value in enumerate(ORGANS):
                one, other = found == value, truth == value
                dice[k, o] = 2 * (one & other).sum() / (one.sum() + other.sum())
                row = table[k * len(ORGANS) + o]
                assert (row["organ"], row["label"]) == (ORGANS[value], str(value))
                assert float(row["dice"]) == pytest.approx(dice[k, o], abs=1e-6)
        assert dice.max() > 0.05
        assert report["metrics"]["mean_dice"]["estimate"] == pytest.approx(dice.mean(), abs=1e-6)
        assert (report["protocol"], report["n"], report["class_names"]) == ("blind", 2, list(ORGANS.values()))
        within = [float(row["paper_dice"]) for row in table]
        assert report["metrics"]["paper/mean_dice"]["estimate"] == pytest.approx(np.mean(within), abs=1e-6)
        assert report["label_counts"]["n_labels"] == 1
        assert report["settings"]["width"] == 0.125
        assert all((root / "test" / item.name.replace(".nii.gz", ".png")).is_file() for item in tested)

    def test_inference_gives_the_label_maps_of_evaluation(self, root: Path, abdomens: Path) -> None:
        table = rows(root / "eval/inference.csv")
        assert sorted({row["image"] for row in table}) == sorted(names(abdomens, "test"))
        for row in table:
            mask = nib.load(root / "eval" / row["image"])
            labels = np.asarray(mask.dataobj)
            np.testing.assert_array_equal(labels, voxels(root / "test" / row["image"]))
            volume = (labels == int(row["label"])).sum() * abs(np.linalg.det(mask.affine[:3, :3])) / 1000
            assert float(row["volume_ml"]) == pytest.approx(volume, rel=1e-4)
            assert 0 <= float(row["confidence"]) <= 1
            assert row["differs"] == ""
            picture = root / "eval" / row["image"].replace(".nii.gz", ".png")
            assert picture.read_bytes()[:4] == b"\x89PNG"

    def test_report_of_the_run(self, root: Path, tmp_path: Path) -> None:
        whole = tmp_path / "run"
        shutil.copytree(root / "models", whole / "models")
        shutil.copytree(root / "test", whole / "eval")
        assert main(["report", str(whole), "--out", str(tmp_path / "report.html")]) == 0
        page = (tmp_path / "report.html").read_text()
        for text in ("right kidney", "spleen", "Dice", "blind", "paper"):
            assert text in page, text


# --- pre-training
def test_workers_and_resuming_change_no_number(abdomens: Path, tmp_path: Path) -> None:
    keys = {"max_epochs": 3, "steps_per_epoch": 3, "batch_size": 4, "cache_dir": str(tmp_path / "prepared")}
    run("pretrain", abdomens, tmp_path / "whole", **keys)
    run("pretrain", abdomens, tmp_path / "parts", **keys, num_workers=1, **{"train::trainer::max_epochs": 2})
    assert len(numbers(tmp_path / "parts")) == 2
    run("pretrain", abdomens, tmp_path / "parts", **keys, num_workers=1, resume=True)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole")
    assert len(numbers(tmp_path / "whole")) == 3
    first, second = (torch.load(tmp_path / one / "models/pretrain.pt", weights_only=True) for one in ("whole", "parts"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    with pytest.raises(ConfigError, match=r"pretrain_checkpoint.pt: .*head_name: 'cowpro' there, 'panet' here"):
        run("pretrain", abdomens, tmp_path / "parts", **keys, resume=True, head_name="panet")


def test_pre_training_learns(abdomens: Path, tmp_path: Path) -> None:
    run("pretrain", abdomens, tmp_path, max_epochs=6, steps_per_epoch=10, learning_rate=0.05, image_size=64)
    first, *_, last = numbers(tmp_path)
    assert last["query"] < first["query"] - 0.1
    assert last["loss"] == pytest.approx(last["query"] + last["cycle"], rel=1e-5)


def test_prepared_scans_are_found_again(abdomens: Path, pretrained: Path, tmp_path: Path) -> None:
    """``medssl superpixels`` prepares what the stage would, and another epoch prepares nothing."""
    prepared = {path: path.stat().st_mtime_ns for path in (pretrained / "eval/prepared").rglob("*.volume")}
    assert len(prepared) == 7  # no scan that tests, nor one that validates
    keys = ["image_size=32", "backbone=resnet18", "stages=3"]
    assert main(["superpixels", str(abdomens), "--run-dir", str(pretrained), *keys]) == 0
    run("pretrain", abdomens, tmp_path, cache_dir=str(pretrained / "eval/prepared"), max_epochs=1)
    assert {path: path.stat().st_mtime_ns for path in (pretrained / "eval/prepared").rglob("*.volume")} == prepared


def test_scans_without_any_mask_pre_train(abdomens: Path, tmp_path: Path) -> None:
    data = tmp_path / "bare"
    for k, name in enumerate(names(abdomens, "training")[:3]):
        (data / f"P{k}").mkdir(parents=True)
        shutil.copyfile(abdomens / name, data / f"P{k}/scan.nii.gz")
    entries = [{"image": f"P{k}/scan.nii.gz", "subject": f"subject:P{k}"} for k in range(3)]
    content = {"name": "bare", "task": "segmentation", "labels": {"0": "background"}, "unlabeled": entries}
    (data / "datalist.json").write_text(json.dumps(content))
    run("pretrain", data, tmp_path / "run", max_epochs=1)
    assert json.loads((tmp_path / "run/models/pretrain_budget.json").read_text())["n_unlabeled"] == 3
    assert json.loads((tmp_path / "run/models/pretrain.pt.seen.json").read_text())["labeled"] == []
    with pytest.raises(DataError, match=r"no image of this dataset has a mask.*3 images without a mask.*Outline"):
        run("train", data, tmp_path / "run")


def test_grey_scans_are_copied_to_three_channels(abdomens: Path, tmp_path: Path) -> None:
    keys = {"in_channels": 3, "max_epochs": 1}
    for stage in ("pretrain", "train", "evaluate"):
        run(stage, abdomens, tmp_path, **keys)
    state = torch.load(tmp_path / "models/model.pt", weights_only=True)
    assert state["encoder.encoder.body.conv1.weight"].shape[1] == 3
    assert np.isfinite(json.loads((tmp_path / "eval/metrics.json").read_text())["metrics"]["mean_dice"]["estimate"])


class TestLabelsUsedBeforeTraining:
    """Slices are left out by masks, so that these count; other pre-training counts none."""

    def test_without_excluded_organs_any_label_may_follow(self, pretrained: Path, abdomens: Path) -> None:
        seen = json.loads((pretrained / "models/pretrain.pt.seen.json").read_text())
        assert seen["labeled"] == []
        assert len(seen["subjects"]) == 7

    def test_all_masks(self, abdomens: Path, tmp_path: Path) -> None:
        run("pretrain", abdomens, tmp_path, exclude_organs=["right kidney", "left kidney"], max_epochs=1)
        seen = json.loads((tmp_path / "models/pretrain.pt.seen.json").read_text())
        name = load_datalist(abdomens).name
        assert seen["labeled"] == sorted(hash_case(f"{name}|{one}") for one in names(abdomens, "training"))
        with pytest.raises(ConfigError, match=r"pretrain.pt: .*with 6 labels that are outside this run's budget"):
            run("train", abdomens, tmp_path)
        run("train", abdomens, tmp_path, label_budget=7)
        assert support(tmp_path)["label_counts"]["n_labels"] == 7

    def test_the_mask_of_the_budget_alone(
        self, abdomens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keys = {"label_fraction": None, "label_budget": 1, "max_epochs": 1}
        run("pretrain", abdomens, tmp_path, exclude_organs=["liver"], **keys)
        assert "6 of 7 scans have no mask to exclude slices by" in "".join(capsys.readouterr())
        run("train", abdomens, tmp_path)
        assert len(support(tmp_path)["cases"]) == 1
        (used,) = support(tmp_path)["cases"]
        other = next(name for name in names(abdomens, "training") if hash_case(name) != used["case"])
        with pytest.raises(ConfigError, match="with 1 labels that are outside this run's budget"):
            run("train", abdomens, tmp_path, supports=[other])


# --- the bank
def test_budgets_and_names(abdomens: Path, encoder: str, trained: Path, tmp_path: Path) -> None:
    chosen = names(abdomens, "training")[2:0:-1]
    run("train", abdomens, tmp_path / "named", pretrained=encoder, supports=chosen)
    assert [case["case"] for case in support(tmp_path / "named")["cases"]] == [hash_case(name) for name in chosen]
    assert support(tmp_path / "named")["inputs"]["n"] == 2
    run("train", abdomens, tmp_path / "two", pretrained=encoder, label_budget=2)
    one, two = ({case["case"] for case in support(root)["cases"]} for root in (trained, tmp_path / "two"))
    assert one < two
    assert len(two) == 2
    assert support(tmp_path / "two")["settings"]["label_budget"] == 2
    assert json.loads((tmp_path / "two/models/budget.json").read_text())["n_unlabeled"] == 5


def test_some_organs_only(abdomens: Path, encoder: str, tmp_path: Path) -> None:
    run("train", abdomens, tmp_path, pretrained=encoder, labels=["liver", "spleen"])
    run("evaluate", abdomens, tmp_path, masks=True, mosaics=False)
    assert [row["organ"] for row in rows(tmp_path / "eval/predictions.csv")] == ["liver", "spleen"] * 2
    for name in names(abdomens, "test"):
        check_label_map(tmp_path / "eval" / name, abdomens / name, {0, 1, 4})
        assert not (tmp_path / "eval" / name.replace(".nii.gz", ".png")).exists()


class TestFinetuning:
    KEYS: ClassVar[dict[str, Any]] = {"finetune": True, "max_epochs": 3, "steps_per_epoch": 3, "batch_size": 2}

    @pytest.fixture(scope="class")
    def whole(self, abdomens: Path, encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        root = tmp_path_factory.mktemp("tuned")
        run("train", abdomens, root, pretrained=encoder, **self.KEYS)
        return root

    def test_weights_go_on_from_those_of_pre_training(self, whole: Path, encoder: str, abdomens: Path) -> None:
        first = torch.load(encoder, weights_only=True)
        state = torch.load(whole / "models/model.pt", weights_only=True)
        checkpoint = CheckpointFile(whole / "models/checkpoint.pt").load()[0]
        assert checkpoint["iteration"] == 9
        tuned = checkpoint["objects"]["network"]
        change = max(float((state[f"encoder.{key}"] - first[key]).abs().max()) for key in first if "weight" in key)
        assert 0 < change < 0.1
        assert all(torch.equal(state[f"encoder.{key}"], tuned[f"encoder.{key}"]) for key in first)
        assert len(numbers(whole, "history.json")) == 3
        assert support(whole)["settings"]["finetune"] is True
        run("evaluate", abdomens, whole, protocols=["blind"], mosaics=False)
        report = json.loads((whole / "eval/metrics.json").read_text())
        assert (report["protocols"], "paper/mean_dice" in report["metrics"]) == ({}, False)

    def test_resumed_run_ends_as_one_never_stopped(
        self, whole: Path, encoder: str, abdomens: Path, tmp_path: Path
    ) -> None:
        keys = {"pretrained": encoder, **self.KEYS}
        run("train", abdomens, tmp_path, **keys, **{"train::trainer::max_epochs": 1})
        run("train", abdomens, tmp_path, **keys, resume=True, num_workers=1)
        assert numbers(tmp_path, "history.json") == numbers(whole, "history.json")
        one, other = (torch.load(root / "models/model.pt", weights_only=True) for root in (whole, tmp_path))
        assert one.keys() == other.keys()
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=0, atol=0, equal_nan=True)


# --- settings that must agree
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("threshold", {"threshold": "dynamic"}, r"found threshold=dynamic, expected threshold=None"),
    ("head", {"head_name": "panet"}, r"found head_name=panet, expected head_name=cowpro"),
    ("size", {"image_size": 64}, r"found image_size=64, expected image_size=32"),
    ("modality", {"modality": "ct"}, r"found modality=ct, expected modality=mr"),
    ("grid", {"slice_spacing": None, "field_of_view": 300.0},
     r"found field_of_view=300.0, slice_spacing=None, expected field_of_view=320.0, slice_spacing=7.7"),
    ("network", {"backbone": "resnet50"}, r"found backbone=resnet50, expected backbone=resnet18"),
    ("channels", {"in_channels": 3}, r"found in_channels=3, expected in_channels=1"),
]  # fmt: skip


@pytest.mark.parametrize("stage", ["evaluate", "inference"])
@pytest.mark.parametrize(("keys", "message"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_other_settings_than_the_bank_s(
    stage: str, keys: dict[str, Any], message: str, abdomens: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=rf"support.json: .*other settings .*{message}.*Give these keys as in"):
        run(stage, abdomens, trained, output_dir=str(tmp_path / "out"), **keys)
    assert not list(tmp_path.rglob("*.csv"))


def test_settings_of_the_head_go_through_all_stages(abdomens: Path, encoder: str, tmp_path: Path) -> None:
    """A prior of place may be chosen with the bank at hand; what made the bank may not."""
    keys = {"head_name": "alpnet", "pool": 2, "threshold": 0.5}
    run("train", abdomens, tmp_path, pretrained=encoder, **keys)
    found = {}
    for prior in (None, "soft", "hard"):
        out = tmp_path / str(prior)
        run("evaluate", abdomens, tmp_path, **keys, quadrant_prior=prior, output_dir=str(out), mosaics=False)
        found[prior] = read_organ_scores(out / "predictions.csv")[2]
    assert found[None] != found["hard"]
    assert found[None] != found["soft"]
    with pytest.raises(CheckpointError, match=r"found pool=None, threshold=None, expected pool=2, threshold=0.5"):
        run("inference", abdomens, tmp_path, head_name="alpnet")
    with pytest.raises(MedSSLError, match=r"quadrant_prior: expected None, .hard. or .soft., got 'hrad'"):
        run("inference", abdomens, tmp_path, **keys, quadrant_prior="hrad")


def test_a_bank_of_other_weights_is_refused(abdomens: Path, trained: Path, tmp_path: Path) -> None:
    models = shutil.copytree(trained / "models", tmp_path / "models")
    state = torch.load(models / "model.pt", weights_only=True)
    torch.save({key: value * 1 for key, value in reversed(list(state.items()))}, models / "model.pt")
    with pytest.raises(CheckpointError, match=r"support.json: support.json belongs to another model.pt"):
        run("inference", abdomens, tmp_path)
    (models / "support.json").unlink()
    for stage in ("evaluate", "inference"):
        with pytest.raises(CheckpointError, match=r"no support.json here.*The train stage writes it"):
            run(stage, abdomens, tmp_path)


@pytest.fixture(scope="module")
def unreadable(abdomens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset with scans that cannot be read: who reads one comes upon it."""
    folder = Path(shutil.copytree(abdomens, tmp_path_factory.mktemp("unreadable") / "data"))
    for path in folder.glob("scans/*/image.nii.gz"):
        path.write_bytes(b"nothing")
    return folder


@pytest.mark.parametrize(
    ("stage", "keys", "message"),
    [
        ("pretrain", {}, r"image.nii.gz: cannot be read as NIfTI"),  # so that the others say something
        ("pretrain", {"batch_size": 0}, r"^batch_size: "),
        (
            "pretrain",
            {"steps_per_epoch": None},
            r"^steps_per_epoch: .*found null, expected a whole number, 1 or more\)",
        ),
        ("pretrain", {"learning_rate": -1}, r"^learning_rate: "),
        ("pretrain", {"optimizer_name": "sdg"}, r"^optimizer_name: .*Did you mean 'sgd'"),
        ("pretrain", {"lr_decay": 0}, r"^lr_decay: "),
        ("pretrain", {"head_name": "alpnett"}, r"^head_name: unknown head 'alpnett' .*Did you mean 'alpnet'"),
        ("pretrain", {"threshold": 2}, r"^threshold: head cowpro: .*from 0 to below 1, or \"dynamic\", got 2"),
        ("pretrain", {"backbone": "resnet19"}, r"unknown backbone 'resnet19'. Did you mean 'resnet18'"),
        ("pretrain", {"stages": 5}, r"no such feature map"),
        ("pretrain", {"gamma": [2, 1]}, r"gamma must be two positive numbers"),
        ("pretrain", {"class_weights": [1]}, r"class_weights: expected two, of background and foreground, got 1"),
        ("pretrain", {"modality": "pet"}, r"modality must be one of mr, ct; got 'pet'"),
        ("pretrain", {"field_of_view": -1}, r"field_of_view must be a positive number of mm, got -1"),
        ("pretrain", {"window": [3, 3]}, r"window must be two intensities"),
        ("pretrain", {"superpixel_method": "watershed"}, r"unknown method 'watershed'; expected one of felzenszwalb"),
        ("pretrain", {"exclude_organs": ["livr"]}, r"no such organ .*found livr.*Did you mean 'liver'"),
        ("train", {"supports": "scan"}, r"^supports: scans must be given as a list .found scan, expected .scan."),
        ("train", {"supports": ["scans/A0/image.nii.gz"]}, r"^supports: no training image is called 'scans/A0/image"),
        ("train", {"labels": ["livr"]}, r"^labels: the dataset has no organ 'livr' .*Did you mean 'liver'"),
        ("train", {"labels": "liver"}, r"^labels: organs must be given as a list"),
        ("train", {"finetune": True, "learning_rate": -1}, r"^learning_rate: "),
        ("train", {"quadrant_prior": "hrad"}, r"quadrant_prior: expected None, .hard. or .soft., got 'hrad'"),
        ("train", {"width": 0.5}, r"found width=0.5, expected width=0.125.*Give these keys as in pre-training"),
        ("evaluate", {"n_boot": 0}, r"^n_boot: resamples of the intervals .found 0, expected 1 or more"),
        ("evaluate", {"protocols": ["paper"]}, r"^protocols: cannot be used .*blind is the headline"),
        ("evaluate", {"split": "tets"}, r"^split: unknown split 'tets'. Did you mean 'test'"),
        ("inference", {"inference_split": "tets"}, r"^inference_split: unknown split 'tets'"),
    ],
)
def test_wrong_values_are_told_before_a_scan_is_read(
    stage: str, keys: dict[str, Any], message: str, unreadable: Path, trained: Path, encoder: str, tmp_path: Path
) -> None:
    shutil.copytree(trained / "models", tmp_path / "models")
    given = {"pretrained": encoder, **keys} if stage == "train" else keys
    with pytest.raises(MedSSLError, match=message):
        run(stage, unreadable, tmp_path, **given)
