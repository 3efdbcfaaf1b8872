"""What users read: predictions with their probabilities, and a warning where an image is unlike the training data."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Activationsd, Compose, EnsureChannelFirstd, LoadImaged, Resized
from sklearn.metrics import balanced_accuracy_score
from tiny_images import image_dataset, write_png
from torch import nn

from medssl_monai.core import DataError, FolderLock, OutputError
from medssl_monai.data import InputProfile, Item, inference_records
from medssl_monai.engines import ClassificationEvaluator
from medssl_monai.handlers import EvaluationWriter, PredictionWriter
from medssl_monai.handlers.predictions import INFERENCE_FILE
from medssl_monai.transforms import AsScoresd, DescribeInputd, ScaleLogitsd


class Means(nn.Module):
    """Logits from the mean of each colour: plain to compute again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))[:, :2] / 10


def pipeline() -> Compose:
    return Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), DescribeInputd("image"), Resized("image", (6, 6))]
    )


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def predict(folder: Path, out: Path, inputs: dict[str, Any] | None = None) -> list[dict[str, str]]:
    loader = DataLoader(Dataset(inference_records(folder), pipeline()), batch_size=2)
    postprocessing = Compose([ScaleLogitsd("pred", 2.0), Activationsd("pred", softmax=True), AsScoresd("pred")])
    ClassificationEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=Means(), postprocessing=postprocessing,
        decollate=True, with_metrics=False, val_handlers=[PredictionWriter(out, ["first", "second"], inputs)],
    ).run()  # fmt: skip
    return read(out / INFERENCE_FILE)


def probabilities(folder: Path, name: str, temperature: float) -> np.ndarray:
    image = pipeline()({"image": str(folder / name)})["image"].numpy().astype(np.float64)
    exponentials = np.exp(image.mean(axis=(1, 2))[:2] / 10 / temperature)
    return exponentials / exponentials.sum()


def test_predictions_of_a_folder(tmp_path: Path) -> None:
    for number in range(5):
        write_png(tmp_path / "in" / f"{number}.png", number)
    rows = predict(tmp_path / "in", tmp_path / "out")
    assert [row["image"] for row in rows] == [f"{number}.png" for number in range(5)]
    assert list(rows[0]) == ["image", "predicted", "probability_first", "probability_second"]
    for row in rows:
        expected = probabilities(tmp_path / "in", row["image"], 2.0)
        got = [float(row["probability_first"]), float(row["probability_second"])]
        np.testing.assert_allclose(got, expected, atol=2e-5)
        assert row["predicted"] == ["first", "second"][int(expected.argmax())]


def test_two_predictions_cannot_share_a_folder(tmp_path: Path) -> None:
    write_png(tmp_path / "in" / "0.png", 0)
    lock = FolderLock(tmp_path / "out")
    lock.acquire()
    with pytest.raises(OutputError, match="another run is writing in this folder"):
        predict(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / INFERENCE_FILE).exists()
    lock.release()
    assert len(predict(tmp_path / "in", tmp_path / "out")) == 1
    assert len(predict(tmp_path / "in", tmp_path / "out")) == 1  # given back when it is done


def test_images_unlike_the_training_data_are_marked_and_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(4):
        write_png(tmp_path / "in" / f"{number}.png", number)
    write_png(tmp_path / "in" / "9.png", 9, size=(40, 10))
    loading = Compose(pipeline().transforms[:3])
    profile = InputProfile.from_records(inference_records(tmp_path / "in")[:4], loading)
    rows = predict(tmp_path / "in", tmp_path / "out", json.loads(json.dumps(profile.to_json())))
    assert [row["differs"] for row in rows] == [*[""] * 4, "width 40 px (trained on 12 to 12)"]
    assert (
        "1 of 5 images differ from the training data, for example: width 40 px (trained on 12 to 12) (see column "
        f"`differs` of {INFERENCE_FILE})" in caplog.text
    )
    caplog.clear()
    (tmp_path / "in" / "9.png").unlink()
    with caplog.at_level(logging.WARNING, logger="medssl_monai"):
        assert {row["differs"] for row in predict(tmp_path / "in", tmp_path / "out", profile.to_json())} == {""}
    assert not [record for record in caplog.records if record.name.startswith("medssl_monai")]


SERVING = {
    "labels": ["a", "b"], "temperature": 2.0, "operating_points": {}, "settings": {"seed": 3},
    "label_counts": {"n_labels_training": 4, "n_labels_validation": 0}, "calibration_note": "",
}  # fmt: skip


def evaluate(root: Path, items: list[Item] | None = None, **kwargs: Any) -> EvaluationWriter:
    datalist = image_dataset(root / "data", training=2, test=20)
    writer = EvaluationWriter(root / "eval", items or datalist.splits["test"], SERVING, "tiny", n_boot=20, **kwargs)
    loader = DataLoader(Dataset(datalist.records("test"), pipeline()), batch_size=8)
    ClassificationEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=Means(), val_handlers=[writer]
    ).run()
    return writer


def test_evaluation_writes_metrics_and_predictions(tmp_path: Path) -> None:
    evaluate(tmp_path)
    rows = read(tmp_path / "eval" / "predictions.csv")
    assert [row["image"] for row in rows] == [f"test/{i:02d}.png" for i in range(20)]
    assert [row["label"] for row in rows] == ["a", "b"] * 10
    assert rows[3]["subject"] == "subject:test3"
    for row in rows[:3]:
        expected = probabilities(tmp_path / "data", row["image"], 2.0)
        np.testing.assert_allclose([float(row["probability_a"]), float(row["probability_b"])], expected, atol=2e-5)
    report = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert (report["dataset"], report["settings"]) == ("tiny", {"seed": 3})
    assert report["label_counts"]["n_labels_training"] == 4
    truth = [row["label"] for row in rows]
    expected = balanced_accuracy_score(truth, [row["predicted"] for row in rows])
    assert report["metrics"]["balanced_top1_accuracy"]["estimate"] == pytest.approx(expected)


def test_an_image_that_is_no_test_item_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^test/00\.png: image is not in the test split\.$"):
        evaluate(tmp_path, items=[Item("other.png", 0)])
