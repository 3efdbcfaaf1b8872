"""What an ensemble of planes is made of and what is stored of it: folders of predictions, ``ensemble.json``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medssl_monai.core import CheckpointError, ConfigError, file_digest, read_json, write_json
from medssl_monai.core.environment import versions

logger = logging.getLogger(__name__)

ENSEMBLE_FILE = "ensemble.json"

Source = str | Path | Mapping[str, str | Path]


@dataclass(frozen=True)
class Weights:
    """What ``ensemble.json`` holds.

    Attributes:
        planes: M planes, in the order of the weights' rows.
        labels: C labels, in the order of the columns.
        values: (M, C) weights; each column sums to 1.
    """

    planes: tuple[str, ...]
    labels: tuple[str, ...]
    values: np.ndarray


def plane_folders(
    planes: Sequence[str], output_dir: str | Path, name: str = "exam", labels: Sequence[str] | None = None
) -> dict[str, Source]:
    """The folders of the planes' results, beside that of the exam: ``output_dir`` with the plane for ``name``.

    Planes lie beside the exam in a bundle's folder (``eval/exam``, ``eval/sagittal``) as in folders of runs
    (``RUN/exam/eval``, ``RUN/sagittal/eval``).

    Args:
        planes: the planes.
        output_dir: the ensemble's, whose last or last but one part is ``name``.
        name: what stands there for the exam.
        labels: where a model was trained for each label, the labels: the folders are ``PLANE/LABEL`` then.

    Returns:
        By plane its folder, or its folders by label.

    Raises:
        ConfigError: when ``name`` stands at neither place.
    """
    path = Path(output_dir)
    places = [index for index in (-1, -2) if len(path.parts) >= -index and path.parts[index] == name]
    if not places:
        raise ConfigError(
            "the planes' folders cannot be told from this one", where="output_dir", found=path,
            expected=f"a folder {name}, or {name}/eval, beside those of the planes",
            advice=f"After `medssl run` give --run-dir RUN/{name}, or name the folders in plane_dirs.",
        )  # fmt: skip
    before, after = path.parts[: places[0]], path.parts[len(path.parts) + places[0] + 1 :]

    def folder(*parts: str) -> Path:
        return Path(*before, *parts, *after)

    if labels is None:
        return {plane: folder(plane) for plane in planes}
    return {plane: {label: folder(plane, label) for label in labels} for plane in planes}


def write_ensemble(
    folder: str | Path,
    weights: Weights,
    accuracies: np.ndarray,
    *,
    threshold: float,
    n: int,
    n_subjects: int,
    missing: str,
    folders: Mapping[str, Mapping[str, Path]],
    file: str,
) -> None:
    """Write ``ensemble.json``: the weights, and what they were set from.

    Args:
        folder: the ``ckpt_dir``.
        weights: the weights.
        accuracies: (M, C), on validation.
        threshold: of the accuracies and votes.
        n: validation exams.
        n_subjects: validation subjects.
        missing: how exams that lack a plane were treated.
        folders: by plane and label ("" for all) the folder of the predictions.
        file: name of the validation predictions there; its digest is stored.

    Raises:
        OutputError: when it cannot be written.
    """

    def by_plane(table: np.ndarray) -> dict[str, dict[str, float]]:
        return {
            plane: {label: float(value) for label, value in zip(weights.labels, row)}
            for plane, row in zip(weights.planes, table)
        }

    digests = {
        plane: {label or "all": file_digest(place / file) for label, place in by_label.items()}
        for plane, by_label in folders.items()
    }
    places = {
        plane: {label or "all": str(place) for label, place in by_label.items()} for plane, by_label in folders.items()
    }
    content = {
        "labels": list(weights.labels), "planes": list(weights.planes), "weights": by_plane(weights.values),
        "accuracies": by_plane(accuracies), "threshold": threshold, "set_on": "validation", "n": n,
        "n_subjects": n_subjects, "missing": missing, "sources": places, "predictions_sha256": digests,
        "versions": versions(),
    }  # fmt: skip
    write_json(Path(folder) / ENSEMBLE_FILE, content)
    logger.info("wrote %s", Path(folder) / ENSEMBLE_FILE)


def read_ensemble(folder: str | Path, planes: Sequence[str], labels: Sequence[str]) -> Weights:
    """Read the weights of ``ensemble.json``.

    Args:
        folder: the ``ckpt_dir``.
        planes: the planes to join, in any order.
        labels: the labels, in the order the weights were set for.

    Returns:
        The weights, their rows in the order of ``planes``.

    Raises:
        CheckpointError: when there is no such file, or it is of other planes or labels.
    """
    path = Path(folder) / ENSEMBLE_FILE
    if not path.is_file():
        raise CheckpointError(
            f"no {ENSEMBLE_FILE} here", where=path.parent,
            advice="The ensemble stage writes it from validation predictions: run that first, or name its ckpt_dir.",
        )  # fmt: skip
    content = read_json(path)
    try:
        stored, names = content["weights"], list(content["labels"])
        if names != list(labels) or set(stored) != set(planes):
            raise CheckpointError(
                "the weights are of other planes or labels", where=path,
                found=f"planes {', '.join(stored)}; labels {', '.join(names)}",
                expected=f"planes {', '.join(planes)}; labels {', '.join(labels)}",
                advice="Give `sources` and `labels` as the ensemble stage had them, or run it again.",
            )  # fmt: skip
        values = np.array([[float(stored[plane][label]) for label in labels] for plane in planes])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            "holds no weights of an ensemble", where=path, found=f"{type(error).__name__}: {error}",
            advice="Run the ensemble stage again.",
        ) from error  # fmt: skip
    return Weights(tuple(planes), tuple(labels), values)


def checked_sources(sources: Mapping[str, Source], labels: Sequence[str]) -> dict[str, dict[str, Path]]:
    """By plane, folders by label; the key of a folder of all labels is "".

    Raises:
        ConfigError: for labels that repeat, fewer than two planes, a plane that does not name every label once, or a
            folder named twice.
    """
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError("labels must be different names", where="labels", found=list(labels))
    if len(sources) < 2:
        raise ConfigError(
            "an ensemble joins two planes or more", where="sources", found=", ".join(sources) or "none",
            expected="for example sagittal, coronal and axial",
        )  # fmt: skip
    folders: dict[str, dict[str, Path]] = {}
    for plane, source in sources.items():
        if isinstance(source, Mapping):
            if set(source) != set(labels):
                raise ConfigError(
                    "a plane needs one folder of each label", where=f"sources#{plane}",
                    found=", ".join(source) or "none", expected=", ".join(labels),
                )  # fmt: skip
            folders[plane] = {label: Path(source[label]) for label in labels}
        else:
            folders[plane] = {"": Path(source)}
    places: dict[Path, str] = {}
    for plane, by_label in folders.items():
        for label, folder in by_label.items():
            name = f"sources#{plane}{f'#{label}' if label else ''}"
            other = places.setdefault(folder.resolve(), name)
            if other != name:
                raise ConfigError(
                    "one folder stands for two models", where=name, found=f"{folder}, also {other}",
                    advice="Give each plane (and label) the output_dir of its own evaluate stage.",
                )  # fmt: skip
    return folders
