"""Every overlay fits every stage of every bundle, and does in a real run what it says."""

from __future__ import annotations

import ast
import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ReferenceResolver
from torch import Tensor, nn

from medssl_monai.apps.run import VOCABULARY, resolve_config, run_stage
from medssl_monai.core import ConfigError, overlay_path, share_dir
from medssl_monai.data import load_datalist
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.losses import CoWProLoss

BUNDLES = sorted(path.parents[1].name for path in share_dir("bundles").glob("*/configs/metadata.json"))
STAGES = [
    (bundle, path.stem)
    for bundle in BUNDLES
    for path in sorted((share_dir("bundles") / bundle / "configs").glob("*.yaml"))
    if path.stem != "study"
]
_CONFIGS = share_dir("configs")
OVERLAYS = sorted(str(path.relative_to(_CONFIGS).with_suffix("")) for path in _CONFIGS.rglob("*.yaml"))
TOGETHER = [
    ["smoke", "amp", "deterministic", "mlflow", "multi_gpu"], ["smoke", "cpu"], ["amp", "cpu"], ["cpu", "amp"],
]  # fmt: skip

#: what each bundle is run on here: a phantom, and what keeps a stage short; a new bundle is entered here
PHANTOMS: dict[str, dict[str, Any]] = {
    "contrastive_image_classification": {"kind": "skin_lesions", "subjects": 60, "seed": 1, "size": 32, "balance": 1.0},
    "contrastive_knee_mri_classification": {"kind": "knee", "subjects": 24, "seed": 1, "size": 32},
    "cowpro_abdominal_segmentation": {"kind": "abdomen", "subjects": 6, "seed": 1, "size": 32, "slice_spacing": 20.0},
    "srcl_skin_lesion_classification": {"kind": "skin_lesions", "subjects": 60, "seed": 1, "size": 32, "balance": 1.0},
}
SHORT: dict[str, dict[str, Any]] = {
    "contrastive_image_classification": {
        "pretrain": {"watch_items": 16},
        "train": {"pretrained": None},
        "inference": {},
    },
    "contrastive_knee_mri_classification": {
        "pretrain": {"watch_items": 12},
        "train": {"pretrained": None},
        "inference": {},
    },
    "cowpro_abdominal_segmentation": {
        "pretrain": {"backbone": "resnet18", "stages": 3},
        "train": {"backbone": "resnet18", "stages": 3, "pretrained": None, "finetune": True},
        "inference": {"backbone": "resnet18", "stages": 3, "mosaics": False},
    },
    "srcl_skin_lesion_classification": {
        "pretrain": {"backbone": "resnet18"},
        "train": {"backbone": "resnet18", "regime": "src", "teacher_warmup": 0.0},
        "inference": {"backbone": "resnet18"},
    },
}


# --- merged, nothing run
def test_there_is_something_to_test() -> None:
    assert len(STAGES) >= 4 * len(BUNDLES) > 0
    assert {"smoke", "cpu", "amp", "mlflow", "deterministic", "multi_gpu"} <= set(OVERLAYS)
    assert PHANTOMS.keys() == SHORT.keys() == set(BUNDLES)


def texts(node: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from texts(value, f"{place}::{key}" if place else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, f"{place}::{index}")
    elif isinstance(node, str):
        yield place, node


def check_references_and_expressions(config: dict[str, Any]) -> int:
    """Every @reference has its aim and every $expression is Python; returns how many references there were."""
    parser, count = ConfigParser(config), 0
    for place, text in texts(config):
        references = ReferenceResolver.match_refs_pattern(text)
        count += len(references)
        for name in references:
            assert name in parser, f"{place}: @{name}"
        if text.startswith("$"):
            ast.parse(ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references, 0)).removeprefix("$"))
    return count


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(("bundle", "stage"), STAGES)
def test_an_overlay_fits_a_stage(bundle: str, stage: str, overlay: str, tmp_path: Path) -> None:
    own, _ = resolve_config(bundle, stage, {}, run_dir=tmp_path)
    config, files = resolve_config(bundle, stage, {}, [overlay], tmp_path)
    keys = yaml.safe_load(overlay_path(overlay).read_text())
    assert files[1:] == [str(overlay_path(overlay))]
    assert keys.keys() <= set(VOCABULARY) | ({"labels"} if overlay.startswith("data/") else set())
    assert keys.keys() <= own.keys()
    assert {key: config[key] for key in keys} == keys
    assert {key: value for key, value in config.items() if key not in keys} == {
        key: value for key, value in own.items() if key not in keys
    }
    assert check_references_and_expressions(config) > 15
    # what is set is of the kind that the stage's own value is, and needs none of the stage's imports
    before, after = ConfigParser(own), ConfigParser(config)
    for key in keys:
        value, default = after.get_parsed_content(key), before.get_parsed_content(key)
        assert default is None or type(value) is type(default), f"{key}: {value!r} for {default!r}"


@pytest.mark.parametrize("overlays", TOGETHER, ids="+".join)
@pytest.mark.parametrize(("bundle", "stage"), STAGES)
def test_overlays_fit_together(bundle: str, stage: str, overlays: list[str], tmp_path: Path) -> None:
    config, _ = resolve_config(bundle, stage, {}, overlays, tmp_path)
    expected: dict[str, Any] = {}
    for name in overlays:
        expected |= yaml.safe_load(overlay_path(name).read_text())  # the later one counts
    assert {key: config[key] for key in expected} == expected
    check_references_and_expressions(config)


def test_the_check_of_references_finds_a_wrong_one() -> None:
    with pytest.raises(AssertionError, match="a: @c"):
        check_references_and_expressions({"a": "$@b + @c", "b": 1})
    with pytest.raises(SyntaxError):
        check_references_and_expressions({"a": "$@b +", "b": 1})


# --- run
class Watch:
    """What the modules of a run give while they train."""

    def __init__(self) -> None:
        self.layers: set[torch.dtype] = set()
        self.parameters: set[torch.dtype] = set()
        self.losses: set[torch.dtype] = set()
        self.evaluated: set[torch.dtype] = set()
        self.deterministic: set[bool] = set()

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            # the encoder is exported, and thresholds set, in full precision and evaluation mode
            (self.layers if module.training else self.evaluated).add(output.dtype)
            self.parameters.add(module.weight.dtype)
            self.deterministic.add(torch.are_deterministic_algorithms_enabled())
        elif type(module).__name__.endswith("Loss") and isinstance(output, Tensor):
            self.losses.add(output.dtype)


@contextmanager
def watching() -> Iterator[Watch]:
    watch, terms = Watch(), CoWProLoss.terms

    def watched(self: CoWProLoss, *args: Any, **kwargs: Any) -> Any:  # its trainer asks for the terms, not the sum
        found = terms(self, *args, **kwargs)
        watch.losses |= {one.dtype for one in found}
        return found

    handle = nn.modules.module.register_module_forward_hook(watch)
    CoWProLoss.terms = watched  # type: ignore[method-assign]
    try:
        yield watch
    finally:
        CoWProLoss.terms = terms  # type: ignore[method-assign]
        handle.remove()


Run = Callable[..., tuple[Path, Watch]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for bundle, settings in PHANTOMS.items():
        folders[bundle] = tmp_path_factory.mktemp(bundle) / "data"
        make_phantom(settings["kind"], folders[bundle], **{k: v for k, v in settings.items() if k != "kind"})
    return folders


@pytest.fixture(scope="module")
def run(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run a stage with the smoke overlay and others, in this process; what was run already is not run again."""
    done: dict[Any, tuple[Path, Watch]] = {}

    def run(bundle: str, stage: str, overlays: str, repeat: int = 0, **keys: Any) -> tuple[Path, Watch]:
        asked = (bundle, stage, overlays, repeat, *keys.items())
        if asked not in done:
            folder = tmp_path_factory.mktemp(f"{stage}_{overlays}")
            overrides = {"dataset_dir": str(data[bundle]), **SHORT[bundle][stage], **keys}
            with watching() as watch:
                run_stage(bundle, stage, overrides, ["smoke", *overlays.split()], folder)
            done[asked] = folder, watch
        return done[asked]

    return run


def checkpoint(folder: Path) -> dict[str, Any]:
    (path,) = (p for p in (folder / "models").glob("*checkpoint.pt"))
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def history(folder: Path) -> list[dict[str, float]]:
    """The rows of a run, without its seconds."""
    (path,) = (folder / "models").glob("*history.json")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(path.read_text())]


def task_of(bundle: str) -> str:
    return bundle.rpartition("_")[2]


both = pytest.mark.parametrize(("bundle", "stage"), [(b, s) for b in BUNDLES for s in ("pretrain", "train")])


@both
def test_amp_computes_in_bfloat16_and_keeps_weights_and_losses_in_float32(bundle: str, stage: str, run: Run) -> None:
    folder, watch = run(bundle, stage, "amp")
    assert watch.layers == {torch.bfloat16}
    assert watch.parameters == watch.losses == {torch.float32}
    if stage == "train" and task_of(bundle) == "classification":
        assert torch.bfloat16 in watch.evaluated  # validation
    state = checkpoint(folder)
    values = [v for v in state["objects"]["network"].values() if v.is_floating_point()]
    assert {v.dtype for v in values} == {torch.float32}
    assert "grad_scaler" not in state["objects"]  # bfloat16 has the range of float32
    settings = json.loads(state["settings"])
    assert (settings["amp"], settings["amp_dtype"]) == (True, "bfloat16")


@both
def test_float16_is_scaled_and_the_scale_is_in_the_checkpoint(bundle: str, stage: str, run: Run) -> None:
    folder, watch = run(bundle, stage, "amp", amp_dtype="float16")
    assert watch.layers == {torch.float16}
    assert watch.parameters == watch.losses == {torch.float32}
    assert checkpoint(folder)["objects"]["grad_scaler"]["scale"] > 1


@both
def test_without_amp_all_is_float32_and_nothing_deterministic_is_asked_for(bundle: str, stage: str, run: Run) -> None:
    _, watch = run(bundle, stage, "multi_gpu")
    assert watch.layers == watch.parameters == watch.losses == {torch.float32}
    assert watch.deterministic == {False}


@both
def test_multi_gpu_in_one_process_and_mlflow_change_no_number(bundle: str, stage: str, run: Run) -> None:
    one, other = run(bundle, stage, "multi_gpu")[0], run(bundle, stage, "mlflow")[0]
    assert history(one) == history(other)
    assert len(history(one)) == 2
    first, second = (checkpoint(folder)["objects"]["network"] for folder in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


@both
def test_deterministic_runs_repeat_bit_for_bit_also_with_amp(bundle: str, stage: str, run: Run) -> None:
    runs = [run(bundle, stage, "amp deterministic", repeat) for repeat in (0, 1)]
    assert [watch.deterministic for _, watch in runs] == [{True}, {True}]
    assert runs[0][1].layers == {torch.bfloat16}
    assert not torch.are_deterministic_algorithms_enabled()  # undone behind each of them
    first, second = (checkpoint(folder) for folder, _ in runs)
    for name, value in first["objects"]["network"].items():
        assert torch.equal(value, second["objects"]["network"][name]), name
    assert history(runs[0][0]) == history(runs[1][0])
    assert json.loads(first["settings"])["deterministic"] is True


@both
def test_mlflow_holds_history_and_settings_and_nobody_s_name(
    bundle: str, stage: str, run: Run, data: dict[str, Path]
) -> None:
    mlflow = pytest.importorskip("mlflow")
    folder, _ = run(bundle, stage, "mlflow")
    store = folder / "eval" / "mlruns.db"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name(bundle)
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.status, found.data.tags["stage"]) == ("FINISHED", stage)
    settings = json.loads(checkpoint(folder)["settings"])
    assert found.data.params == {key: str(value) for key, value in settings.items()}
    rows = history(folder)
    for name in {name for row in rows for name in row} - {"epoch"}:
        logged = [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        assert sorted(logged) == [(row["epoch"], pytest.approx(row[name])) for row in rows if name in row], name
    content = store.read_bytes()
    names = [item.name for _, item in load_datalist(data[bundle])]
    subjects = [item.subject for _, item in load_datalist(data[bundle])]
    assert not [text for text in {*names, *subjects, str(data[bundle])} if text.encode() in content]
    assert settings["data_fingerprint"].encode() in content  # what is there is found this way


@pytest.mark.parametrize("bundle", BUNDLES)
def test_predictions_under_amp_are_not_rounded_to_half_precision(
    bundle: str, run: Run, data: dict[str, Path], tmp_path: Path
) -> None:
    folder, _ = run(bundle, "train", "amp")
    keys = {"dataset_dir": str(data[bundle]), "output_dir": str(tmp_path), **SHORT[bundle]["inference"]}
    with watching() as watch:
        run_stage(bundle, "inference", keys, ["smoke", "amp"], folder)
    assert watch.evaluated == {torch.bfloat16}
    with (tmp_path / "inference.csv").open(newline="") as stream:
        columns = "probability_" if task_of(bundle) == "classification" else "confidence"
        table = [[float(v) for k, v in row.items() if k.startswith(columns)] for row in csv.DictReader(stream)]
    assert table
    if task_of(bundle) == "classification" and json.loads((folder / "models/serving.json").read_text())["exclusive"]:
        assert all(sum(row) == pytest.approx(1.0, abs=1e-6) for row in table)  # bfloat16 has steps of 0.001 at 0.2
    rounded = torch.tensor(table).bfloat16().float()
    assert (rounded != torch.tensor(table)).float().mean() > 0.9


@both
def test_a_precision_that_is_none_is_refused(bundle: str, stage: str, data: dict[str, Path], tmp_path: Path) -> None:
    keys = {"dataset_dir": str(data[bundle]), **SHORT[bundle][stage], "amp_dtype": "half"}
    with pytest.raises(ConfigError, match=r"^amp_dtype: unknown precision .found half, expected bfloat16 or float16"):
        run_stage(bundle, stage, keys, ["smoke"], tmp_path)


@pytest.mark.bundle
def test_overlays_through_monai_s_own_command(data: dict[str, Path], tmp_path: Path) -> None:
    bundle = BUNDLES[0]
    overlays = [str(overlay_path(name)) for name in ("smoke", "amp", "deterministic", "mlflow")]
    keys = {
        "dataset_dir": data[bundle], "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval",
        **SHORT[bundle]["pretrain"],
    }  # fmt: skip
    command = [
        sys.executable, "-m", "monai.bundle", "run", "--config_file", str(["configs/pretrain.yaml", *overlays]),
        "--meta_file", "configs/metadata.json", "--logging_file", "configs/logging.conf",
        *itertools.chain.from_iterable((f"--{key}", str(value)) for key, value in keys.items()),
    ]  # fmt: skip
    result = subprocess.run(
        command, cwd=share_dir("bundles") / bundle, env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    settings = json.loads(checkpoint(tmp_path)["settings"])
    assert (settings["amp"], settings["amp_dtype"], settings["deterministic"]) == (True, "bfloat16", True)
    assert settings["max_epochs"] == 2
    assert (tmp_path / "eval" / "mlruns.db").is_file()
