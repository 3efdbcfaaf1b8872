"""The bundle check on copies of the shipped bundle, each damaged in one place: that fault is found, and no other."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.apps.bundle_check import BundleReport, Problem, check_bundle, overlay_problems
from medssl_monai.core import bundle_dir

NAME = "srcl_skin_lesion_classification"
Edit = Callable[[Path], None]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("models", "eval", "__pycache__")
    folder = Path(shutil.copytree(bundle_dir(NAME), tmp_path / NAME, ignore=ignored))
    # one version for good, so that the tests stay as they are when the bundle's rises
    text = re.sub(r'"version": "[^"]+"', '"version": "0.1.0"', (folder / META).read_text(), count=1)
    text = re.sub(r'"changelog": \{[^}]*\}', '"changelog": {"0.1.0": "first version"}', text, count=1)
    (folder / META).write_text(text)
    return folder


def read_only(folder: Path) -> BundleReport:
    return check_bundle(folder, run=False)


def replaced(name: str, old: str, new: str) -> Edit:
    def edit(bundle: Path) -> None:
        text = (bundle / name).read_text()
        assert old in text, f"the test no longer fits {name}"
        (bundle / name).write_text(text.replace(old, new, 1))

    return edit


def appended(name: str, text: str) -> Edit:
    def edit(bundle: Path) -> None:
        with (bundle / name).open("a") as stream:
            stream.write(text)

    return edit


def removed(name: str) -> Edit:
    return lambda bundle: (bundle / name).unlink()


def written(name: str, text: str) -> Edit:
    def edit(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_text(text)

    return edit


def both(first: Edit, second: Edit) -> Edit:
    def edit(bundle: Path) -> None:
        first(bundle)
        second(bundle)

    return edit


def metadata(**changes: Any) -> Edit:
    """Set keys of the metadata; ``None`` removes one."""

    def edit(bundle: Path) -> None:
        path = bundle / "configs/metadata.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}, indent=1))

    return edit


def tensor(side: str, name: str, **changes: Any) -> Edit:
    def edit(bundle: Path) -> None:
        path = bundle / "configs/metadata.json"
        content = json.loads(path.read_text())
        entry = content["network_data_format"][side][name]
        entry.update(changes)
        content["network_data_format"][side][name] = {k: v for k, v in entry.items() if v is not None}
        path.write_text(json.dumps(content))

    return edit


def test_silent_on_the_shipped_bundle(copy: Path) -> None:
    report = read_only(copy)
    assert report.problems == []
    assert report.house
    assert report.lines() == [
        f"{NAME} {report.version}: no problems; skipped: MONAI's metadata schema (not given); "
        "nothing was built: --no-run"
    ]


TRAIN, EVALUATE, INFERENCE, STUDY = (f"configs/{s}.yaml" for s in ("train", "evaluate", "inference", "study"))
META, README = "configs/metadata.json", "docs/README.md"
UNREAD = r"nothing reads this key"

#: a name, how the copy is damaged, and a pattern for each problem that must be found, no more and no fewer
FAULTS: list[tuple[str, Edit, list[str]]] = [
    # files
    ("no licence file", removed("LICENSE"), [r"^\[MONAI\] LICENSE: the file is missing"]),
    ("empty licence file", written("LICENSE", ""), [r"^\[MONAI\] LICENSE: the file is empty"]),
    ("no README", removed(README), [r"^\[model zoo\] docs/README.md: the file is missing"]),
    ("no study", removed(STUDY), [r"^\[house\] configs/study.yaml: the file is missing"]),
    ("no logging", removed("configs/logging.conf"), [r"^\[house\] configs/logging.conf: the file is missing"]),
    ("no data licence", removed("docs/data_license.txt"), [r"^\[house\] docs/data_license.txt: the file is missing"]),
    ("empty section", replaced(README, "## Commands\n", "## Commands\n\n## More\n"), [
        r"^\[house\] docs/README.md ## Commands: the section 'Commands' is missing or empty",
    ]),
    ("code in the bundle", written("scripts/net.py", ""), [r"^\[house\] scripts: a folder of code"]),
    ("weights unlicensed", both(metadata(license="Apache-2.0"), replaced(README, "- Weights: none are shipped. "
                                "Published backbone weights have", "- Published ones have")), [
        r"^\[house\] docs/README.md ## Licences: no word on the licence of the weights. Say under a heading",
    ]),
    # metadata
    ("metadata not JSON", replaced(META, '"version": "0.1.0",', '"version": "0.1.0"'), [
        r"^\[MONAI\] configs/metadata.json:4: not valid JSON: Expecting ',' delimiter \(column 5\)",
    ]),
    ("required key missing", metadata(copyright=None), [
        r"^\[MONAI\] configs/metadata.json copyright: the required key is missing. Add it: a text",
    ]),
    ("key misspelt", metadata(copyright=None, copyrigth="x"), [
        r"copyright: the required key is missing",
        r"metadata.json:\d+ copyrigth: unknown key; 'copyright' is missing. Did you mean 'copyright'\?",
    ]),
    ("authors as list", metadata(authors=["A"]), [r"\[MONAI\] .*authors: is of type list. The schema wants a text"]),
    ("references as text", metadata(references="x"), [r"references: is of type str. The schema wants a list"]),
    ("reference no text", metadata(references=["x", 1]), [r"references: holds something else than texts"]),
    ("supported_apps as list", metadata(supported_apps=[]), [r"supported_apps: is of type list. .* an object"]),
    ("old package key", metadata(optional_packages_version={}), [
        r"optional_packages_version: an old name. Rename it to 'required_packages_version'",
    ]),
    ("no intended use", metadata(intended_use=""), [r"^\[house\] .* intended_use: the key is missing or empty"]),
    ("no name", metadata(name=None), [r"^\[model zoo\] configs/metadata.json name: the key is missing or empty"]),
    ("tensor without dtype", tensor("inputs", "image", dtype=None), [
        r"network_data_format::inputs::image::dtype: the required key is missing",
    ]),
    ("channels as text", tensor("inputs", "image", num_channels="3"), [
        r"inputs::image::num_channels: is of type str. The schema wants a whole number",
    ]),
    ("channel names", tensor("outputs", "pred", channel_def={"0": "a"}), [
        r"outputs::pred::channel_def: names 1 channels, but num_channels is 7",
    ]),
    ("tensor's key misspelt", tensor("inputs", "image", is_patch_data=None, is_patchdata=False), [
        r"inputs::image::is_patchdata: unknown key. Did you mean 'is_patch_data'\?",
    ]),
    ("package misspelt", metadata(required_packages_version={"medssl-moai": "0.1.0"}), [
        r"^\[model zoo\] .*required_packages_version: does not name medssl-monai, whose classes the configurations use",
    ]),
    ("version without changelog", metadata(version="0.1.1"), [
        r"^\[model zoo\] configs/metadata.json:\d+ changelog: no entry for version 0.1.1",
    ]),
    ("changelog ahead", metadata(changelog={"0.1.0": "first", "0.10.0": "next"}), [
        r"version: is 0.1.0, but the changelog has an entry for 0.10.0",
    ]),
    ("empty changelog entry", metadata(changelog={"0.1.0": " "}), [r"changelog::0.1.0: the entry says nothing"]),
    ("version no number", metadata(version="first", changelog={"0.1.0": "a", "first": "b"}), [
        r"changelog::first: not a version number", r" version: 'first' is not a version number",
    ]),
    ("other package version", metadata(required_packages_version={"medssl_monai": "9.0"}), [
        r"^\[house\] .*required_packages_version.*: requires medssl-monai 9.0, but .* is installed",
    ]),
    # the files as such
    ("YAML broken", replaced(EVALUATE, "seed: 0  # of", "seed: [0  # of"), [
        r"^\[MONAI\] configs/evaluate.yaml:\d+: not valid YAML: ",
    ]),
    ("YAML key twice", appended(EVALUATE, "dropout: 0.3\n"), [
        r"configs/evaluate.yaml:\d+ dropout: the key stands twice \(first in line \d+\); MONAI takes the last",
    ]),
    ("JSON key twice", replaced(META, '"version": "0.1.0",', '"version": "0.1.0",\n"task": "x",'), [
        r"configs/metadata.json:\d+ task: the key stands twice \(first in line 4\)",
    ]),
    ("list instead of mapping", written(INFERENCE, "- 1\n"), [
        r"^\[MONAI\] configs/inference.yaml: holds list where keys and values are expected",
    ]),
    ("1e-4", replaced(TRAIN, "weight_decay: 0.0005", "weight_decay: 5e-4"), [
        r"configs/train.yaml:\d+ weight_decay: YAML reads 5e-4 as text, not as a number. Write the point",
    ]),
    ("1e-4 in quotation marks", replaced(TRAIN, "weight_decay: 0.0005", "weight_decay: '5e-4'"), [
        r"configs/train.yaml:\d+ weight_decay: '5e-4' is a text, not a number. Write it without quotation marks",
    ]),
    # traps
    ("hash in a text", replaced(TRAIN, "stage: train\n", "stage: 'train #1'\n"), [
        r"^\[MONAI\] configs/train.yaml:\d+ settings::stage: '#' in 'train #1' is rewritten to '::'",
    ]),
    ("hash in an expression", replaced(TRAIN, "'/tensorboard'", "'/tensorboard#1'"), [
        r"tensorboard_dir: '#' in .* is rewritten to '::'",
    ]),
    ("hash as separator", replaced(TRAIN, '"@train::inferer"', '"@train#inferer"'), [
        r"^\[house\] configs/train.yaml:\d+ validate::inferer: '#' as separator in '@train#inferer'. Write '::'",
    ]),
    ("import of a module path", replaced(EVALUATE, '"$import torch"', '"$import torch"\n  - "$import os.path"'), [
        r"imports::1: '\$import os.path' binds nothing .* Write '\$from os import path', or give it a name by 'as'",
    ]),
    ("import of two names", replaced(TRAIN, "import seed_torch", "import hash_case, seed_torch"), [
        r"imports::\d+: .* binds 'hash_case' only: MONAI reads the first name of an import. Write one line a name",
        r"initialize::\d: .* uses 'seed_torch', which nothing binds",
    ]),
    ("import without $", replaced(TRAIN, '"$import torch"', '"$import torch"\n  - import json'), [
        r"imports::1: 'import json' has no '\$', so nothing is imported. Write '\$import json'",
    ]),
    ("import misspelt", replaced(TRAIN, "import seed_torch", "import sed_torch as seed_torch"), [
        r"imports::\d+: medssl_monai.core has no 'sed_torch'. Did you mean 'seed_torch'\?",
    ]),
    ("import of a missing module", replaced(TRAIN, '"$import torch"', '"$import torch.nnn as torch"'), [
        r"imports::0: 'torch.nnn' cannot be imported \(ModuleNotFoundError: No module named 'torch.nnn'\)",
    ]),
    ("import of a missing package", replaced(TRAIN, '"$import torch"', '"$import torch"\n  - "$import nowhere"'), [
        r"imports::1: the package 'nowhere' is not installed, and 'required_packages_version' does not name it",
    ]),
    ("_imports_", replaced(INFERENCE, "# --- inference", "_imports_: []\n# --- inference"), [
        r"inference.yaml:\d+ _imports_: MONAI has no key '_imports_': nothing is imported. Name the list 'imports'",
    ]),
    ("data key", replaced(TRAIN, "names: [view1, view2]", "names: [image_view1, view2]"), [
        r"^\[house\] .*transforms::2::names: the data key 'image_view1' starts with 'image' and '_', .* 'view1_image'",
    ]),
    ("absolute path", replaced(TRAIN, "\"$@bundle_root + '/data'\"", "/data/lesions"), [
        r"^\[house\] configs/train.yaml:\d+ dataset_dir: an absolute path \('/data/lesions'\)",
    ]),
    ("absolute path in an expression", replaced(TRAIN, "$@bundle_root + '/data'", "$'/mnt/lesions' + '/data'"), [
        r"^\[house\] configs/train.yaml:\d+ dataset_dir: an absolute path",
    ]),
    ("personal path", replaced(TRAIN, "\"$@bundle_root + '/data'\"", "/home/me/lesions"), [
        r"^\[model zoo\] configs/train.yaml:\d+ dataset_dir: a path of somebody's own machine",
    ]),
    ("handler by reference", replaced(TRAIN, "    - _target_: medssl_monai.handlers.RunEstimate", '    - "@teacher"'), [
        r"train::handlers::0: '@teacher' is no component: MONAI's check_properties stops with an error here",
    ]),
    ("property elsewhere", replaced(TRAIN, '      interval: "@val_interval"', '      interval: "@seed"'), [
        r"train::handlers::2::interval: is '@seed', but MONAI looks for its property 'val_interval' under",
    ]),
    ("property in place", replaced(TRAIN, '      interval: "@val_interval"', "      interval: 1"), [
        r"train::handlers::2::interval: the value stands here itself, .* Define it as 'val_interval'",
    ]),
    ("no run", replaced(INFERENCE, 'run:\n  - "$@evaluator.run()"', ""), [
        r"^\[model zoo\] configs/inference.yaml run: the key is missing",
    ]),
    ("logging", replaced("configs/logging.conf", "class=StreamHandler", "class=FileHandler"), []),
    ("logging executes", replaced("configs/logging.conf", "class=StreamHandler", "class=eval"), [
        r"^\[MONAI\] configs/logging.conf: section \[handler_console\] sets class='eval', which does not name",
    ]),
    # references and keys
    ("reference misspelt", replaced(TRAIN, 'temperature: "@temperature"\n    s', 'temperature: "@tempeature"\n    s'), [
        r"train::trainer::temperature: refers to 'tempeature', which does not exist. Did you mean 'temperature'\?",
    ]),
    ("reference into a section", replaced(TRAIN, '"@train::inferer"', '"@train::infrer"'), [
        r"validate::inferer: refers to 'train::infrer', which does not exist. Did you mean 'inferer'\?",
    ]),
    ("reference to nothing alike", replaced(TRAIN, '"@operating_rule"\n    -', '"@zzz"\n    -'), [
        r"::rule: refers to 'zzz', which does not exist. Define it, or take the reference out",
    ]),
    ("lone @", replaced(TRAIN, '"$@lr_warmup * @max_epochs"', '"$@lr_warmup @ 2"'), [
        r"warmup_epochs: a lone '@' in .* refers to the whole configuration. Use torch.matmul",
    ]),
    ("relative reference", replaced(TRAIN, '"@train::inferer"', '"@::::::inferer"'), [
        r"validate::inferer: the relative id in .* is out of the range",
    ]),
    ("macro", replaced(TRAIN, '"@train::inferer"', '"%train::infrer"'), [
        r"validate::inferer: copies 'train::infrer', which does not exist. Did you mean 'inferer'\?",
    ]),
    ("macro from a file", replaced(TRAIN, '"@train::inferer"', '"%configs/no.yaml::x"'), [
        r"validate::inferer: copies from configs/no.yaml, which does not exist",
    ]),
    ("key misspelt at the top", replaced(TRAIN, "val_interval: 1", "val_intervall: 1"), [
        r"train.yaml:\d+ val_intervall: nothing reads this key. Did you mean 'val_interval'\?",
    ]),
    ("key misspelt in a section", replaced(EVALUATE, "inferer:\n", "inferrer:\n"), [
        r"evaluate.yaml:\d+ inferrer: nothing reads this key. Did you mean 'inferer'\?",
    ]),
    ("key nothing reads", appended(TRAIN, "lonely: 1\n"), [
        r"^\[house\] configs/train.yaml:\d+ lonely: nothing reads this key. Remove it, or refer to it",
    ]),
    ("key nothing reads in a section", replaced(TRAIN, "validate:\n", "validate:\n  lonely: 1\n"), [
        r"^\[house\] configs/train.yaml:\d+ validate::lonely: nothing reads this key",
    ]),
    ("vocabulary", replaced(EVALUATE, "resume: false\n", ""), [
        r"^\[house\] configs/evaluate.yaml resume: this key of the shared vocabulary is missing",
    ]),
    # expressions
    ("expression broken", replaced(TRAIN, '"$@lr_warmup * @max_epochs"', '"$@lr_warmup * (@max_epochs"'), [
        r"lr_scheduler::warmup_epochs: .* is not a Python expression \('\(' was never closed\)",
    ]),
    ("statement", replaced(TRAIN, '"$@lr_warmup * @max_epochs"', '"$x = @lr_warmup * @max_epochs"'), [
        r"warmup_epochs: .* is a statement; MONAI evaluates one expression",
    ]),
    ("name unbound", replaced(TRAIN, "$len(@labels)", "$math.ceil(len(@labels))"), [
        r"network_def::num_classes: .* uses 'math', which nothing binds. Import it under 'imports' \('\$import math'",
    ]),
    ("attribute of a module", replaced(INFERENCE, "torch.cuda.is_available()", "torch.cuda.is_availble()"), [
        r"inference.yaml:\d+ device: torch.cuda has no 'is_availble'. Did you mean 'is_available'\?",
    ]),
    # components
    ("short target misspelt", replaced(TRAIN, "_target_: Resized", "_target_: Resizd"), [
        r"resizing::transforms::2::_target_: MONAI has no 'Resizd', .* Did you mean 'Resized'\?",
    ]),
    ("short target of ours", replaced(TRAIN, "medssl_monai.losses.class_weights", "class_weights"), [
        r"class_weights::_target_: MONAI has no 'class_weights', and only its names may be short. Write the full path",
    ]),
    ("target misspelt", replaced(TRAIN, "engines.MeanTeacherTrainer", "engines.MeanTeachrTrainer"), [
        r"train::trainer::_target_: medssl_monai.engines.MeanTeachrTrainer does not exist. "
        r"Did you mean 'medssl_monai.engines.MeanTeacherTrainer'\?",
    ]),
    ("foreign target", replaced(INFERENCE, "postprocessing:\n  _target_: Compose\n",
                                "postprocessing:\n  _target_: shutil.copy\n"), [
        r"^\[house\] .*postprocessing::_target_: shutil.copy is neither ours nor of MONAI",
        r"postprocessing::transforms: shutil.copy takes no argument 'transforms'. It takes: src, dst, follow_symlinks",
        r"postprocessing: shutil.copy needs the argument 'src'", r"shutil.copy needs the argument 'dst'",
    ]),
    ("target no text", replaced(TRAIN, "_target_: Resized", "_target_: 3"), [r"_target_: is 3, not a name"]),
    ("argument misspelt", replaced(TRAIN, "      spatial_size: \"$[@image_size, @image_size]\"\n      mode",
                                   "      spatial_sise: \"$[@image_size, @image_size]\"\n      mode"), [
        r"resizing::transforms::2::spatial_sise: Resized takes no argument 'spatial_sise'. Did you mean 'sp",
    ]),
    ("required argument misspelt, others passed on", replaced(TRAIN, "_target_: LoadImaged\n      keys:",
                                                              "_target_: LoadImaged\n      key:"), [
        r"LoadImaged has no argument 'key' of its own. Did you mean 'keys'\?",
    ]),
    ("argument misspelt that is passed on", replaced(TRAIN, "num_workers: \"@num_workers\"", "num_worker: 0"), [
        r"train::dataloader::num_worker: DataLoader has no argument 'num_worker' of its own. Did you mean 'num_w",
    ]),
    ("argument missing", replaced(TRAIN, "  student: \"@network\"\n", ""), [
        r"teacher: medssl_monai.handlers.EMATeacher needs the argument 'student'. Give it",
    ]),
    ("mode", replaced(TRAIN, "_target_: Resized", "_target_: Resized\n      _mode_: partial"), [
        r"resizing::transforms::2::_mode_: MONAI has no mode 'partial' .* Write 'callable'",
    ]),
    ("debug mode", replaced(TRAIN, "_target_: Resized", "_target_: Resized\n      _mode_: debug"), [
        r"resizing::transforms::2::_mode_: stops in the debugger",
    ]),
    ("special key misspelt", replaced(TRAIN, "_disabled_:", "_disable_:"), [
        r"teacher::_disable_: unknown key '_disable_'. Did you mean '_disabled_'\?",
    ]),
    # one fault, one problem
    ("vocabulary misspelt", replaced(EVALUATE, "resume: false\n", "resum: false\n"), [
        r"evaluate.yaml:\d+ resum: nothing reads this key. Did you mean 'resume'\?",
    ]),
    ("key misspelt that the study overrides", replaced(TRAIN, "regime:", "regim:"), [
        r"train.yaml:\d+ regim: nothing reads this key. Did you mean 'regime'\?",
    ]),
    ("stage that cannot be read", replaced(TRAIN, "seed: 0", "seed: [0"), [
        r"^\[MONAI\] configs/train.yaml:\d+: not valid YAML",
    ]),
    # study
    ("baseline", replaced(STUDY, "baseline_arm: supervised", "baseline_arm: supervized"), [
        r"^\[house\] configs/study.yaml:\d+ baseline_arm: 'supervized' is not an arm. Did you mean 'supervised'\?",
    ]),
    ("baseline twice", replaced(STUDY, "primary_arm: srcl", "primary_arm: supervised"), [
        r"primary_arm: is the baseline itself",
    ]),
    ("metric", replaced(STUDY, "primary_metric: macro_auroc", "primary_metric: macro_auc"), [
        r"primary_metric: 'macro_auc' is no figure that studies of classifiers compute. Did you mean 'macro_auroc'\?",
    ]),
    ("no metric", replaced(STUDY, "primary_metric: macro_auroc", ""), [r"primary_metric: the key is missing"]),
    ("study key", appended(STUDY, "primary_arms: srcl\n"), [
        r"primary_arms: unknown key. Did you mean 'primary_arm'\?",
    ]),
    ("stage", replaced(STUDY, "[pretrain, train, evaluate]", "[pretrian, train, evaluate]"), [
        r"arms::srcl::stages: there is no stage 'pretrian'. Did you mean 'pretrain'\?",
    ]),
    ("not measured", replaced(STUDY, "[pretrain, train, evaluate]", "[pretrain, train]"), [
        r"arms::srcl::stages: ends with 'train', so nothing is measured",
    ]),
    ("override", replaced(STUDY, "overrides: {regime: srcl}", "overrides: {regim: srcl}"), [
        r"arms::srcl::overrides::regim: no stage of the arm reads this key. Did you mean 'regime'\?",
    ]),
    ("nested override", replaced(STUDY, "overrides: {regime: srcl}", "overrides: {'optimizer::lrr': 1}"), [
        r"arms::srcl::overrides::optimizer::lrr: no stage of the arm reads this key",
    ]),
    ("arm key", replaced(STUDY, "overrides: {regime: srcl}", "override: {regime: srcl}"), [
        r"arms::srcl::override: unknown key. Did you mean 'overrides'\?",
    ]),
    ("protocol", replaced(STUDY, "protocols: []", "protocols: [knn, linear_prob]"), [
        r"arms::supervised::protocols: no protocol is called 'linear_prob'. Did you mean 'linear_probe'\?",
    ]),
    ("protocol of another kind", replaced(STUDY, "protocols: []", "protocols: [finetune]"), [
        r"arms::supervised::protocols: no protocol is called 'finetune'. Fine-tuning trains the encoder",
    ]),
    ("protocols", replaced(STUDY, "protocols: []", "protocols: knn"), [
        r"arms::supervised::protocols: is 'knn', no list. Write \[knn\]",
    ]),
    ("nothing to judge", replaced(STUDY, "stages: [train, evaluate]", "stages: []"), [
        r"arms::supervised: has no list of stages. .*or protocols that judge the encoder as it starts",
    ]),
    ("shared", replaced(STUDY, "protocols: []", "shared_pretrain: true"), [
        r"arms::supervised::shared_pretrain: is True with stages \['train', 'evaluate'\]",
    ]),
    ("metric of a protocol", replaced(STUDY, "primary_metric: macro_auroc", "primary_metric: knn/macro_auroc"), [
        r"primary_metric: 'knn/macro_auroc' is not computed for the baseline_arm. Name 'knn' among its protocols",
        r"primary_metric: 'knn/macro_auroc' is not computed for the primary_arm",
    ]),
    ("misspelt metric", replaced(STUDY, "primary_metric: macro_auroc", "primary_metric: knn/macro_auc"), [
        r"primary_metric: 'knn/macro_auc' is no figure .*Did you mean 'knn/macro_auroc'\?",
    ]),
    ("no arms", written(STUDY, "arms: {}\n"), [r"arms: no arms. Name them"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def intact() -> list[Problem]:
    """What is wrong with the shipped bundle itself; a fault must come on top of it."""
    return read_only(bundle_dir(NAME)).problems


@pytest.mark.parametrize(("edit", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_planted_fault_is_found_and_no_other(
    copy: Path, intact: list[Problem], edit: Edit, expected: list[str]
) -> None:
    known = {(problem.file, problem.key, problem.what) for problem in intact}
    edit(copy)
    found = [p.text() for p in read_only(copy).problems if (p.file, p.key, p.what) not in known]
    for pattern in expected:
        assert sum(bool(re.search(pattern, text)) for text in found) == 1, (pattern, found)
    assert len(found) == len(expected), found


def test_arms_that_protocols_judge_have_no_fault(copy: Path, intact: list[Problem]) -> None:
    text = (copy / STUDY).read_text()
    more = """  random:
    stages: []
    overrides: {backbone: resnet18}
    protocols: [knn, linear_probe, linear_svm]
  frozen:
    stages: [pretrain]
    overrides: {temperature: 0.2}
    protocols: [knn]
    shared_pretrain: true
"""
    (copy / STUDY).write_text(text.rstrip() + "\n" + more)
    assert [p.text() for p in read_only(copy).problems] == [p.text() for p in intact]


def test_missing_metadata_leaves_the_rest_checked(copy: Path) -> None:
    (copy / META).unlink()
    replaced(TRAIN, "_target_: Resized", "_target_: Resizd")(copy)
    report = read_only(copy)
    assert report.house, "told by the package's name in the configurations"
    assert [problem.file for problem in report.problems] == [META, TRAIN]


def test_all_faults_of_a_bundle_are_listed(copy: Path) -> None:
    for edit in (removed("LICENSE"), metadata(authors=1), replaced(TRAIN, "Resized", "Resizd"),
                 replaced(STUDY, "macro_auroc", "x")):  # fmt: skip
        edit(copy)
    assert {problem.file for problem in read_only(copy).problems} == {"LICENSE", META, TRAIN, STUDY}


def test_name_of_the_folder(copy: Path) -> None:
    problems = read_only(copy.rename(copy.with_name("skin"))).problems
    assert [p.what for p in problems] == ["the folder's name 'skin' does not end in _classification or _segmentation"]


def test_large_file(copy: Path) -> None:
    with (copy / "docs/film.gif").open("wb") as stream:
        stream.truncate(30 * 2**20)
    (problem,) = read_only(copy).problems
    assert problem.text().startswith("[model zoo] docs/film.gif: 30 MiB, over the model zoo's 25 MiB.")


def test_overlays_set_the_vocabulary_only(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "small.yaml").write_text("seed: 1\nimage_sise: 32\n")
    (tmp_path / "data/mine.yaml").write_text("labels: [a]\n")
    assert [(p.file, p.line, p.key, p.advice) for p in overlay_problems(tmp_path)] == [
        ("data/mine.yaml", 1, "labels", "Overlays set the vocabulary's keys only."),
        ("small.yaml", 2, "image_sise", "Did you mean 'image_size'?"),
    ]


def test_a_check_that_fails_becomes_a_problem(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(bundle: object) -> list[Problem]:
        raise RuntimeError("the check is broken")

    monkeypatch.setattr("medssl_monai.apps.bundle_check.check.study_problems", broken)
    (problem,) = read_only(copy).problems
    assert problem.text().startswith("[MONAI] .: the check of study stopped (RuntimeError: the check is broken).")
