"""The weights that a bundle ships as ``models/model.pt`` or ``models/model.ts``: they load, and fit the network."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from medssl_monai.apps.bundle_check.quiet import cause
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle

_POINTER = b"version https://git-lfs"
_SAVE = "Save network_def's state dict by torch.save(network.state_dict(), 'models/model.pt')."
_SHOWN = 3


def weight_problems(bundle: Bundle) -> Iterator[Problem]:
    """What can be said without building the network: ``model.pt`` loads without executing code, ``model.ts`` is one."""
    path = bundle.root / "models" / "model.pt"
    if path.is_file():
        _, problem = _loaded(path)
        if problem is not None:
            yield problem
    path = path.with_suffix(".ts")
    if path.is_file() and not _is_torchscript(path):
        what = f"no TorchScript, but {_content(path)}"
        yield Problem("MONAI", "models/model.ts", "", what, "Write it by `python -m monai.bundle ckpt_export`.")


def fit_problems(bundle: Bundle, root: Path, notes: list[str]) -> Iterator[Problem]:
    """Whether shipped weights fit ``network_def`` of the inference strictly.

    Args:
        bundle: the bundle.
        root: the copy in which it is run.
        notes: takes what could not be compared.
    """
    paths = [path for suffix in (".pt", ".ts") if (path := bundle.root / "models" / f"model{suffix}").is_file()]
    stage = bundle.stages.get("inference")
    if not paths:
        return
    if stage is None or "network_def" not in stage.parser:
        notes.append("shipped weights not compared: inference has no network_def")
        return
    parser = ConfigParser()
    parser.read_config([str(root / file.name) for file in stage.files])
    if bundle.metadata:
        parser.read_meta(str(root / "configs" / "metadata.json"))
    parser["bundle_root"] = str(root)
    try:
        expected = parser.get_parsed_content("network_def").state_dict()
    except Exception as error:  # told where the network is checked
        notes.append(f"shipped weights not compared: the network cannot be built ({cause(error)})")
        return
    for path in paths:
        found = None
        if path.suffix == ".pt":
            found, _ = _loaded(path)  # a failure has been told without execution
        elif _is_torchscript(path):
            try:
                found = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
            except (RuntimeError, ValueError) as error:
                what, mend = f"cannot be loaded ({cause(error)})", "Write it by `python -m monai.bundle ckpt_export`."
                yield Problem("MONAI", "models/model.ts", "", what, mend)
        differences = _differences(found, expected) if found is not None else []
        if differences:
            what = f"does not fit network_def of {stage.file.name}: {'; '.join(differences)}"
            mend = "Ship the weights of this network, or mend network_def."
            yield Problem("MONAI", f"models/{path.name}", "", what, mend)


def _loaded(path: Path) -> tuple[Mapping[str, Any] | None, Problem | None]:
    """A state dict, as MONAI's ``CheckpointLoader`` finds it."""
    name = f"models/{path.name}"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the reader
        if zipfile.is_zipfile(path) and "weights_only" in str(error).lower().replace(" ", "_"):
            what, mend = f"cannot be loaded with weights_only=True ({cause(error)})", f"It holds more. {_SAVE}"
        else:
            what = f"cannot be loaded as weights: {_content(path)} ({cause(error)})"
            mend = _SAVE
        return None, Problem("MONAI", name, "", what, mend)
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        held = ", ".join(map(repr, list(content)[:_SHOWN])) if isinstance(content, Mapping) else ""
        what = f"holds {type(content).__name__}{f' of {held}' if held else ''}, not a state dict nor one under 'model'"
        return None, Problem("MONAI", name, "", what, _SAVE)
    return content, None


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _content(path: Path) -> str:
    """What a file that holds no weights holds, in words."""
    with path.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if not start:
        return "the file is empty"
    if start == _POINTER:
        return "a pointer of git-lfs, whose file was not fetched"
    return "a ZIP archive of something else" if zipfile.is_zipfile(path) else f"a file that begins with {start[:8]!r}"


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """What ``load_state_dict(strict=True)`` would refuse, the first few of each kind."""

    def some(names: list[str]) -> str:
        return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

    lacks = [key for key in expected if key not in found]
    unknown = [key for key in found if key not in expected]
    shapes = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in found and hasattr(expected[key], "shape") and found[key].shape != expected[key].shape
    ]
    words = (("lacks", lacks), ("holds unknown", unknown), ("has other shapes:", shapes))
    return [f"{word} {some(names)}" for word, names in words if names]
