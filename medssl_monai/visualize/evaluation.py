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
from medssl_monai.visualize.classification import (
    calibration_figure,
    confusion_figure,
    label_confusion_figure,
    roc_figure,
)
from medssl_monai.visualize.figures import save_figure
from medssl_monai.visualize.saliency import CAM_CAPTION, SALIENCY_CAPTION, saliency, saliency_panel

logger = logging.getLogger(__name__)

_SLICE_CAPTION = f"{SALIENCY_CAPTION}. Of each volume the slice in which it is strongest"


class EvaluationFigures:
    """Draws ``confusion.png``, ``roc.png``, ``calibration.png`` and ``saliency.png`` when an evaluation is complete.

    The handler must stand behind the writer. Of labels that are each there or not the confusion and the calibration
    are drawn for each label. Of a volume the panel shows the slice in which the saliency is strongest. Of another split
    than ``test`` the files' names begin with the split's.

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
        names, points = report["class_names"], writer.serving["operating_points"] or None
        if report.get("exclusive", True):
            calibration = {name: report["calibration"][name] for name in ("before", "after")}
            figures = {
                "confusion": confusion_figure(report["confusion_matrix"], names),
                "roc": roc_figure(writer.labels, writer.probabilities, names, points),
                "calibration": calibration_figure(
                    {name: part["curve"] for name, part in calibration.items() if part is not None}
                ),
            }
        else:
            parts = {name: part["after"] or part["before"] for name, part in report["calibration"]["per_class"].items()}
            table = writer.labels.reshape(writer.probabilities.shape)
            figures = {
                "confusion": label_confusion_figure(report["confusion_matrices"]),
                "roc": roc_figure(table, writer.probabilities, names, points),
                "calibration": calibration_figure({name: part["curve"] for name, part in parts.items()}, labels=True),
            }
        if self.n_images > 0:
            figures["saliency"] = self._saliency(engine.state.device, names)  # type: ignore[attr-defined]
        files = {writer.file_name(f"{name}.png"): figure for name, figure in figures.items()}
        for name, figure in files.items():
            save_figure(figure, self.folder / name)
        logger.info("wrote %s in %s", ", ".join(files), self.folder)

    def _saliency(self, device: torch.device, names: Sequence[str]) -> Any:
        chosen, titles = self._chosen(names)
        pictures = [torch.as_tensor(self.dataset[int(i)]["image"]).to(device) for i in chosen]
        if pictures[0].dim() == 4:
            images, strength = self._slices(pictures)
            return saliency_panel(images.cpu().mT, {"Saliency": strength.cpu().mT}, titles, _SLICE_CAPTION)
        images = torch.stack(pictures)
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

    def _chosen(self, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """Images to show, and what stands beside each."""
        labels, writer = self.writer.labels, self.writer
        if writer.report.get("exclusive", True):
            predicted = writer.outputs.argmax(axis=1)
            chosen = spread_over_classes(labels, self.n_images)
            return chosen, [f"{names[labels[i]]}\npredicted {names[predicted[i]]}" for i in chosen]
        table = labels.reshape(writer.outputs.shape)
        chosen = spread_over_classes(np.unique(table, axis=0, return_inverse=True)[1].reshape(-1), self.n_images)

        def listed(row: np.ndarray) -> str:
            return ", ".join(name for name, there in zip(names, row) if there) or "none"

        strongest = [names[k] for k in writer.outputs.argmax(axis=1)]
        return chosen, [
            f"{listed(table[i])}\ncalled {listed(writer.called[i])}\nexplained: {strongest[i]}" for i in chosen
        ]

    def _slices(self, volumes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of each volume (C, H, W, S), one at a time because sizes differ, the slice whose saliency is strongest."""
        shown, strength = [], []
        for volume in volumes:
            found = saliency(self.network, volume[None])[0]
            at = int(found.sum(dim=(0, 1)).argmax())
            shown.append(volume[..., at])
            strength.append(found[..., at])
        return torch.stack(shown), torch.stack(strength)


def spread_over_classes(labels: np.ndarray, number: int) -> list[int]:
    """Indices of at most ``number`` cases, one of each class in turn, in the order of the cases."""
    queues = [list(np.flatnonzero(labels == k)) for k in np.unique(labels)]
    chosen: list[int] = []
    while len(chosen) < min(number, len(labels)):
        for queue in queues:
            if queue and len(chosen) < number:
                chosen.append(int(queue.pop(0)))
    return chosen
