"""The figures of an evaluation: which are drawn, and the columns of the saliency panel."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medssl_monai.networks import SRCLNet
from medssl_monai.visualize import EvaluationFigures, evaluation, grad_cam, saliency

NAMES = ["benign", "malignant"]


def figures(folder: Path, size: int, network: nn.Module, **kwargs: object) -> EvaluationFigures:
    random = np.random.default_rng(0)
    labels, outputs = np.arange(6) % 2, random.standard_normal((6, 2))
    probabilities = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    curve = {"confidence": [0.6, 0.8], "accuracy": [0.5, 0.9], "count": [3, 3]}
    writer = SimpleNamespace(
        labels=labels,
        outputs=outputs,
        probabilities=probabilities,
        serving={"operating_points": None},
        report={
            "class_names": NAMES,
            "confusion_matrix": [[2, 1], [0, 3]],
            "calibration": {"before": {"curve": curve}, "after": None},
        },
    )
    images = [{"image": torch.rand(3, size, size + 16)} for _ in range(6)]
    return EvaluationFigures(writer, network, images, folder, n_images=3, **kwargs)  # type: ignore[arg-type]


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What is given to the panel."""
    given: list[tuple] = []
    drawn = evaluation.saliency_panel
    monkeypatch.setattr(evaluation, "saliency_panel", lambda *a: given.append(a) or drawn(*a))
    return given


def draw(handler: EvaluationFigures) -> None:
    handler._saliency(torch.device("cpu"), NAMES)


def test_grad_cam_stands_beside_saliency(tmp_path: Path, panels: list[tuple]) -> None:
    torch.manual_seed(0)
    net = SRCLNet("resnet18", num_classes=2, width=0.125)
    handler = figures(tmp_path, 64, net)
    draw(handler)
    images, maps, titles, caption = panels[0]
    assert list(maps) == ["Saliency", "Grad-CAM"]
    batch = torch.stack([handler.dataset[i]["image"] for i in (0, 1, 2)])
    # pictures have y first, readers x
    torch.testing.assert_close(images, batch.mT)
    torch.testing.assert_close(maps["Saliency"], saliency(net, batch).mT)
    torch.testing.assert_close(maps["Grad-CAM"], grad_cam(net, batch, "encoder.body.layer3").mT)
    assert titles[0].startswith("benign\npredicted ")
    assert "Saliency: " in caption
    assert caption.endswith("Grad-CAM: where a feature map speaks for the class (encoder.body.layer3, 4 x 5)")


def test_a_layer_can_be_named(tmp_path: Path, panels: list[tuple]) -> None:
    draw(figures(tmp_path, 64, SRCLNet("resnet18", num_classes=2, width=0.125), cam_layer="encoder.body.layer2"))
    assert panels[0][3].endswith("speaks for the class (encoder.body.layer2)")


def test_without_a_fine_map_there_is_no_such_column(
    tmp_path: Path, panels: list[tuple], caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 16, stride=16), nn.Flatten(), nn.Linear(2 * 2 * 3, 2))
    with caplog.at_level(logging.INFO):
        draw(figures(tmp_path, 32, net))
    _, maps, _, caption = panels[0]
    assert list(maps) == ["Saliency"]
    assert "Grad-CAM" not in caption
    assert "no feature map of 4 x 4 or more: the saliency panel has no Grad-CAM column" in caplog.text
