"""A picture of every segmented scan, as a handler: the organs over its slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from monai.utils import ImageMetaKey

from medssl_monai.core import ConfigError, make_folder
from medssl_monai.data.readers import read_image
from medssl_monai.handlers.segmentation import label_map
from medssl_monai.handlers.segmentation_files import case_file, like_named
from medssl_monai.visualize.figures import save_figure
from medssl_monai.visualize.mosaic import overlay_mosaic

MOSAIC_SUFFIX = ".png"


class OrganMosaics:
    """Writes ``<scan>.png`` beside each label map: :func:`overlay_mosaic` of the scan as it was read.

    Where the batch carries ``truth`` it is drawn as lines. The picture bears no name.

    Args:
        output_dir: where to; pictures lie under the scans' own relative paths.
        organs: value in the label maps to name.
        window: intensities that are black and white; ``None`` takes percentiles of each scan. CT wants that of its
            preparation.
        n_slices: slices a picture.
        enabled: ``False`` draws nothing.
    """

    def __init__(
        self,
        output_dir: str | Path,
        organs: Mapping[int, str],
        window: Sequence[float] | None = None,
        n_slices: int = 12,
        enabled: bool = True,
    ) -> None:
        self.folder, self.organs, self.enabled = make_folder(output_dir), dict(organs), enabled
        self.window, self.n_slices = window, n_slices
        self.others: frozenset[str] = frozenset()

    def attach(self, engine: Engine) -> None:
        """Draw scan by scan."""
        if self.enabled:
            engine.add_event_handler(Events.EPOCH_STARTED, self.begin)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)

    def begin(self, engine: Engine) -> None:
        """Note which scans have like names."""
        self.others = like_named(getattr(engine, "data_loader", None))

    def draw(self, engine: Engine) -> None:
        """Draw the scans of a batch.

        Raises:
            ConfigError: when a scan does not know its file, or the output is no label map.
            OutputError: when a picture cannot be written.
        """
        for batch, output in zip(engine.state.batch, engine.state.output):  # type: ignore[arg-type, call-overload]
            labels = label_map(output, "pred")
            source = labels.meta.get(ImageMetaKey.FILENAME_OR_OBJ)
            if source is None:
                raise ConfigError(
                    "the scan does not know the file it was read from, so that it cannot be drawn", where="mosaics",
                    expected="scans loaded by LoadImaged", advice="Set mosaics to false.",
                )  # fmt: skip
            truth = batch.get("truth")
            figure = overlay_mosaic(
                read_image(source)[0].reshape(labels.shape[1:]),
                labels[0].cpu().numpy(),
                self.organs,
                labels.affine.double().cpu().numpy(),
                truth=None if truth is None else torch.as_tensor(truth)[0].cpu().numpy(),
                window=None if self.window is None else (self.window[0], self.window[1]),
                n_slices=self.n_slices,
            )
            path = case_file(self.folder, str(batch["name"]), MOSAIC_SUFFIX, source, self.others)
            save_figure(figure, path)
