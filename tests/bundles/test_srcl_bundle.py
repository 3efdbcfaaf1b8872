"""The SRCL bundle end to end, as its users call it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from medssl_monai.apps.run import run_stage
from medssl_monai.core import CheckpointError, ConfigError, DataError, FolderLock, OutputError
from medssl_monai.data import load_datalist
from medssl_monai.data.prepare import prepare_dataset

BUNDLE = "srcl_skin_lesion_classification"
CLASSES = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]

pytestmark = pytest.mark.bundle


def folders(root: Path) -> dict[str, str]:
    return {"ckpt_dir": str(root / "models"), "output_dir": str(root / "eval")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def trained(lesions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a pre-trained encoder and a network trained from it (regime srcl)."""
    root = tmp_path_factory.mktemp("run")
    for stage in ("pretrain", "train"):
        run_stage(BUNDLE, stage, {"dataset_dir": str(lesions), "label_fraction": 0.6}, ["smoke"], root)
    return root


class TestThroughMonai:
    """``python -m monai.bundle run`` of all four stages."""

    @pytest.fixture(scope="class")
    def root(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("monai")

    @pytest.mark.parametrize("stage", ["pretrain", "train", "evaluate", "inference"])
    def test_stage_ends_well_within_a_minute(self, stage: str, root: Path, lesions: Path, run_bundle: Any) -> None:
        start = time.monotonic()
        result = run_bundle(BUNDLE, stage, dataset_dir=lesions, **folders(root))
        assert result.returncode == 0, result.stderr[-3000:]
        assert time.monotonic() - start < 60
        if stage in ("pretrain", "train"):
            assert "estimate: about" in result.stderr

    def test_files_of_the_contract(self, root: Path) -> None:
        models = {path.name for path in (root / "models").iterdir()}
        assert {
            "pretrain.pt",
            "pretrain_checkpoint.pt",
            "checkpoint.pt",
            "model.pt",
            "serving.json",
            "budget.json",
        } <= models
        written = {path.name for path in (root / "eval").iterdir()}
        assert {
            "metrics.json", "predictions.csv", "inference.csv", "confusion.png", "roc.png", "calibration.png",
            "saliency.png",
        } <= written  # fmt: skip
        state = torch.load(root / "models/model.pt", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())

    def test_metrics_follow_from_the_predictions(self, root: Path, lesions: Path) -> None:
        report = json.loads((root / "eval/metrics.json").read_text())
        table = rows(root / "eval/predictions.csv")
        probabilities = np.array([[float(row[f"probability_{name}"]) for name in CLASSES] for row in table])
        labels = np.array([CLASSES.index(row["label"]) for row in table])
        expected = np.mean([roc_auc_score(labels == k, probabilities[:, k]) for k in range(7)])
        assert report["metrics"]["macro_auroc"]["estimate"] == pytest.approx(expected, abs=1e-3)
        accuracy = np.mean(probabilities.argmax(1) == labels)
        assert report["metrics"]["top1_accuracy"]["estimate"] == pytest.approx(accuracy, abs=1e-9)
        assert report["n"] == len(table) == len(load_datalist(lesions).splits["test"])
        low, high = report["metrics"]["top1_accuracy"]["interval_95"]
        assert low <= accuracy <= high
        counts = report["label_counts"]
        splits = load_datalist(lesions).splits
        assert counts["n_labels_training"] == len(splits["training"])
        assert counts["n_labels_validation"] == len(splits["validation"])

    def test_inference_names_every_image_of_the_datalist(self, root: Path, lesions: Path) -> None:
        table = rows(root / "eval/inference.csv")
        assert sorted(row["image"] for row in table) == sorted(item.name for _, item in load_datalist(lesions))
        sums = [sum(float(row[f"probability_{name}"]) for name in CLASSES) for row in table]
        assert np.allclose(sums, 1, atol=1e-5)


@pytest.mark.parametrize("regime", ["supervised", "mean_teacher", "src", "srcl_joint"])
def test_regime_trains_and_logs_its_terms(regime: str, lesions: Path, tmp_path: Path) -> None:
    keys = {
        "dataset_dir": str(lesions),
        "regime": regime,
        "label_fraction": 0.6,
        "max_epochs": 3,
        "teacher_warmup": 0.3,
    }
    run_stage(BUNDLE, "train", keys, ["smoke"], tmp_path)
    history = json.loads((tmp_path / "models/history.json").read_text())
    terms = {
        "supervised": set(), "mean_teacher": {"consistency"}, "src": {"consistency", "relation"},
        "srcl_joint": {"consistency", "relation", "supcon"},
    }[regime]  # fmt: skip
    names = {"supervised", "consistency", "relation", "supcon"}
    assert names & history[-1].keys() == {"supervised"} | terms
    # the teacher has not started in the first epoch
    assert not {"consistency", "relation"} & history[0].keys()


def test_test_subjects_that_were_seen_in_training_are_flagged(trained: Path, lesions: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lesions, tmp_path / "copy"))
    content = json.loads((copy / "datalist.json").read_text())
    content["test"], content["training"] = content["training"], content["test"]
    (copy / "datalist.json").write_text(json.dumps(content))
    for folder, seen in ((lesions, False), (copy, True)):
        out = tmp_path / f"out{seen}"
        run_stage(BUNDLE, "evaluate", {"dataset_dir": str(folder), "output_dir": str(out)}, ["smoke"], trained)
        report = json.loads((out / "metrics.json").read_text())
        assert (report["n_subjects_seen_in_training"] > 0) == seen
        assert any("were seen in training: the figures are too good" in text for text in report["warnings"]) == seen


def test_a_transductive_run_trains_on_test_images_and_says_so(lesions: Path, tmp_path: Path) -> None:
    keys = {"dataset_dir": str(lesions), "label_fraction": 0.6, "transductive": True, "max_epochs": 1}
    run_stage(BUNDLE, "pretrain", keys, ["smoke"], tmp_path)
    encoder = str(tmp_path / "models/pretrain.pt")
    with pytest.raises(DataError, match="subjects that validate or test here were seen in pre-training"):
        run_stage(
            BUNDLE, "train", {**keys, "regime": "srcl", "transductive": False, "pretrained": encoder}, ["smoke"],
            tmp_path / "other",
        )  # fmt: skip
    run_stage(BUNDLE, "train", {**keys, "regime": "srcl"}, ["smoke"], tmp_path)
    run_stage(BUNDLE, "evaluate", {"dataset_dir": str(lesions)}, ["smoke"], tmp_path)
    report = json.loads((tmp_path / "eval/metrics.json").read_text())
    splits = load_datalist(lesions).splits
    budget = json.loads((tmp_path / "models/budget.json").read_text())
    assert budget["n_unlabeled"] == sum(map(len, splits.values())) - budget["n_labels_training"]
    assert report["label_counts"]["transductive"] is True
    assert report["n_subjects_seen_in_training"] == report["n_subjects"]
    (text,) = [text for text in report["warnings"] if text.startswith("transductive")]
    assert f"images of {report['n_subjects']} of {report['n_subjects']} test subjects were trained on" in text


def test_seen_subjects_are_unknown_under_another_key(
    trained: Path, lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSSL_HASH_KEY", "another")
    run_stage(BUNDLE, "evaluate", {"dataset_dir": str(lesions), "output_dir": str(tmp_path)}, ["smoke"], trained)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["n_subjects_seen_in_training"] is None
    assert any("trained under another hash key" in text for text in report["warnings"])


def test_workers_end_with_the_message_alone(lesions: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(lesions, tmp_path / "copy"))
    name = load_datalist(copy).splits["training"][0].name
    (copy / name).write_bytes(b"damaged")
    keys = {"dataset_dir": str(copy), "regime": "supervised", "num_workers": 1, "cache_rate": 0, "steps_per_epoch": 40}
    with pytest.raises(DataError) as caught:
        run_stage(BUNDLE, "train", keys, ["smoke"], tmp_path / "run")
    assert "Traceback" not in str(caught.value)
    assert name in str(caught.value)


def test_evaluation_is_that_of_the_best_epoch(trained: Path, lesions: Path, tmp_path: Path) -> None:
    """model.pt carries the epoch of the highest validation AUROC."""
    history = json.loads((trained / "models/history.json").read_text())
    state = torch.load(trained / "models/checkpoint.pt", weights_only=True)
    best = max(history, key=lambda row: row["val_macro_auroc"])
    assert state["objects"]["ModelExport"]["best_epoch"] == best["epoch"]


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_resumed_run_ends_as_one_never_stopped(stage: str, lesions: Path, tmp_path: Path) -> None:
    keys = {"dataset_dir": str(lesions), "label_fraction": 0.6, "regime": "src", "teacher_warmup": 0.25}
    if stage == "pretrain":
        keys = {key: keys[key] for key in ("dataset_dir", "label_fraction")}
    run_stage(BUNDLE, stage, {**keys, "max_epochs": 4}, ["smoke"], tmp_path / "whole")
    checkpoint = "pretrain_checkpoint.pt" if stage == "pretrain" else "checkpoint.pt"

    # stop after the second epoch: the trainer ends there, everything else is as in the whole run
    def stopped(epochs: int) -> dict[str, Any]:
        return {**keys, "max_epochs": 4, "resume": True, "train::trainer::max_epochs": epochs}

    # warm-up and ramp are shares of the trainer's epochs: keep their lengths while the run is cut short
    lengths = {"train::trainer::teacher_warmup": 0.5, "train::trainer::ramp_up": 0.6}
    extra = lengths if stage == "train" else {}
    run_stage(BUNDLE, stage, {**stopped(2), **extra}, ["smoke"], tmp_path / "parts")
    run_stage(BUNDLE, stage, stopped(4), ["smoke"], tmp_path / "parts")
    whole, parts = (
        torch.load(tmp_path / name / "models" / checkpoint, weights_only=True)["objects"] for name in ("whole", "parts")
    )
    for key, value in whole["network"].items():
        assert torch.equal(value, parts["network"][key]), key
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in whole["History"]["rows"]] == [
        {k: v for k, v in row.items() if k not in drop} for row in parts["History"]["rows"]
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_number(workers: int, lesions: Path, tmp_path: Path) -> None:
    def weights(name: str, number: int) -> dict[str, torch.Tensor]:
        keys = {"dataset_dir": str(lesions), "regime": "src", "num_workers": number, "max_epochs": 1, "cache_rate": 0.5}
        run_stage(BUNDLE, "train", keys, ["smoke"], tmp_path / name)
        return torch.load(tmp_path / name / "models/model.pt", weights_only=True)

    alone, beside = weights("alone", 0), weights("beside", workers)
    assert all(torch.equal(alone[key], beside[key]) for key in alone)


class TestBadInput:
    """What a user can get wrong, each with a message that says how to mend it."""

    def run(self, stage: str, root: Path, **keys: Any) -> None:
        run_stage(BUNDLE, stage, keys, ["smoke"], root)

    @pytest.fixture
    def copy(self, lesions: Path, tmp_path: Path) -> Path:
        return Path(shutil.copytree(lesions, tmp_path / "copy"))

    def test_dataset_dir_without_datalist(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no datalist\.json here.*medssl prepare folder"):
            self.run("train", tmp_path / "run", dataset_dir=str(tmp_path), regime="supervised")

    def test_missing_image(self, copy: Path, tmp_path: Path) -> None:
        gone = load_datalist(copy).splits["training"][0].name
        (copy / gone).unlink()
        with pytest.raises(DataError, match=rf"{re.escape(gone)}: .*(not found|does not exist|no such file)"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), regime="supervised")

    def test_corrupt_image(self, copy: Path, tmp_path: Path) -> None:
        name = load_datalist(copy).splits["training"][0].name
        image = Image.open(copy / name)
        image.save(copy / "whole.jpg")
        (copy / name).unlink()
        data = (copy / "whole.jpg").read_bytes()
        (copy / "cut.jpg").write_bytes(data[: len(data) // 2])
        text = (copy / "datalist.json").read_text().replace(name, "cut.jpg")
        (copy / "datalist.json").write_text(text)
        with pytest.raises(DataError, match=r"cut\.jpg: .*(truncated|damaged|cut short|cannot be read)"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), regime="supervised")

    def test_label_out_of_range(self, copy: Path, tmp_path: Path) -> None:
        content = json.loads((copy / "datalist.json").read_text())
        content["training"][3]["label"] = 9
        (copy / "datalist.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"training\[3\]: label 9 is out of range.*classes 0 to 6"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), regime="supervised")

    def test_other_labels(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"other classes than the configuration.*Give labels=\"\['akiec', "):
            self.run("train", tmp_path, dataset_dir=str(lesions), labels=["a", "b"], regime="supervised")

    def test_no_label_left_by_the_budget(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no labelled image is left by label_fraction"):
            self.run("train", tmp_path, dataset_dir=str(lesions), label_fraction=0.0001, regime="supervised")

    def test_budget_below_the_classes(self, lesions: Path, tmp_path: Path) -> None:
        keys = {"label_fraction": None, "label_budget": 3}
        with pytest.raises(DataError, match=r"label_budget 3 is below the 7 classes.*at least 7"):
            self.run("train", tmp_path, dataset_dir=str(lesions), regime="supervised", **keys)

    def test_wrong_channel_count(self, copy: Path, tmp_path: Path) -> None:
        name = load_datalist(copy).splits["training"][0].name
        translucent = Image.open(copy / name).convert("RGBA")
        translucent.putalpha(100)
        translucent.save(copy / name)
        with pytest.raises(DataError, match=r"channel.*in_channels"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), regime="supervised")

    def test_empty_split(self, copy: Path, tmp_path: Path) -> None:
        content = json.loads((copy / "datalist.json").read_text())
        content["training"] = []
        (copy / "datalist.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="training is empty; leave an absent split out"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), regime="supervised")

    def test_no_test_split(self, copy: Path, trained: Path, tmp_path: Path) -> None:
        content = json.loads((copy / "datalist.json").read_text())
        del content["test"]
        (copy / "datalist.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="no labelled test image"):
            self.run("evaluate", trained, dataset_dir=str(copy), output_dir=str(tmp_path))

    def test_misspelt_key(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(
            ConfigError, match=r"'learning_rat': nothing in .* reads it\. Did you mean 'learning_rate'\?"
        ):
            self.run("train", tmp_path, dataset_dir=str(lesions), learning_rat=1)

    def test_unknown_regime(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"unknown regime 'supervized'\. Did you mean 'supervised'\?"):
            self.run("train", tmp_path, dataset_dir=str(lesions), regime="supervized")

    def test_srcl_without_a_pretrained_encoder(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"starts from a pre-trained encoder.*`medssl run \.\.\. pretrain"):
            self.run("train", tmp_path, dataset_dir=str(lesions), regime="srcl")

    def test_checkpoint_of_another_network(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"pretrain\.pt.*densenet121"):
            self.run(
                "train", tmp_path, dataset_dir=str(lesions), backbone="resnet18",
                pretrained=str(trained / "models/pretrain.pt"),
            )  # fmt: skip

    def test_model_of_another_network(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"other settings .found backbone=resnet18, expected backbone=dense"):
            self.run("evaluate", trained, dataset_dir=str(lesions), backbone="resnet18", output_dir=str(tmp_path))

    def test_other_image_size_than_in_training(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"other settings .found image_size=48, expected image_size=32"):
            self.run("evaluate", trained, dataset_dir=str(lesions), image_size=48, output_dir=str(tmp_path))

    def test_encoder_pretrained_with_labels_outside_the_budget(
        self, lesions: Path, trained: Path, tmp_path: Path
    ) -> None:
        keys = {"label_fraction": 0.2, "pretrained": str(trained / "models/pretrain.pt")}
        with pytest.raises(ConfigError, match=r"pre-trained with \d+ labels that are outside this run's budget.*same"):
            self.run("train", tmp_path, dataset_dir=str(lesions), **keys)

    @pytest.mark.parametrize("second", ["refused", "stopped"])
    def test_record_of_a_pretrain_run_that_made_no_encoder(
        self, second: str, lesions: Path, trained: Path, tmp_path: Path
    ) -> None:
        """The labels of the encoder that is there count, not those of a later run that came to nothing."""
        root = Path(shutil.copytree(trained, tmp_path / "run"))
        keys: dict[str, Any] = {"dataset_dir": str(lesions), "label_fraction": 0.2}
        more = {"resume": True} if second == "refused" else {"learning_rate": 1e30}
        with pytest.raises((ConfigError, ArithmeticError)):
            self.run("pretrain", root, **keys, **more)
        with pytest.raises(ConfigError, match="labels that are outside this run's budget"):
            self.run("train", root, **keys)

    def test_a_refused_run_leaves_no_record_of_itself(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(trained, tmp_path / "run"))
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        keys = {"dataset_dir": str(lesions), "label_fraction": 0.6}
        with pytest.raises(ConfigError, match=r"made with other settings: seed: 0 there, 7 here\."):
            self.run("train", root, **keys, seed=7, resume=True)
        lock = FolderLock(root / "models")
        lock.acquire()
        with pytest.raises(OutputError, match="another run is writing in this folder"):
            self.run("train", root, **keys, seed=7)
        lock.release()
        (root / "models/.lock").unlink()
        assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file() if path.name != ".lock"} == {
            path: data for path, data in before.items() if path.name != ".lock"
        }

    def test_encoder_of_another_record(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(trained, tmp_path / "run"))
        record = root / "models/pretrain.pt.seen.json"
        record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "0"}))
        with pytest.raises(CheckpointError, match=r"pretrain\.pt: what lies beside it tells of another encoder"):
            self.run("train", root, dataset_dir=str(lesions), label_fraction=0.6)

    def test_going_on_from_an_encoder_keeps_its_labels(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        keys = {"dataset_dir": str(lesions), "pretrained": str(trained / "models/pretrain.pt")}
        with pytest.raises(ConfigError, match="labels that are outside this run's budget"):
            self.run("pretrain", tmp_path / "less", label_fraction=0.2, **keys)
        self.run("pretrain", tmp_path / "more", label_fraction=1.0, **keys)
        first, second = (
            json.loads((root / "models/pretrain.pt.seen.json").read_text()) for root in (trained, tmp_path / "more")
        )
        assert set(first["labeled"]) < set(second["labeled"])

    def test_exit_code_of_a_damaged_image(self, copy: Path, tmp_path: Path) -> None:
        name = load_datalist(copy).splits["training"][0].name
        (copy / name).write_bytes(b"damaged")
        command = [
            sys.executable, "-m", "medssl_monai.apps", "run", BUNDLE, "train", f"dataset_dir={copy}",
            "regime=supervised", "--overlay", "smoke", "--run-dir", str(tmp_path / "run"),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 2, result.stderr[-2000:]
        assert f"medssl: {copy / name}" in result.stderr or f"medssl: {name}" in result.stderr

    def test_encoder_that_has_seen_test_subjects(self, copy: Path, trained: Path, tmp_path: Path) -> None:
        content = json.loads((copy / "datalist.json").read_text())
        content["test"], content["training"] = content["training"][:60], content["test"]
        (copy / "datalist.json").write_text(json.dumps(content))
        encoder = tmp_path / "pretrain.pt"
        shutil.copy(trained / "models/pretrain.pt", encoder)
        record = json.loads((trained / "models/pretrain.pt.seen.json").read_text())
        Path(f"{encoder}.seen.json").write_text(json.dumps({**record, "labeled": []}))
        with pytest.raises(DataError, match="subjects that validate or test here were seen in pre-training"):
            self.run("train", tmp_path / "run", dataset_dir=str(copy), pretrained=str(encoder))

    @pytest.mark.parametrize(("name", "stage"), [("pretrain.pt", "train"), ("model.pt", "inference")])
    def test_truncated_checkpoint(self, name: str, stage: str, lesions: Path, trained: Path, tmp_path: Path) -> None:
        root = Path(shutil.copytree(trained, tmp_path / "run"))
        data = (root / "models" / name).read_bytes()
        (root / "models" / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(CheckpointError, match=rf"{re.escape(name)}: .*(readable|damaged|truncated)"):
            self.run(stage, root, dataset_dir=str(lesions), label_fraction=0.6 if stage == "train" else 1.0)

    def test_no_model(self, lesions: Path, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no serving\.json here.*train stage"):
            self.run("evaluate", tmp_path, dataset_dir=str(lesions))

    def test_output_folder_that_is_a_file(self, lesions: Path, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(OutputError, match="output folder is needed here, but this is a file"):
            self.run("inference", trained, dataset_dir=str(lesions), output_dir=str(tmp_path / "file"))
        with pytest.raises(OutputError, match="output folder is needed here, but this is a file"):
            self.run("train", tmp_path, dataset_dir=str(lesions), ckpt_dir=str(tmp_path / "file"), regime="supervised")
        assert (tmp_path / "file").read_text() == "mine"


def test_inference_on_a_folder_warns_of_other_images(
    trained: Path, lesions: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    usual = load_datalist(lesions).splits["test"][0].name
    shutil.copy(lesions / usual, folder / "usual.png")
    Image.new("L", (300, 400), 3).save(folder / "odd.png")
    run_stage(
        BUNDLE, "inference", {"dataset_dir": str(folder), "output_dir": str(tmp_path / "out")}, ["smoke"], trained
    )
    table = {row["image"]: row for row in rows(tmp_path / "out/inference.csv")}
    assert table.keys() == {"usual.png", "odd.png"}
    assert table["usual.png"]["differs"] == ""
    assert "1 channels (trained on 3)" in table["odd.png"]["differs"]
    assert "width 300 px (trained on 48 to 48)" in table["odd.png"]["differs"]


@pytest.mark.real
class TestRealImages:
    """The chains on real images."""

    def test_own_folder_of_cells(self, real_data: Path, tmp_path: Path, run_bundle: Any) -> None:
        """The way in of a user: prepare a folder, check it, run the four stages with dataset_dir and labels only."""
        prepare_dataset(
            "folder", real_data / "malaria_cells", tmp_path / "data", classes="Parasitized,Uninfected",
            subject_regex="(?i)^(.*?)thin", link=True,
        )  # fmt: skip
        labels = "['Parasitized','Uninfected']"
        for stage in ("pretrain", "train", "evaluate", "inference"):
            result = run_bundle(BUNDLE, stage, dataset_dir=tmp_path / "data", labels=labels, **folders(tmp_path))
            assert result.returncode == 0, result.stderr[-3000:]
        report = json.loads((tmp_path / "eval/metrics.json").read_text())
        assert report["class_names"] == ["Parasitized", "Uninfected"]
        assert report["n_subjects"] < report["n"]

    def test_ham10000_learns_something(self, real_data: Path, tmp_path: Path) -> None:
        """A minute of training on real lesions separates classes better than chance, by the interval's lower end."""
        prepare_dataset("ham10000", real_data / "ham10000", tmp_path / "data", link=True)
        keys = {
            "dataset_dir": str(tmp_path / "data"), "regime": "supervised", "label_fraction": 0.25, "image_size": 32,
            "backbone": "resnet18", "width": 0.25, "learning_rate": 0.002, "max_epochs": 3, "steps_per_epoch": 60,
        }  # fmt: skip
        run_stage(BUNDLE, "train", keys, [], tmp_path)
        evaluated = {k: v for k, v in keys.items() if k not in ("regime",)}
        run_stage(BUNDLE, "evaluate", evaluated, [], tmp_path)
        report = json.loads((tmp_path / "eval/metrics.json").read_text())
        assert report["metrics"]["macro_auroc"]["interval_95"][0] > 0.55
        assert set(report["subgroups"]) >= {"sex", "age"}
