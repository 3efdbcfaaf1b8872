"""Figures and page of a run on labels that are each there or not."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from report_folders import edit, make_run
from torch import Tensor, nn

from medssl_monai.metrics import multilabel_report
from medssl_monai.visualize import EvaluationFigures, evaluation, saliency
from medssl_monai.visualize.classification import calibration_figure, label_confusion_figure
from medssl_monai.visualize.report.label_parts import label_groups
from medssl_monai.visualize.report.page import report_page
from medssl_monai.visualize.report.sources import read_run

NAMES = ["abnormal", "acl", "menis & cus"]


def cases(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    truth = (rng.random((n, 3)) < [0.6, 0.3, 0.4]).astype(int)
    return truth, 1.2 * (2 * truth - 1) + rng.standard_normal((n, 3))


def report(truth: np.ndarray, logits: np.ndarray, **changes: Any) -> dict[str, Any]:
    points = {
        "abnormal": {"threshold": 0.4, "reason": None}, "acl": {"threshold": 0.6, "reason": None},
        "menis & cus": {"threshold": None, "reason": "only 3 positive validation cases"},
    }  # fmt: skip
    arguments: dict[str, Any] = {"operating_points": points, "temperatures": [1.5, 0.8, 1.0], "n_boot": 40, **changes}
    subjects = [f"p{i // 2}" for i in range(len(truth))]
    sites = ["north", "south"] * (len(truth) // 2)
    return multilabel_report(truth, 1 / (1 + np.exp(-logits)), subjects, NAMES, columns={"site": sites}, **arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run")
    truth, logits = cases()
    metrics = json.loads((run / "eval" / "metrics.json").read_text())
    for key in ("confusion_matrix", "calibration", "subgroups", "per_class", "metrics"):
        del metrics[key]
    (run / "eval" / "metrics.json").write_text(json.dumps({**metrics, **report(truth, logits)}))
    rng = np.random.default_rng(2)
    np.savez(
        run / "eval" / "features.npz", embeddings=rng.normal(size=(120, 8)).astype(np.float32) + truth @ np.eye(3, 8),
        label=truth, predicted=(logits > 0).astype(int), class_names=np.array(NAMES), case=np.array(["c"] * 120),
        split=np.array(["test"] * 120),
    )  # fmt: skip
    return run


def plain(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_page_shows_each_label(folder: Path) -> None:
    truth, logits = cases()
    content = report(truth, logits)
    page = report_page(folder)
    words = plain(page)
    assert "cannot be shown" not in words
    assert f"Macro AUROC {content['metrics']['macro_auroc']['estimate']:.3f}" in words
    for metric in ("Macro average precision", "Share of images with every label right", "Brier score"):
        assert metric in words
    for name in ("abnormal", "acl"):
        entry = content["per_class"][name]
        assert f'value="{entry["average_precision"]["estimate"]!r}"' in page
        (a, b), (c, d) = content["confusion_matrices"][name]
        assert f"without {name} (n = {a + b})" in words
        assert f"with {name} (n = {c + d})" in words
    assert "menis &amp; cus: no operating point (only 3 positive validation cases); called from a probability" in words
    assert "after temperature scaling (T = 0.80)" in words
    assert "Calibration of each label" in page
    assert "By site, with 95 % intervals" in words
    assert "ROC curve of each label." in words
    # the map's classes are sets of labels
    both = int(((truth[:, 0] == 1) & (truth[:, 1] == 1) & (truth[:, 2] == 0)).sum())
    assert both
    assert "abnormal + acl" in words
    assert "none of them" in words


def test_a_label_that_is_never_called_is_cautioned_of(folder: Path) -> None:
    truth, logits = cases()
    points = {"acl": {"threshold": 0.999999, "reason": None}}
    edit(folder / "eval" / "metrics.json", **report(truth, logits, operating_points=points))
    assert "acl is called in none of the test images: at its threshold" in plain(report_page(folder))


def test_sets_of_labels_as_classes(folder: Path) -> None:
    table = np.array([[1, 0], [0, 0], [1, 1], [1, 0], [0, -1]])
    index, names = label_groups(table, ["a", "b"])
    assert [names[k] if k >= 0 else None for k in index] == ["a", "none of them", "a + b", "a", None]
    index, names = label_groups(table, ["a", "b"], most=2)
    assert [names[k] if k >= 0 else None for k in index] == ["a", *["other combinations"] * 2, "a", None]
    features = read_run(folder).features
    assert features is not None
    truth, _ = cases()
    for row, k in zip(truth, features.label):
        there = [name for name, value in zip(NAMES, row) if value]
        assert features.class_names[k] == (" + ".join(there) or "none of them")


class Volumes(nn.Module):
    """The labels' scores depend on one pixel each of slice 2."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([3 * x[:, 0, 1, 1, 2], x[:, 0, 2, 0, 2], x[:, 0, 0, 0, 2] - 5], dim=1)


def figures(folder: Path, volumes: bool, split: str = "test") -> EvaluationFigures:
    truth, logits = cases(12)
    content = report(truth, logits, temperatures=None)
    probabilities = 1 / (1 + np.exp(-logits))
    writer = SimpleNamespace(
        labels=truth.astype(np.float32), outputs=logits, probabilities=probabilities, called=probabilities >= 0.5,
        serving={"operating_points": {}}, report=content,
        file_name=lambda name: name if split == "test" else f"{split}_{name}",
    )  # fmt: skip
    # volumes of different depths
    data = [{"image": torch.rand(1, 6, 5, 4 + k % 2)} if volumes else {"image": torch.rand(1, 6, 5)} for k in range(12)]
    network = Volumes() if volumes else nn.Sequential(nn.Flatten(), nn.Linear(30, 3))
    return EvaluationFigures(writer, network, data, folder, n_images=4)  # type: ignore[arg-type]


@pytest.mark.parametrize("volumes", [False, True])
def test_the_figures_are_drawn(tmp_path: Path, volumes: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    handler = figures(tmp_path, volumes, "validation" if volumes else "test")
    handler.draw(SimpleNamespace(state=SimpleNamespace(device=torch.device("cpu"))))  # type: ignore[arg-type]
    prefix = "validation_" if volumes else ""
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{prefix}{name}.png" for name in ("confusion", "roc", "calibration", "saliency")
    }
    names = ", ".join(f"{prefix}{name}.png" for name in ("confusion", "roc", "calibration", "saliency"))
    assert f"wrote {names} in {tmp_path}" in caplog.text  # as the files are called
    for path in tmp_path.iterdir():
        assert min(Image.open(path).size) > 100


def test_a_volume_shows_the_slice_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple] = []
    drawn = evaluation.saliency_panel
    monkeypatch.setattr(evaluation, "saliency_panel", lambda *a: given.append(a) or drawn(*a))
    handler = figures(tmp_path, True)
    handler._saliency(torch.device("cpu"), NAMES)
    images, maps, titles, caption = given[0]
    chosen, _ = handler._chosen(NAMES)
    for place, index in enumerate(chosen):
        volume = handler.dataset[index]["image"]
        assert torch.equal(images[place], volume[..., 2].mT)
        torch.testing.assert_close(maps["Saliency"][place], saliency(Volumes(), volume[None])[0, ..., 2].mT)
        there = [name for name, value in zip(NAMES, handler.writer.labels[index]) if value]
        assert titles[place].split("\n")[0] == (", ".join(there) or "none")
    assert caption.endswith("Of each volume the slice in which it is strongest")
    assert len({tuple(handler.writer.labels[i]) for i in chosen}) == len(chosen)  # spread over the sets of labels


def test_refused_matrices() -> None:
    with pytest.raises(ValueError, match="no label to show"):
        label_confusion_figure({})
    with pytest.raises(ValueError, match=r"the matrix of 'acl' is \[\[1\]\]; expected counts \[\[TN, FP\], \[FN, TP\]"):
        label_confusion_figure({"acl": [[1]]})


def test_axes_of_the_calibration_of_labels() -> None:
    truth, logits = cases()
    curves = {name: part["before"]["curve"] for name, part in report(truth, logits)["calibration"]["per_class"].items()}
    upper, lower = calibration_figure(curves, labels=True).axes
    assert (upper.get_ylabel(), lower.get_xlabel()) == ("Share with the label", "Probability of the label")
    assert [text.get_text().split(":")[0] for text in upper.get_legend().get_texts()][1:4] == NAMES
