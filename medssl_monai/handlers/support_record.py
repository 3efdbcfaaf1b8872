"""What is stored with a bank of prototypes, in ``support.json``: organs, thresholds of absence, inputs, labels used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.core import CheckpointError, file_digest, read_json
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.serving import check_settings
from medssl_monai.handlers.storage import load_tensors

SUPPORT_FILE = "support.json"


def read_support(
    folder: str | Path,
    organs: Mapping[int, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    required: bool = True,
) -> dict[str, Any]:
    """Read ``support.json`` of a bank of prototypes.

    Args:
        folder: the ``ckpt_dir``.
        organs: mask value to name, which must be those the bank was written of.
        settings: values that must be those it was written with (image size, backbone, ...).
        required: ``False``: an empty record where there is neither a record nor a ``model.pt``.

    Raises:
        CheckpointError: when there is none, it was written of other organs or with other settings, or it is not the
            record of the ``model.pt`` beside it, or that is damaged.
    """
    path = Path(folder) / SUPPORT_FILE
    if not path.is_file():
        if not required and not (path.parent / MODEL_FILE).is_file():
            return {"organs": [], "inputs": None, "settings": {}}
        raise CheckpointError(
            f"no {SUPPORT_FILE} here", where=path.parent,
            advice="The train stage writes it beside model.pt: run that first, or name its ckpt_dir.",
        )  # fmt: skip
    content: dict[str, Any] = {"inputs": None, **read_json(path)}
    recorded = {int(organ["value"]): organ["name"] for organ in content["organs"]}
    if organs is not None and recorded != dict(organs):
        raise CheckpointError(
            "the bank was written of other organs", where=path, found=_listed(recorded), expected=_listed(organs),
            advice="Give `labels` as it was trained, or run the train stage again.",
        )  # fmt: skip
    check_settings(content.get("settings", {}), settings, path)
    model = Path(folder) / MODEL_FILE
    if model.is_file() and content.get("model_sha256") != file_digest(model):
        load_tensors(model)  # a damaged file is named as such
        raise CheckpointError(
            f"{SUPPORT_FILE} belongs to another {MODEL_FILE}", where=path,
            advice="Thresholds of absence hold for one bank: run the train stage again.",
        )  # fmt: skip
    return content


def absence_thresholds(record: Mapping[str, Any]) -> dict[str, float | None]:
    """By name of the organ, the confidence below which it seems absent; ``None`` where none could be set."""
    return {organ["name"]: organ["absence_threshold"] for organ in record["organs"]}


def support_organs(folder: str | Path, default: Mapping[int, str] | None = None) -> dict[int, str]:
    """Mask value to name of the organs of a bank, ``default`` where there is none yet.

    Raises:
        CheckpointError: when there is none and no default.
    """
    if default is not None and not (Path(folder) / SUPPORT_FILE).is_file():
        return dict(default)
    return {int(organ["value"]): str(organ["name"]) for organ in read_support(folder)["organs"]}


def _listed(organs: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in organs.items())
