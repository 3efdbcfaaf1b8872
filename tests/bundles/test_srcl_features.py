"""`medssl features` and `medssl next` on a trained run of the SRCL bundle."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import run_stage
from medssl_monai.core import hash_case
from medssl_monai.data import load_datalist
from medssl_monai.handlers import read_features

BUNDLE = "srcl_skin_lesion_classification"

#: of the embeddings' norm, for the lines of encoder.json against `medssl features` (it and the README state it)
TOLERANCE = 1e-3

pytestmark = pytest.mark.bundle


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def black_or_white() -> np.ndarray:
    """A picture of 0 and 1, which the half precision of prepared images holds exactly."""
    return np.random.default_rng(0).integers(0, 2, (32, 32, 3)).astype(np.uint8) * 255


@pytest.fixture(scope="module")
def trained(lesions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-trained, trained and evaluated with part of the labels, on a small ResNet."""
    root = tmp_path_factory.mktemp("run")
    for stage in ("pretrain", "train", "evaluate"):
        keys: dict[str, Any] = {"dataset_dir": str(lesions), "backbone": "resnet18"}
        run_stage(BUNDLE, stage, keys | ({} if stage == "evaluate" else {"label_fraction": 0.6}), ["smoke"], root)
    return root


@pytest.fixture
def medssl(trained: Path, lesions: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command on the run; returns exit code and what it said."""

    def run(command: str, data: Path | None = None, *arguments: object) -> tuple[int, str]:
        code = main([command, BUNDLE, str(data or lesions), *map(str, arguments), "--run-dir", str(trained)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    run.trained = trained  # type: ignore[attr-defined]
    return run


class TestEvaluation:
    def test_features_are_of_the_rows_of_the_predictions(self, trained: Path) -> None:
        features, table = read_features(trained / "eval/features.npz"), rows(trained / "eval/predictions.csv")
        names = features.class_names.tolist()
        assert features.case.tolist() == [hash_case(row["image"]) for row in table]
        assert [names[i] for i in features.predicted] == [row["predicted"] for row in table]
        assert [names[i] for i in features.label] == [row["label"] for row in table]
        assert set(features.split) == {"test"}

    def test_they_are_what_the_served_classifier_sees(self, trained: Path) -> None:
        """Linear layer on the embeddings, temperature, softmax: the probabilities of predictions.csv."""
        features, table = read_features(trained / "eval/features.npz"), rows(trained / "eval/predictions.csv")
        state = torch.load(trained / "models/model.pt", weights_only=True)
        logits = torch.from_numpy(features.embeddings) @ state["classifier.weight"].T + state["classifier.bias"]
        temperature = json.loads((trained / "models/serving.json").read_text())["temperature"] or 1.0
        written = [[float(row[f"probability_{name}"]) for name in features.class_names] for row in table]
        assert torch.softmax(logits / temperature, 1).numpy() == pytest.approx(np.array(written), abs=1e-5)

    def test_pretraining_and_training_save_their_encoders(self, trained: Path) -> None:
        for name, weights in (("pretrain_encoder", "pretrain.pt"), ("encoder", "encoder.pt")):
            content = json.loads((trained / f"models/{name}.json").read_text())
            assert content["weights"] == weights
            assert content["input"]["shape"] == ["N", 3, 32, 32]
            assert (trained / "models" / content["torchscript"]).is_file()
        assert (trained / "models/encoder.pt.seen.json").is_file()


class TestFeatures:
    def test_every_image_of_a_dataset(self, medssl: Any, lesions: Path, trained: Path, tmp_path: Path) -> None:
        out = tmp_path / "f.npz"
        code, text = medssl("features", None, out, "--names", tmp_path / "names.csv")
        assert code == 0
        assert "effective rank" in text
        found, items = read_features(out), list(load_datalist(lesions))
        assert found.split.tolist() == [split for split, _ in items]
        assert found.label.tolist() == [-1 if item.label is None else item.label for _, item in items]
        names = {row["case"]: row["image"] for row in rows(tmp_path / "names.csv")}
        assert [names[case] for case in found.case] == [item.name for _, item in items]
        # the settings of training are taken over: the same embeddings as in evaluation, without any overlay
        of_test = found.embeddings[found.split == "test"]
        assert of_test == pytest.approx(read_features(trained / "eval/features.npz").embeddings, abs=1e-5)
        assert found.metadata["settings"]["image_size"] == 32
        assert found.metadata["input"]["image"]["spatial_shape"] == [32, 32]  # not the 224 of the bundle's metadata
        assert found.metadata["input"]["image"]["num_channels"] == 3
        assert found.metadata["input"]["image"]["channel_def"] == {"0": "red", "1": "green", "2": "blue"}
        assert found.metadata["bundle_version"]
        again = tmp_path / "again.npz"
        medssl("features", None, again)
        assert again.read_bytes() == out.read_bytes()

    def test_names_never_leave_in_clear(self, medssl: Any, lesions: Path, tmp_path: Path) -> None:
        medssl("features", None, tmp_path / "f.npz", "--split", "test")
        with np.load(tmp_path / "f.npz") as content:
            text = " ".join(str(content[name].tolist()) for name in content)
        for _, item in load_datalist(lesions):
            assert item.name not in text
            assert item.group not in text
        assert str(lesions) not in text

    @pytest.mark.parametrize("picture", ["of the size of training", "larger"])
    def test_one_image_equals_the_script_in_a_process_of_its_own(
        self, picture: str, medssl: Any, lesions: Path, trained: Path, tmp_path: Path
    ) -> None:
        """The whole chain by plain torch and Pillow; a phantom of 48 pixels is resized to 32."""
        Image.fromarray(black_or_white()).save(tmp_path / "one.png")
        if picture == "larger":
            phantom = load_datalist(lesions).splits["test"][0].name
            (tmp_path / "one.png").write_bytes((lesions / phantom).read_bytes())
            assert Image.open(tmp_path / "one.png").size == (48, 48)
        lines = json.loads((trained / "models/encoder.json").read_text())["load"]
        program = "\n".join([
            f"FILE = {str(tmp_path / 'one.png')!r}", *lines, "import sys, json",
            "assert not any(name.startswith('medssl') for name in sys.modules)", "print(json.dumps(features.tolist()))",
        ])  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=trained / "models", capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        medssl("features", tmp_path / "one.png", tmp_path / "f.npz")
        found = read_features(tmp_path / "f.npz")
        of_lines = np.array(json.loads(result.stdout))
        assert np.linalg.norm(found.embeddings - of_lines) < TOLERANCE * np.linalg.norm(of_lines)
        assert found.label.tolist() == [-1]
        assert found.split.tolist() == [""]
        assert found.predicted[0] >= 0

    def test_by_the_pretrained_encoder(self, medssl: Any, trained: Path, tmp_path: Path) -> None:
        pixels = black_or_white()
        folder = tmp_path / "images"
        folder.mkdir()
        Image.fromarray(pixels).save(folder / "one.png")
        code, _ = medssl("features", folder, tmp_path / "f.npz", "--encoder", trained / "models/pretrain.pt")
        assert code == 0
        x = torch.tensor(pixels.transpose(2, 1, 0)[None] / 255, dtype=torch.float32)
        with torch.no_grad():
            expected = torch.jit.load(trained / "models/pretrain_encoder.ts")(x).numpy()
        found = read_features(tmp_path / "f.npz")
        assert found.embeddings == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert found.predicted.tolist() == [-1]
        assert found.metadata["weights"] == "encoder"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["f.txt"], r"f.txt: the file's name must end in .npz"),
            (["f.npz", "--split", "tset"], "--split: unknown split 'tset'. Did you mean 'test'?"),
            (["f.npz", "image_size=64"], "the network was trained with other settings (found image_size=64"),
            (["f.npz", "imagesize=64"], "Did you mean 'image_size'?"),
            (["f.npz", "--encoder", "none.pt"], "none.pt: no such file of weights"),
            (["f.npz", "--encoder", "{models}/model.pt"], "{models}/model.pt: "),
        ],
    )
    def test_what_cannot_be_done(
        self, arguments: list[str], message: str, medssl: Any, trained: Path, tmp_path: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        models = str(trained / "models")
        code, text = medssl("features", None, *(part.format(models=models) for part in arguments))
        assert code == 2
        assert message.format(models=models) in text
        assert not (tmp_path / "f.npz").exists()

    def test_a_folder_has_no_splits(self, medssl: Any, lesions: Path, tmp_path: Path) -> None:
        code, text = medssl("features", lesions / "images", tmp_path / "f.npz", "--split", "test")
        assert code == 2
        assert "--split: only a dataset has splits" in text

    def test_a_run_that_is_not_trained(self, lesions: Path, tmp_path: Path, capsys: Any) -> None:
        run = tmp_path / "run"
        assert main(["features", BUNDLE, str(lesions), str(tmp_path / "f.npz"), "--run-dir", str(run)]) == 2
        assert "model.pt: no trained network here. Run the train stage first" in capsys.readouterr().err


class TestNext:
    def test_proposals(self, medssl: Any, lesions: Path, trained: Path, tmp_path: Path) -> None:
        out = tmp_path / "next.csv"
        code, text = medssl("next", None, "--k", 12, "--out", out)
        assert code == 0
        table = rows(out)
        assert [row["rank"] for row in table] == [str(i) for i in range(1, 13)]
        assert all(row["image"] in text for row in table)
        splits = load_datalist(lesions).splits
        budget = json.loads((trained / "models/budget.json").read_text())
        allowed = {item.name for split in ("training", "unlabeled") for item in splits.get(split, [])}
        proposed = {row["image"] for row in table}
        assert len(proposed) == 12
        assert proposed <= allowed - set(budget["training"]) - set(budget["validation"])
        apart = {item.group for split in ("validation", "test") for item in splits[split]}
        subjects = [row["subject"] for row in table]
        assert not apart & set(subjects)
        assert len(set(subjects)) == 12
        assert all(row["case"] == hash_case(row["image"]) for row in table)
        assert all(row["reason"] for row in table)

    def test_uncertainty_and_distances_follow_from_the_features(
        self, medssl: Any, lesions: Path, trained: Path, tmp_path: Path
    ) -> None:
        """Entropy from the classifier's weights, distances by a loop, and the first choice by the rule."""
        medssl("next", None, "--k", 5, "--out", tmp_path / "next.csv")
        medssl("features", None, tmp_path / "f.npz")
        found = read_features(tmp_path / "f.npz")
        row_of = {case: index for index, case in enumerate(found.case)}
        state = torch.load(trained / "models/model.pt", weights_only=True)
        logits = torch.from_numpy(found.embeddings) @ state["classifier.weight"].T + state["classifier.bias"]
        temperature = json.loads((trained / "models/serving.json").read_text())["temperature"] or 1.0
        shares = torch.softmax(logits.double() / temperature, 1).numpy()
        entropy = -(shares * np.log(shares)).sum(1) / np.log(7)
        unit = found.embeddings.astype(float) / np.linalg.norm(found.embeddings.astype(float), axis=1, keepdims=True)
        budget = json.loads((trained / "models/budget.json").read_text())
        known = [row_of[hash_case(name)] for name in budget["training"] + budget["validation"]]
        for row in rows(tmp_path / "next.csv"):
            index = row_of[row["case"]]
            nearest = min(float(np.linalg.norm(unit[index] - unit[other])) for other in known)
            assert float(row["distance_to_labelled"]) == pytest.approx(nearest, abs=1e-4)
            assert float(row["uncertainty"]) == pytest.approx(entropy[index], abs=1e-4)
        apart = {i.group for split in ("validation", "test") for i in load_datalist(lesions).splits[split]}
        free = [
            row_of[hash_case(item.name)]
            for split, item in load_datalist(lesions)
            if split == "training" and item.group not in apart and row_of[hash_case(item.name)] not in known
        ]
        score = [
            (0.1 + 0.9 * entropy[i]) * min(float(np.linalg.norm(unit[i] - unit[other])) for other in known)
            for i in free
        ]
        first = rows(tmp_path / "next.csv")[0]
        assert row_of[first["case"]] == free[int(np.argmax(score))]

    def test_the_same_call_gives_the_same_file(self, medssl: Any, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv"):
            medssl("next", None, "--k", 6, "--out", tmp_path / name)
        assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()

    @pytest.mark.parametrize("strategy", ["uncertainty", "coverage"])
    def test_other_strategies(self, strategy: str, medssl: Any, tmp_path: Path) -> None:
        out = tmp_path / "next.csv"
        assert medssl("next", None, "--k", 200, "--per-subject", 0, "--strategy", strategy, "--out", out)[0] == 0
        table = rows(out)
        if strategy == "uncertainty":
            values = [float(row["uncertainty"]) for row in table]
            assert values == sorted(values, reverse=True)
            assert "more uncertain than" in table[0]["reason"]
        else:
            first = float(table[0]["distance_to_labelled"])
            assert first == max(float(row["distance_to_labelled"]) for row in table)
            assert "farther from the labelled cases than" in table[0]["reason"]

    def test_fewer_than_asked_for_is_said(self, medssl: Any, tmp_path: Path) -> None:
        code, text = medssl("next", None, "--k", 500, "--out", tmp_path / "next.csv")
        assert code == 0
        assert "note: fewer than 500, there are no more candidates with at most 1 of a subject" in text
        subjects = [row["subject"] for row in rows(tmp_path / "next.csv")]
        assert len(subjects) == len(set(subjects))

    def test_a_plain_folder(self, medssl: Any, lesions: Path, tmp_path: Path) -> None:
        """Copies of test and labelled images are left out; the same pixels in another file come last."""
        folder = tmp_path / "new"
        folder.mkdir()
        datalist = load_datalist(lesions)
        for number, item in enumerate(datalist.splits["test"][:6]):
            (folder / f"test{number}.png").write_bytes((lesions / item.name).read_bytes())
            pixels = np.array(Image.open(lesions / item.name))
            Image.fromarray(pixels[::-1].copy()).save(folder / f"new{number}.png")
        copied = json.loads((Path(str(medssl.trained)) / "models/budget.json").read_text())["training"][0]
        (folder / "copy.png").write_bytes((lesions / copied).read_bytes())
        Image.open(lesions / copied).save(folder / "saved_again.png", compress_level=0)
        code, text = medssl("next", folder, "--k", 20, "--out", tmp_path / "next.csv")
        assert code == 0
        assert "warning: 7 candidates are copies (same content) of images that are labelled, validate or test" in text
        assert "7 of 7 candidates" in text
        table = rows(tmp_path / "next.csv")
        assert {row["image"] for row in table} == {f"new{i}.png" for i in range(6)} | {"saved_again.png"}
        assert table[-1]["image"] == "saved_again.png"
        assert table[-1]["nearest_labelled"] == copied
        assert float(table[-1]["distance_to_labelled"]) == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--k", 0], "--k: out of range (found 0, expected at least 1)"),
            (["--per-subject", -1], "--per-subject: out of range (found -1, expected at least 0)"),
        ],
    )
    def test_numbers_out_of_range(self, arguments: list[Any], message: str, medssl: Any, tmp_path: Path) -> None:
        code, text = medssl("next", None, *arguments, "--out", tmp_path / "next.csv")
        assert code == 2
        assert message in text
