"""What is found out by building the bundle's objects, always in a copy: network, export, MONAI's properties."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, verify_net_in_out
from monai.bundle.scripts import _get_fake_spatial_shape, _get_net_io_info

from medssl_monai.apps.bundle_check.quiet import cause, quiet
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import Bundle, Stage
from medssl_monai.core import overlay_path
from medssl_monai.data.phantoms import PHANTOMS, make_phantom

#: sizes tried for spatial shapes with free parameters, as powers p, factors n and free edges, smallest first
_SIZES = ((1, 1, 1), (4, 2, 32), (5, 2, 64), (5, 16, 64), (6, 32, 96))
_MOST_VOXELS = 2**22
_CONVERTERS: dict[str, Callable[[torch.nn.Module, torch.Tensor], Any]] = {
    "script": lambda network, x: torch.jit.script(network),
    "trace": lambda network, x: torch.jit.trace(network, x),  # type: ignore[no-untyped-call]
}
_LEFT_OUT = shutil.ignore_patterns("models", "eval", ".git", "__pycache__", "data")


@contextmanager
def working_copy(bundle: Bundle) -> Iterator[Path]:
    """A copy of the bundle to run in: working folder, import path and modules are as before afterwards."""
    before = set(sys.modules)
    with TemporaryDirectory(prefix="medssl_bundle_check_") as folder:
        root = Path(folder).resolve() / bundle.root.name
        shutil.copytree(bundle.root, root, ignore=_LEFT_OUT)
        (root / "models").mkdir()
        for path in (bundle.root / "models").glob("*"):
            (root / "models" / path.name).symlink_to(path)
        sys.path.insert(0, str(root))
        try:
            with chdir(root):
                yield root
        finally:
            sys.path[:] = [entry for entry in sys.path if entry != str(root)]
            for name in set(sys.modules) - before:  # bundles share the module name `scripts`
                if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(root)):
                    del sys.modules[name]


def _copied(stage: Stage, root: Path) -> list[str]:
    return [str(root / file.name) for file in stage.files]


def network_problems(bundle: Bundle, root: Path, notes: list[str]) -> Iterator[Problem]:
    """MONAI's check of the network's input and output, then whether it can be exported as TorchScript."""
    stage = bundle.stages.get("inference")
    if stage is None or "network_def" not in stage.parser or bundle.metadata_file.content is None:
        notes.append("network not checked: it needs inference with network_def, and metadata")
        return
    meta, files = str(root / "configs" / "metadata.json"), _copied(stage, root)
    try:
        parser = ConfigParser()
        parser.read_config(files)
        parser.read_meta(meta)
        channels, spatial, dtype, _, _ = _get_net_io_info(parser)
    except Exception as error:
        what = f"the network's input and output cannot be read ({cause(error)})"
        yield bundle.metadata_file.problem("MONAI", "network_data_format", what, "Describe 'image' and 'pred'.")
        return
    try:
        sizes = _sizes(spatial)
    except Exception as error:  # told with its place where the metadata is checked
        notes.append(f"network not checked: its spatial_shape cannot be evaluated ({cause(error)})")
        return
    size, failure = None, f"no size with at most {_MOST_VOXELS} voxels is of the metadata's spatial_shape"
    for p, n, free in sizes:
        try:
            verify_net_in_out("network_def", meta, files, device="cpu", p=p, n=n, any=free, bundle_root=str(root))
        except Exception as error:
            failure = cause(error)
            if "doesn't match" in failure:  # of the output: no other size will mend it
                break
            continue
        size = (p, n, free)
        break
    if size is None:
        yield stage.file.problem("MONAI", "network_def", f"verify_net_in_out: {failure}", "Mend network or metadata.")
        return
    if size != _SIZES[0]:
        notes.append(f"network tried at p={size[0]}, n={size[1]}, any={size[2]}")
    shape = (channels, *_get_fake_spatial_shape(spatial, *size))
    yield from _export_problems(stage, parser, shape, dtype, root, notes)


def _sizes(spatial: Any) -> list[tuple[int, int, int]]:
    if all(isinstance(edge, int) for edge in spatial):
        return [_SIZES[0]]
    return [size for size in _SIZES if np.prod(_get_fake_spatial_shape(spatial, *size)) <= _MOST_VOXELS]


def _export_problems(
    stage: Stage, parser: ConfigParser, shape: tuple[int, ...], dtype: torch.dtype, root: Path, notes: list[str]
) -> Iterator[Problem]:
    """Script, else trace; the exported network must give what the network itself gives, also for another batch."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand((n, *shape), generator=generator).to(dtype) for n in (1, 2)]
    try:
        with torch.no_grad():
            parser["bundle_root"] = str(root)
            network = parser.get_parsed_content("network_def").cpu().eval()
            expected = [network(x) for x in inputs]
    except Exception as error:
        yield stage.file.problem("MONAI", "network_def", f"cannot be run ({cause(error)})", "Mend the network.")
        return
    if not all(isinstance(output, torch.Tensor) for output in expected):
        what = f"gives {type(expected[0]).__name__}, not one tensor"
        yield stage.file.problem("MONAI", "network_def", what, "MONAI Label, Deploy and the export need one tensor.")
        return
    reasons = {}
    for way in _CONVERTERS:
        try:
            with torch.no_grad():
                exported = _CONVERTERS[way](network, inputs[0])
                buffer = io.BytesIO()
                torch.jit.save(exported, buffer)
                buffer.seek(0)
                loaded = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
                for x, y in zip(inputs, expected):
                    torch.testing.assert_close(loaded(x), y)
        except Exception as error:
            reasons[way] = cause(error)
            continue
        notes.append(f"TorchScript: {way}")
        return
    what = "; ".join(f"{way} fails ({reason})" for way, reason in reasons.items())
    mend = "Let forward take and give one tensor, without Python state or branches on values."
    yield stage.file.problem("MONAI", "network_def", f"no export as TorchScript: {what}", mend)


def resolved_property_problems(bundle: Bundle, root: Path, data: Path | None, notes: list[str]) -> Iterator[Problem]:
    """MONAI's ``check_properties``, which builds the objects: on the user's data, or on a phantom for our bundles."""
    if data is not None:
        for stage in bundle.stages.values():
            if stage.kind is not None and "multi_gpu" not in stage.name:
                changed = {"bundle_root": str(root), "dataset_dir": str(data.resolve())}
                yield from _properties(stage, root, changed, [], run=False)
        return
    if not bundle.house:
        notes.append("properties checked by their ids only (--data DIR builds the objects)")
        return
    kind = _phantom(bundle)
    if kind is None:
        notes.append("properties checked by their ids only: no phantom of this modality and these classes")
        return
    phantom = PHANTOMS.get(kind)
    options: dict[str, Any] = {"balance": 1.0} if "balance" in phantom.options else {}
    folder = root.parent
    subjects = 12 if phantom.task == "segmentation" else 100  # scans have many slices; classes need many images
    make_phantom(kind, folder / "phantom", subjects=subjects, size=max(32, phantom.smallest_size), **options)
    changed = {
        "bundle_root": str(root), "dataset_dir": str(folder / "phantom"), "ckpt_dir": str(folder / "run" / "models"),
        "output_dir": str(folder / "run" / "eval"), "device": "$torch.device('cpu')",
    }  # fmt: skip
    for name in ("pretrain", "train", "evaluate", "inference"):
        if name not in bundle.stages:
            continue
        # later stages need what the trained ones leave, so these are run, at the size of the smoke overlay
        found = list(_properties(bundle.stages[name], root, changed, ["smoke"], run=name in ("pretrain", "train")))
        yield from found
        if found and name in ("pretrain", "train"):
            notes.append(f"properties of the stages behind {name} checked by their ids only")
            return


def _phantom(bundle: Bundle) -> str | None:
    inputs = bundle.metadata.get("network_data_format", {}).get("inputs", {}).get("image", {})
    stage = bundle.stages.get("train")
    labels = stage.parser.get("labels") if stage else None
    segments = bundle.root.name.endswith("_segmentation")
    for kind in sorted(PHANTOMS):
        phantom = PHANTOMS.get(kind)
        names = phantom.labels.values() if isinstance(phantom.labels, Mapping) else phantom.labels
        if segments != (phantom.task == "segmentation"):
            continue
        # a network may learn some of the organs, but all of the classes
        fits = labels is None or (set(labels) <= set(names) if segments else list(labels) == list(names))
        if phantom.modality.casefold() == str(inputs.get("modality", "")).casefold() and fits:
            return kind
    return None


def _properties(stage: Stage, root: Path, changed: dict[str, Any], overlays: list[str], run: bool) -> Iterator[Problem]:
    """Build what MONAI's properties name.

    Somebody else's `initialize` is left out: it may load weights that are not there, or seize a process group.
    """
    file = stage.file
    known = {key: value for key, value in changed.items() if key in stage.parser}
    noise = io.StringIO()
    try:
        with quiet() as noise:
            workflow = ConfigWorkflow(
                config_file=[*_copied(stage, root), *(str(overlay_path(name)) for name in overlays)],
                meta_file=str(root / "configs" / "metadata.json"), logging_file=False, workflow_type=stage.kind,
                init_id="initialize" if overlays else "none", **known,
            )  # fmt: skip
            workflow.initialize()
            wrong = workflow.check_properties() or []
            if run:
                workflow.run()
                workflow.finalize()
    except Exception as error:
        what = f"cannot be built{' and run' * run} ({cause(error, noise.getvalue())})"
        yield file.problem("MONAI", "", what, "Mend what it names.")
        return
    for name in wrong:
        yield file.problem("MONAI", "", f"check_properties: {name} is missing or under another name", "See its id.")
