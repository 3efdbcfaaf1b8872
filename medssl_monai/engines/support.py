"""The train stage without gradients: labelled scans write the bank of prototypes, in seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medssl_monai.core import DataError, FolderLock, file_digest, hash_case, make_folder, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.data.budget import Budget
from medssl_monai.data.inputs import InputProfile
from medssl_monai.data.labelled_episodes import PreparedScans, labelled_scan
from medssl_monai.engines.support_confidence import SupportCheck, leave_one_slice_out
from medssl_monai.handlers.budget import label_counts
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.provenance import seen_subjects
from medssl_monai.handlers.storage import save_tensors
from medssl_monai.handlers.support_record import SUPPORT_FILE
from medssl_monai.networks.cowpro_segmenter import CoWProSegmenter
from medssl_monai.transforms.serving import DESCRIPTION_KEY

logger = logging.getLogger(__name__)


class SupportScans(NamedTuple):
    """Labelled scans as nets take them.

    Attributes:
        names: of the scans.
        volumes: (C, H, W, S) each.
        labels: (H, W, S) each; 1 to O are the organs.
        descriptions: what each was like as stored, where the preparation notes it
            (:class:`~medssl_monai.transforms.DescribeInputd`).
    """

    names: list[str]
    volumes: list[Tensor]
    labels: list[Tensor]
    descriptions: Sequence[np.ndarray] = ()

    def profile(self) -> InputProfile | None:
        """What the scans were like as stored; ``None`` where it is not known of all of them."""
        if not self.names or len(self.descriptions) != len(self.names):
            return None
        return InputProfile.from_descriptions(np.stack(self.descriptions))

    def slices_shown(self, organ: int) -> list[int]:
        """Number of slices of each scan that show an organ (from 1)."""
        return [int((label == organ).flatten(0, 1).any(dim=0).sum()) for label in self.labels]


def read_scans(
    scans: PreparedScans | Sequence[Mapping[str, Any]],
    values: Sequence[int],
    device: torch.device | str = "cpu",
) -> SupportScans:
    """Read prepared labelled scans onto a device.

    Args:
        scans: dictionaries with ``image`` (C, H, W, S), ``label`` (1, H, W, S) or (H, W, S) and ``name``.
        values: O integers, what an organ is in the masks, in the order of the network's outputs.
        device: where to.

    Raises:
        DataError: when there is no scan, or one has no mask that lies on its grid.
    """
    if len(scans) == 0:
        raise DataError("there is no labelled scan", advice="One is enough: give a larger label_budget.")
    read, descriptions = SupportScans([], [], []), []
    for number in range(len(scans)):
        item = scans[number]
        image, label = labelled_scan(item, values)
        read.names.append(str(item.get("name", number)))
        read.volumes.append(image.to(device))
        read.labels.append(label.to(device))
        meta = getattr(item["image"], "meta", {})
        if DESCRIPTION_KEY in meta:
            descriptions.append(np.asarray(meta[DESCRIPTION_KEY], dtype=np.float64).reshape(-1))
    return read._replace(descriptions=descriptions)


def remember_supports(network: CoWProSegmenter, scans: SupportScans, organs: Mapping[int, str]) -> SupportCheck:
    """Write the bank of a segmenter from labelled scans, and its thresholds of absence; each slice is encoded once.

    Args:
        network: the segmenter, on the scans' device.
        scans: labelled scans.
        organs: mask value to name, in the order of the network's outputs.

    Returns:
        What leaving out one slice at a time gives.

    Raises:
        DataError: when no scan shows an organ, naming it.
    """
    for index, (value, name) in enumerate(organs.items(), start=1):
        if not any(scans.slices_shown(index)):
            raise DataError(
                f"no labelled scan shows {name}", where="label", found=f"no voxel of value {value} in "
                f"{len(scans.labels)} mask{'s'[: len(scans.labels) != 1]}", expected="every organ in one scan at least",
                advice="Give a larger label_budget or another scan, or leave the organ out of `labels`.",
            )  # fmt: skip
    features = [network.encode(volume) for volume in scans.volumes]
    network.remember(scans.volumes, scans.labels, features)
    check = leave_one_slice_out(network, scans.volumes, scans.labels, features)
    network.absence_threshold = check.thresholds.to(network.absence_threshold)
    return check


class SupportMemory:
    """Writes ``model.pt``, a segmenter with its bank, and ``support.json``, its record, from the labelled scans.

    Args:
        network: the segmenter, its encoder ready.
        dataset: prepared labelled scans of the budget, see :func:`read_scans`.
        organs: mask value to name, in the order of the network's outputs (``Datalist.organs``).
        folder: where the files go, the ``ckpt_dir``.
        budget: the labels used; their counts are stored.
        settings: plain values to store (backbone, image size, ...).
        pretraining: what the encoder's pre-training has seen (:func:`~medssl_monai.handlers.pretraining`).
        device: where to compute; the network is moved there.

    Raises:
        DataError: when the network has another number of organs.
    """

    def __init__(
        self,
        network: CoWProSegmenter,
        dataset: PreparedScans | Sequence[Mapping[str, Any]],
        organs: Mapping[int, str],
        folder: str | Path,
        budget: Budget,
        settings: Mapping[str, Any],
        pretraining: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network, self.dataset, self.organs, self.folder = network, dataset, dict(organs), Path(folder)
        self.budget, self.settings, self.pretraining, self.device = budget, dict(settings), pretraining, device
        if len(self.organs) != network.num_organs:
            raise DataError(
                "the network is for another number of organs", where="network_def::num_organs",
                found=network.num_organs, expected=f"{len(self.organs)} ({', '.join(self.organs.values())})",
            )  # fmt: skip

    def run(self) -> dict[str, Any] | None:
        """Write the bank and both files.

        Returns:
            The content of ``support.json``; ``None`` in all processes but the first.

        Raises:
            DataError: when there is no labelled scan, one has no mask, or no scan shows an organ.
            OutputError: when the folder cannot be written, or another run writes there.
        """
        if not is_main():
            return None
        lock = FolderLock(make_folder(self.folder))
        lock.acquire()
        try:
            return self._run()
        finally:
            lock.release()

    def _run(self) -> dict[str, Any]:
        start = time.perf_counter()
        scans = read_scans(self.dataset, list(self.organs), self.device)
        read = time.perf_counter()
        check = remember_supports(self.network.to(self.device), scans, self.organs)
        logger.info(
            "bank of %d labelled scan%s written in %.1f s (reading: %.1f s)",
            len(scans.names), "s"[: len(scans.names) != 1], time.perf_counter() - read, read - start,
        )  # fmt: skip
        organs, profile = self._organ_records(scans, check), scans.profile()
        save_tensors(self.network.state_dict(), self.folder / MODEL_FILE)
        content: dict[str, Any] = {
            "organs": organs,
            "cases": [
                {"case": hash_case(name), "n_slices": volume.shape[-1]}
                for name, volume in zip(scans.names, scans.volumes)
            ],
            "inputs": None if profile is None else profile.to_json(),
            "settings": self.settings,
            "label_counts": label_counts(self.budget),
            "model_sha256": file_digest(self.folder / MODEL_FILE),
            "versions": versions(),
            "seen_key": hash_case("key"),
            "seen_subjects": seen_subjects(self.budget, self.pretraining),
        }
        write_json(self.folder / SUPPORT_FILE, content)
        logger.info("wrote %s and %s in %s", MODEL_FILE, SUPPORT_FILE, self.folder)
        return content

    def _organ_records(self, scans: SupportScans, check: SupportCheck) -> list[dict[str, Any]]:
        """One entry an organ, in the order of the outputs; figures are said as they are set."""
        records = []
        for index, ((value, name), found) in enumerate(zip(self.organs.items(), check.organs)):
            shown = scans.slices_shown(index + 1)
            records.append(
                {
                    "name": name,
                    "value": value,
                    "n_scans": sum(number > 0 for number in shown),
                    "n_slices": sum(shown),
                    "extent": [round(float(end), 4) for end in self.network.extent[index]],
                    "quadrants": [round(float(share), 4) for share in self.network.quadrants[index]],
                    "absence_threshold": found.threshold,
                    "leave_one_slice_out": {
                        "dice": found.dice,
                        "n_present": len(found.present),
                        "n_absent": len(found.absent),
                        "confidence_present": float(found.present.mean()) if len(found.present) else None,
                        "confidence_absent": float(found.absent.mean()) if len(found.absent) else None,
                    },
                }
            )
            if found.threshold is None:
                logger.warning("%s: no threshold of absence could be set, it is never flagged", name)
            dice = "-" if found.dice is None else f"{found.dice:.2f}"
            logger.info("%s: %d slices, Dice %s when each is segmented by the others", name, sum(shown), dice)
        return records
