"""The bundle check on a bundle as MONAI's documentation describes one: MONAI's rules hold, ours do not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from monai_bundle import make_monai_bundle

from medssl_monai.apps.bundle_check import BundleReport, check_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_monai_bundle(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def change(bundle: Path, stem: str, edit: Callable[[dict[str, Any]], object]) -> None:
    path = bundle / f"configs/{stem}.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content, indent=2))


def only(report: BundleReport, pattern: str) -> None:
    found = [problem.text() for problem in report.problems]
    assert len(found) == 1, found
    assert re.search(pattern, found[0]), found[0]


def test_no_problems_and_nothing_written(bundle: Path) -> None:
    before = files(bundle)
    report = check_bundle(bundle, schema_note="no copy here")
    assert report.problems == []
    assert not report.house
    assert report.notes == [
        "skipped: MONAI's metadata schema (no copy here)",
        "configs/inference.json dataset_dir: absolute path '/workspace/data/organ', which the user must override",
        "configs/train.json dataset_dir: absolute path '/workspace/data/organ', which the user must override",
        "network tried at p=4, n=2, any=32",
        "TorchScript: script",
        "properties checked by their ids only (--data DIR builds the objects)",
    ]
    assert files(bundle) == before


CASES: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    # the house has another rule for each of these; here only MONAI's and the zoo's hold
    "hash in a text": (
        "train", lambda c: c["train"]["handlers"][1].update(tag_name="loss #1"),
        r"^\[MONAI\] configs/train.json:\d+ train::handlers::1::tag_name: '#' in 'loss #1' is rewritten",
    ),
    "macro": (
        "train", lambda c: c["validate"].update(postprocessing="%train#postprocesing"),
        r"train.json:\d+ validate::postprocessing: copies 'train::postprocesing', .* Did you mean 'postprocessing'\?",
    ),
    "override of nothing": (
        "evaluate", lambda c: c.update({"validate#nothing#x": 1}),
        r"^\[MONAI\] configs/evaluate.json:\d+ validate::nothing::x: cannot be merged onto configs/train.json",
    ),
    "reference of an override": (
        "evaluate", lambda c: c.update({"run": ["$@validate#evalator.run()"]}),
        r"evaluate.json:\d+ run::0: refers to 'validate::evalator', which does not exist. Did you mean 'evaluator'\?",
    ),
    "program of an override": (
        "evaluate", lambda c: c.update(ru=c.pop("run")),
        r"configs/evaluate.json:\d+ ru: is run by nothing but '--run_id'. Did you mean 'run'\?",
    ),
    "attribute of a module that an override imports": (
        "multi_gpu_train", lambda c: c.update(finalize=["$dist.destoy_process_group()"]),
        r"finalize::0: dist has no 'destoy_process_group'. Did you mean 'destroy_process_group'\?",
    ),
    "attribute of a module that is no package": (
        "inference", lambda c: c.update(datalist="$glob.golb(@dataset_dir)"),
        r"datalist: glob has no 'golb'. Did you mean 'glob'\?",
    ),
    "key of an override": (
        "multi_gpu_train", lambda c: c.update(networ=c.pop("network")),
        r"configs/multi_gpu_train.json:\d+ networ: nothing reads this key. Did you mean 'network'\?",
    ),
    "target of an override": (
        "evaluate", lambda c: c["validate#handlers"][1].update(metric="x"),
        r"configs/evaluate.json:\d+ validate::handlers::1::metric: MetricsSaver takes no argument 'metric'. Did you",
    ),
    "name bound by an override only": (
        "multi_gpu_train", lambda c: c.clear() or c.update(device="$torch.device(dist.get_rank())"),
        r"uses 'dist', which nothing binds",
    ),
    "data key beside Spacingd": (
        "train",
        lambda c: c["train"]["deterministic_transforms"].append(
            {"_target_": "CopyItemsd", "keys": "image", "names": "image_2"}
        ),
        r"^\[MONAI\] .*names: the data key 'image_2' starts with 'image' and '_', which Spacingd takes for metadata",
    ),
    "data key made in an expression": (
        "train",
        lambda c: c["train"]["dataset"].update(
            data="$[{'image': i, 'label': l, 'image_id': i} for i, l in zip(@images[:-1], @labels[:-1])]"
        ),
        r"^\[MONAI\] .*train::dataset::data: the data key 'image_id' starts with 'image' and '_', which Spacingd",
    ),
    "data key added in an expression": (
        "train",
        lambda c: c["train"]["dataset"].update(data="$[dict(p, label_id=1) for p in pairs(@images, @labels)]"),
        r"^\[MONAI\] .*train::dataset::data: the data key 'label_id' starts with 'label' and '_', which Spacingd",
    ),
    "data key in a list": (
        "train", lambda c: c["train"]["dataset"].update(data=[{"image": "a.nii", "label": "b.nii", "image_id": 3}]),
        r"^\[MONAI\] .*train::dataset::data::0: the data key 'image_id' starts with 'image'",
    ),
    "number as text": (
        "train", lambda c: c["optimizer"].update(lr="1e-4"),
        r"^\[MONAI\] configs/train.json:\d+ optimizer::lr: '1e-4' is a text, not a number. Write it without quotation",
    ),
    "circle": (
        "train", lambda c: c.update(images="$[x for x in @labels]", labels="$list(@val_interval, @images)"),
        r"^\[MONAI\] configs/train.json:\d+ images: refers to itself in a circle: images -> labels -> images\. Give",
    ),
    "circle through a component": (
        "train", lambda c: c["train"]["dataset"].update(data="$list(@train#dataloader)"),
        r"train::dataloader: refers to itself in a circle: train::dataloader -> train::dataset -> "
        r"train::dataset::data -> train::dataloader\.",
    ),
    "itself": ("train", lambda c: c.update(val_interval="$@val_interval"), r"circle: val_interval -> val_interval\."),
    "edge of another variable": (
        "metadata", lambda c: c["network_data_format"]["inputs"]["image"].update(spatial_shape=["16*q", "2**p*n", "*"]),
        r"^\[MONAI\] configs/metadata.json:\d+ network_data_format::inputs::image::spatial_shape::0: '16\*q' is no "
        r"edge that MONAI can evaluate \(ValueError: Only variables `p` and `n`.*\{'q'\}\)\. Write a number, '\*'",
    ),
    "function of its own code": (
        "train", lambda c: c["loss"].clear() or c["loss"].update(_target_="scripts.pairs.paris"),
        r"loss::_target_: scripts.pairs does not define 'paris'",
    ),
    "module of its own code": (
        "train", lambda c: c["imports"].append("$from scripts.pair import x"),
        r"imports::3: the bundle's folder 'scripts' has no module 'scripts.pair'",
    ),
    "package not installed": (
        "train", lambda c: c["loss"].clear() or c["loss"].update(_target_="nowhere.Loss"),
        r"loss::_target_: the package 'nowhere' is not installed, and 'required_packages_version' does not name it",
    ),
    "personal path": (
        "train", lambda c: c.update(dataset_dir="/home/author/data"),
        r"^\[model zoo\] configs/train.json:\d+ dataset_dir: a path of somebody's own machine",
    ),
    "required property": (
        "inference", lambda c: c.pop("dataset_dir") and c.update(datalist=["x"]),
        r"^\[MONAI\] configs/inference.json dataset_dir: MONAI's required property 'dataset_dir' is missing here",
    ),
    "handlers in place": (
        "train", lambda c: c["train"].update(handlers="$[]"),
        r"train::handlers: str instead of a list: MONAI's check_properties stops with an error here",
    ),
    "old name of the packages": (
        "metadata", lambda c: c.update(optional_packages_version=c.pop("required_packages_version")),
        r"required_packages_version",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_planted_faults(bundle: Path, name: str) -> None:
    stem, edit, pattern = CASES[name]
    change(bundle, stem, edit)
    report = check_bundle(bundle, run=False)
    if name == "old name of the packages":  # the old key, and the new one that is missing
        assert len(report.problems) == 2
        assert all(re.search(pattern, problem.text()) for problem in report.problems)
    else:
        only(report, pattern)


def test_mappings_that_are_no_records_may_have_such_keys(bundle: Path) -> None:
    settings = "$print({'image_size': 3, 'label_id': 2}) or {'image': 1, 'image_meta_dict': {}}"
    change(bundle, "train", lambda c: c["initialize"].append(settings))
    # and without Spacingd they do no harm
    change(bundle, "inference", lambda c: c["dataset"].update(data="$[{'image': i, 'image_id': i} for i in @datalist]"))
    assert check_bundle(bundle, run=False).problems == []


def test_keys_that_nothing_reads_are_only_noted_unless_they_look_misspelt(bundle: Path) -> None:
    change(bundle, "inference", lambda c: c.update(my_tool=1))
    report = check_bundle(bundle, run=False)
    assert report.problems == []
    assert "nothing in configs/inference.json reads 'my_tool'" in report.notes
    change(bundle, "inference", lambda c: c.update(postprocesing=c.pop("postprocessing")))
    found = [problem.text() for problem in check_bundle(bundle, run=False).problems]
    assert len(found) == 1, found
    assert "postprocesing: nothing reads this key. Did you mean 'postprocessing'?" in found[0]


def test_a_misspelt_definition_is_one_problem(bundle: Path) -> None:
    def misspell(content: dict[str, Any]) -> None:
        content["learning_rte"] = 0.0001
        content["optimizer"]["lr"] = "@learning_rate"
        content["train"]["handlers"][1]["output_transform"] = "$lambda x: @learning_rate"

    change(bundle, "train", misspell)
    # what the override inherits is not told again either
    change(
        bundle,
        "evaluate",
        lambda c: c.update({"validate#handlers": [{"_target_": "StatsHandler", "name": "@learning_rate"}]}),
    )
    only(
        check_bundle(bundle, run=False),
        r"train.json:\d+ learning_rte: nothing reads this key. Did you mean 'learning_rat",
    )


@pytest.mark.parametrize(("section", "wrong", "right"), [(None, "trian", "train"), ("train", "trainr", "trainer")])
def test_a_misspelt_section_is_one_problem(bundle: Path, section: str | None, wrong: str, right: str) -> None:
    def misspell(content: dict[str, Any]) -> None:
        node = content[section] if section else content
        node[wrong] = node.pop(right)

    change(bundle, "train", misspell)
    only(check_bundle(bundle, run=False), rf"train.json:\d+ .*{wrong}: nothing reads this key. Did you mean '{right}'")


def test_what_a_macro_copies_is_told_once(bundle: Path) -> None:
    def misspell(content: dict[str, Any]) -> None:
        loading = content["train"]["deterministic_transforms"][0]
        loading["key"] = loading.pop("keys")

    change(bundle, "train", misspell)
    only(
        check_bundle(bundle, run=False), r"train::deterministic_transforms::0::key: LoadImaged .* Did you mean 'keys'\?"
    )


def test_a_misspelt_reference_is_one_problem(bundle: Path) -> None:
    # the other configuration knows the name as it is defined
    change(
        bundle,
        "inference",
        lambda c: c.update(patch_edges=[16, 16, 16]) or c["inferer"].update(roi_size="@patch_edges"),
    )
    change(
        bundle,
        "train",
        lambda c: c.update(patch_edges=[16, 16, 16]) or c["validate"]["inferer"].update(roi_size="@patch_edgs"),
    )
    only(
        check_bundle(bundle, run=False),
        r"train.json:\d+ validate::inferer::roi_size: refers to 'patch_edgs', .+\. Did you mean 'patch_edges'\?",
    )


def test_programs_under_a_misspelt_name_and_files_that_cannot_be_read_are_one_problem(bundle: Path) -> None:
    change(bundle, "inference", lambda c: c.update(runn=c.pop("run")))
    only(
        check_bundle(bundle, run=False),
        r"inference.json:\d+ runn: is run by nothing but '--run_id'. Did you mean 'run'",
    )
    change(bundle, "inference", lambda c: c.update(run=c.pop("runn")))
    (bundle / "configs/train.json").write_text("{")  # evaluate and multi_gpu_train are merged onto it
    only(check_bundle(bundle, run=False), r"^\[MONAI\] configs/train.json:1: not valid JSON")


def test_weights_that_are_shipped_need_a_licence(bundle: Path) -> None:
    (bundle / "docs/README.md").write_text("# Organ segmentation\n")
    assert "no word on the licence of the weights" in check_bundle(bundle, run=False).notes
    (bundle / "models").mkdir()
    torch.save({}, bundle / "models/model.pt")
    only(check_bundle(bundle, run=False), r"no word on the licence of the weights, and model.pt is shipped")


def unet() -> UNet:
    return UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=[4, 8, 16], strides=[2, 2])


@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_fit(bundle: Path, nested: bool) -> None:
    (bundle / "models").mkdir()
    state = unet().state_dict()
    torch.save({"model": state} if nested else state, bundle / "models/model.pt")
    torch.jit.save(torch.jit.script(unet()), bundle / "models/model.ts")
    assert check_bundle(bundle).problems == []


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (
            b"",
            r"^\[MONAI\] models/model.pt: cannot be loaded as weights: the file is empty \(.+\)\. Save network_def's",
        ),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"model.pt: .*: a pointer of git-lfs, whose file was not"),
        (b"x" * 99, r"model.pt: cannot be loaded as weights: a file that begins with b'xxxxxxxx' \("),
    ],
)
def test_weights_that_are_none(bundle: Path, content: bytes, pattern: str) -> None:
    (bundle / "models").mkdir()
    (bundle / "models/model.pt").write_bytes(content)
    only(check_bundle(bundle, run=False), pattern)
    only(check_bundle(bundle), pattern)  # told once
    (bundle / "models/model.pt").rename(bundle / "models/model.ts")
    only(check_bundle(bundle), r"^\[MONAI\] models/model.ts: no TorchScript, but .+ckpt_export")


def test_weights_that_execute_code_or_hold_something_else(bundle: Path) -> None:
    (bundle / "models").mkdir()
    torch.save(unet(), bundle / "models/model.pt")
    only(check_bundle(bundle, run=False), r"model.pt: cannot be loaded with weights_only=True \(.+\)\. It holds more")
    torch.save({"epoch": 3, "network": {}}, bundle / "models/model.pt")
    only(check_bundle(bundle, run=False), r"model.pt: holds dict of 'epoch', 'network', not a state dict nor one under")


def test_weights_of_another_network(bundle: Path) -> None:
    (bundle / "models").mkdir()
    state = unet().state_dict()
    first, second = list(state)[:2]
    state["extra"] = state.pop(first)
    state[second] = torch.zeros(7)
    torch.save(state, bundle / "models/model.pt")
    assert check_bundle(bundle, run=False).problems == []
    only(
        check_bundle(bundle),
        rf"^\[MONAI\] models/model.pt: does not fit network_def of configs/inference.json: lacks {re.escape(first)}; "
        rf"holds unknown extra; has other shapes: {re.escape(second)} \(7,\) instead of \(4,\)\. Ship the weights of",
    )
    other = UNet(spatial_dims=3, in_channels=1, out_channels=3, channels=[4, 8, 16], strides=[2, 2])
    torch.jit.save(torch.jit.script(other), bundle / "models/model.ts")
    (bundle / "models/model.pt").unlink()
    only(check_bundle(bundle), r"models/model.ts: does not fit network_def of configs/inference.json: has other shapes")


def test_large_weights_are_noted(bundle: Path) -> None:
    (bundle / "models").mkdir()
    with (bundle / "models/other.pt").open("wb") as stream:
        stream.truncate(30 * 2**20)
    report = check_bundle(bundle, run=False)
    assert report.problems == []
    assert (
        "models/other.pt: 30 MiB, over the model zoo's 25 MiB; for the zoo, name it in large_files.yml and leave it out"
        in report.notes
    )


def test_an_edge_of_another_variable_is_told_once_where_the_network_would_be_run(bundle: Path) -> None:
    change(bundle, "metadata", lambda c: c["network_data_format"]["inputs"]["image"].update(spatial_shape=["16*q"] * 3))
    report = check_bundle(bundle)
    places = [problem.key.rpartition("::")[2] for problem in report.problems]
    assert places == ["0", "1", "2"]
    assert any(note.startswith("network not checked: its spatial_shape cannot be evaluated") for note in report.notes)


def test_a_file_of_names_is_no_configuration(bundle: Path) -> None:
    (bundle / "configs/names.json").write_text('{"organ": "@home", "x": "a #1"}')
    assert check_bundle(bundle, run=False).problems == []


@pytest.mark.parametrize(
    ("name", "text"), [("colors.json", "[[1, 2, 3], [4, 5, 6]]"), ("table.yaml", "- a\n- b\n"), ("empty.yaml", "")]
)
def test_a_list_beside_the_configurations_is_none(bundle: Path, name: str, text: str) -> None:
    (bundle / "configs" / name).write_text(text)
    assert check_bundle(bundle, run=False).problems == []


def test_network_that_is_not_as_the_metadata_say(bundle: Path) -> None:
    change(bundle, "inference", lambda c: c["network_def"].update(out_channels=3))
    only(check_bundle(bundle), r"network_def: verify_net_in_out: ValueError: output channel number `3` doesn't match")


NETS = '''import torch


class Traced(torch.nn.Module):
    """Cannot be scripted, because of *args."""

    def __init__(self, out_channels):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, out_channels, 1)

    def forward(self, x, *args):
        return self.conv(x)


class Neither(Traced):
    """Nor traced: what it does depends on the batch."""

    def forward(self, x, *args):
        return self.conv(x) * (2.0 if len(x) > 1 else 1.0)


class Pair(Traced):
    def forward(self, x, *args):
        return Both(self.conv(x))


class Both(tuple):
    shape, dtype = (1, 2), torch.float32

    def __new__(cls, x):
        return super().__new__(cls, (x, x))
'''


@pytest.mark.parametrize(
    ("net", "pattern"),
    [
        ("Traced", None),
        (
            "Neither",
            r"network_def: no export as TorchScript: script fails \(.+\); trace fails \(AssertionError: Tensor-lik",
        ),
        ("Pair", r"network_def: gives Both, not one tensor"),
    ],
)
def test_export_of_a_network_in_the_bundles_own_code(bundle: Path, net: str, pattern: str | None) -> None:
    (bundle / "scripts/nets.py").write_text(NETS)
    own = {"_target_": f"scripts.nets.{net}", "out_channels": 2}
    change(bundle, "inference", lambda c: c.update(network_def=own))
    report = check_bundle(bundle)
    if pattern is None:
        assert report.problems == []
        assert "TorchScript: trace" in report.notes
    else:
        only(report, pattern)


LOSSES = """import functools
from dataclasses import dataclass

import torch


class Base(torch.nn.Module):
    def __init__(self, weight, /, margin, scale=1.0, *, power, eps=1e-5):
        super().__init__()


class Plain:
    def __init__(self, margin, scale=1.0, *, power):
        pass


class Derived(Plain):
    factor = 2


class Module(torch.nn.Module):
    pass


class Open(Plain):
    def __init__(self, margin, *args, **kwargs):
        super().__init__(margin, **kwargs)


@dataclass
class Data:
    margin: float


class Empty:
    pass


def function(margin, power=2):
    return margin


@functools.wraps(function)
def wrapped(*args):
    return function(*args)
"""


@pytest.mark.parametrize(
    ("target", "arguments", "patterns"),
    [
        ("Derived", {"margin": 1, "power": 2}, []),
        (
            "Derived",
            {"margin": 1, "powr": 2},
            [r"loss::powr: .*Derived takes no argument 'powr'. Did you mean 'power'\?"],
        ),
        (
            "Derived",
            {"scale": 1, "zzzzz": 2},
            [
                r"loss::zzzzz: scripts.losses.Derived takes no argument 'zzzzz'. It takes: margin, scale, power",
                r"loss: scripts.losses.Derived needs the argument 'margin'. Give it",
                r"loss: scripts.losses.Derived needs the argument 'power'",
            ],
        ),
        ("Plain", {"margin": 1, "power": 2, "scael": 3}, [r"no argument 'scael'. Did you mean 'scale'\?"]),
        ("Base", {"margin": 1, "power": 2}, [r"needs the argument 'weight'. It takes it by position only"]),
        ("Module", {"anything": 1}, []),  # what torch's class takes is not in this file
        ("Open", {"margin": 1, "anything": 2}, []),
        ("Open", {"anything": 2}, [r"scripts.losses.Open needs the argument 'margin'"]),
        ("Data", {"margin": 1}, []),
        ("Empty", {"margin": 1}, [r"Empty takes no argument 'margin'. It takes: nothing"]),
        (
            "function",
            {"_mode_": "callable", "powre": 1},
            [r"function takes no argument 'powre'. Did you mean 'power'\?"],
        ),
        ("wrapped", {"zzz": 1}, []),
    ],
)
def test_arguments_of_the_bundles_own_code(
    bundle: Path, target: str, arguments: dict[str, Any], patterns: list[str]
) -> None:
    (bundle / "scripts/losses.py").write_text(LOSSES)
    change(bundle, "train", lambda c: c.update(loss={"_target_": f"scripts.losses.{target}", **arguments}))
    found = [problem.text() for problem in check_bundle(bundle, run=False).problems]
    assert len(found) == len(patterns), found
    for pattern, text in zip(patterns, found):
        assert re.search(pattern, text), text


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for case in range(2):
            volume = random.integers(0, 2, (20, 20, 20)).astype(np.float32 if kind == "images" else np.uint8)
            nibabel.Nifti1Image(volume, np.eye(4)).to_filename(tmp_path / "data" / kind / f"{case}.nii.gz")
    return tmp_path / "data"


def test_objects_are_built_on_the_users_data(bundle: Path, images: Path) -> None:
    before = files(bundle)
    report = check_bundle(bundle, data=images)
    assert report.problems == []
    assert not any(note.startswith("properties checked by their ids") for note in report.notes)
    assert files(bundle) == before
    # found only when the optimiser is built, in the stage that builds it
    change(bundle, "train", lambda c: c["optimizer"].update(lr=-1.0))
    found = [problem.text() for problem in check_bundle(bundle, data=images).problems]
    assert found
    assert all(re.search(r"(train|evaluate).json: cannot be built \(ValueError: Invalid learning rate: -1.0\)", text)
               for text in found), found  # fmt: skip
    assert any("configs/train.json" in text for text in found)
