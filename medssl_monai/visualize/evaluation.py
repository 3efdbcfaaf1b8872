"""The figures of an evaluation, as a handler: confusion, ROC, calibration and saliency beside ``metrics.json``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from medssl_monai.core import make_folder
from medssl_monai.core.distributed import is_main
from medssl_monai.handlers.predictions import EvaluationWriter
from medssl_monai.visualize.class_activation import grad_cam, last_feature_layer
from medssl_monai.visualize.classification import calibration_figure, confusion_figure, roc_figure
from medssl_monai.visualize.figures import save_figure
from medssl_monai.visualize.saliency import CAM_CAPTION, SALIENCY_CAPTION, saliency, saliency_panel

logger = logging.getLogger(__name__)


class EvaluationFigures:
    """Draws ``confusion.png``, ``roc.png``, ``calibration.png`` and ``saliency.png`` when an evaluation is complete.

    The handler must stand behind the writer.

    Args:
        writer: the handler whose report is drawn.
        network: the network whose saliency is shown.
        dataset: the evaluated images, whole and in the order of the writer's rows.
        output_dir: where to.
        n_images: images of the saliency panel, spread over the classes; 0 draws none.
        cam_layer: layer of the panel's Grad-CAM column; ``None`` takes the deepest whose map is at least 4 x 4, and
            leaves the column out where there is none.
    """

    def __init__(
        self,
        writer: EvaluationWriter,
        network: nn.Module,
        dataset: Any,
        output_dir: str | Path,
        n_images: int = 8,
        cam_layer: str | None = None,
    ) -> None:
        self.writer, self.network, self.dataset, self.n_images = writer, network, dataset, n_images
        self.cam_layer = cam_layer
        self.folder = make_folder(output_dir)

    def attach(self, engine: Engine) -> None:
        """Draw when ``engine`` has completed."""
        engine.add_event_handler(Events.COMPLETED, self.draw)

    def draw(self, engine: Engine) -> None:
        """Draw and write the figures."""
        if not is_main():
            return
        writer, report = self.writer, self.writer.report
        names = report["class_names"]
        calibration = {name: report["calibration"][name] for name in ("before", "after")}
        figures = {
            "confusion": confusion_figure(report["confusion_matrix"], names),
            "roc": roc_figure(writer.labels, writer.probabilities, names, writer.serving["operating_points"] or None),
            "calibration": calibration_figure(
                {name: part["curve"] for name, part in calibration.items() if part is not None}
            ),
        }
        if self.n_images > 0:
            figures["saliency"] = self._saliency(engine.state.device, names)  # type: ignore[attr-defined]
        for name, figure in figures.items():
            save_figure(figure, self.folder / f"{name}.png")
        logger.info("wrote %s in %s", ", ".join(f"{name}.png" for name in figures), self.folder)

    def _saliency(self, device: torch.device, names: Sequence[str]) -> Any:
        labels, predicted = self.writer.labels, self.writer.outputs.argmax(axis=1)
        chosen = spread_over_classes(labels, self.n_images)
        images: Tensor = torch.stack([torch.as_tensor(self.dataset[int(i)]["image"]) for i in chosen]).to(device)
        titles = [f"{names[labels[i]]}\npredicted {names[predicted[i]]}" for i in chosen]
        maps, caption = {"Saliency": saliency(self.network, images)}, SALIENCY_CAPTION
        found = (self.cam_layer, None) if self.cam_layer else last_feature_layer(self.network, images[0])
        if found is None:
            logger.info("no feature map of 4 x 4 or more: the saliency panel has no Grad-CAM column")
        else:
            layer, size = found
            shown = layer if size is None else f"{layer}, {' x '.join(map(str, size))}"
            maps["Grad-CAM"] = grad_cam(self.network, images, layer)
            caption = f"{SALIENCY_CAPTION}. {CAM_CAPTION} ({shown})"
        # readers put an image's x axis first; pictures have it second
        return saliency_panel(images.cpu().mT, {name: m.cpu().mT for name, m in maps.items()}, titles, caption)


def spread_over_classes(labels: np.ndarray, number: int) -> list[int]:
    """Indices of at most ``number`` cases, one of each class in turn, in the order of the cases."""
    queues = [list(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < min(number, len(labels)):
        for queue in queues:
            if queue and len(chosen) < number:
                chosen.append(int(queue.pop(0)))
    return chosen
