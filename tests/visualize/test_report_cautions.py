"""Cautions: each appears where its cause is there, is absent where it is not, and is said once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_folders import CLASSES, edit, make_run, make_study, study_content

from medssl_monai.visualize.report.cautions import run_cautions, study_cautions
from medssl_monai.visualize.report.sources import Run, Study, read_run, read_study

RARE = (
    "Fewer than 10 subjects with, or without, the class: rare (3 of 60); no interval is given for these classes, "
    "and means over classes rest on them too."
)
ONE_SEED = (
    "One run with one seed: how much the figures depend on chance in training is not known. A study with several seeds "
    "tells."
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("cautions") / "run", skill=3.0)


@pytest.fixture
def folder(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "run"))


def test_a_sound_run_has_only_what_is_true_of_it(clean: Path) -> None:
    assert run_cautions(read_run(clean)) == [RARE, ONE_SEED]
    assert run_cautions(read_run(clean), alone=False) == [RARE]


def features(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = folder / "eval" / "features.npz"
    with np.load(path) as stored:
        content = dict(stored)
    np.savez(path, **{**content, "embeddings": change(content["embeddings"]).astype(np.float32)})


def metrics(folder: Path, **changes: Any) -> None:
    edit(folder / "eval" / "metrics.json", **changes)


def budget(folder: Path, **changes: Any) -> None:
    edit(folder / "models" / "budget.json", **changes)


def watched(folder: Path, *flags: float | None) -> None:
    rows = [{"epoch": k, "loss": 1.0, "seconds": 1.0, "embedding_collapsed": flag} for k, flag in enumerate(flags, 1)]
    (folder / "models" / "pretrain_history.json").write_text(json.dumps(rows))


def add_warning(folder: Path, *words: str) -> None:
    metrics(folder, warnings=list(words))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: features(f, lambda z: np.ones_like(z) + 1e-6 * z), "collapse"),
        (lambda f: watched(f, 0.0, 1.0, None, 1.0),
         "Stage pretrain: the embedding was found collapsed 2 of the 3 times it was looked at, the last time too. To "
         "mend it, raise temperature (MIOv3 falls apart at 0.07"),
        (lambda f: watched(f, 1.0, 0.0), "collapsed 1 of the 2 times it was looked at, but not the last time."),
        (lambda f: features(f, lambda z: z[:, :0]), "The features cannot be judged: "),
        (lambda f: metrics(f, confusion_matrix=[[0, 60, 0], [0, 58, 0], [1, 1, 0]]),
         "99% of the test images are called mela & noma: the classifier hardly tells the classes apart"),
        (lambda f: budget(f, n_labels=60),
         "The label budget is overspent: 60 labels used, 40 asked for (subjects are not divided"),
        (lambda f: budget(f, select_on_validation=False, n_labels_validation=3),
         "Too few validation labels (3) to choose by: the last epoch's network is served"),
        (lambda f: budget(f, transductive=True), "Transductive: unlabelled images of the test or validation subjects"),
        (lambda f: metrics(f, n_subjects=49), "A tiny test set: 49 test subjects."),
        (lambda f: metrics(f, per_class={"benign": {"n": 0}, "rare": {"n": 2}}),
         "No test image of benign: nothing is known about this class here."),
        (lambda f: metrics(f, n_subjects_seen_in_training=4), "4 test subjects were seen in training"),
        (lambda f: add_warning(f, "macro_auroc: 5 of 60 resamples lack a class"),
         "Macro AUROC: 5 of 60 resamples lack a class."),
        (lambda f: edit(f / "models" / "train_run.json", overlays=["smoke"]), "the figures mean nothing."),
        (lambda f: (f / "models" / "train_config.yaml").write_text("max_epochs: 9\n"),
         "Stage train was stopped after 4 of 9 epochs."),
        (lambda f: (f / "models" / "train_config.yaml").write_text("transductive: true\n"), "Transductive: "),
    ],
)  # fmt: skip
def test_a_caution_comes_with_its_cause(folder: Path, change: Callable[[Path], object], words: str) -> None:
    before = run_cautions(read_run(folder))
    assert not any(words in one for one in before)
    change(folder)
    assert sum(words in one for one in run_cautions(read_run(folder))) == 1


def test_a_watch_that_found_nothing_is_no_caution(folder: Path) -> None:
    before = run_cautions(read_run(folder))
    watched(folder, 0.0, None, 0.0)
    assert run_cautions(read_run(folder)) == before


def test_what_the_evaluation_says_itself_is_not_said_again(folder: Path) -> None:
    add_warning(folder, "4 of 60 test subjects were seen in training: too good", "transductive: images of 4 subjects")
    metrics(folder, n_subjects_seen_in_training=4)
    budget(folder, transductive=True)
    assert run_cautions(read_run(folder)) == [
        "4 of 60 test subjects were seen in training: too good.", "Transductive: images of 4 subjects.", ONE_SEED,
    ]  # fmt: skip


def test_what_makes_figures_worthless_comes_first(folder: Path) -> None:
    edit(folder / "models" / "train_run.json", overlays=["smoke"])
    assert "the figures mean nothing" in run_cautions(read_run(folder))[0]


def test_nothing_is_known_of_an_empty_run(tmp_path: Path) -> None:
    assert run_cautions(Run(tmp_path, "nothing")) == []


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("cautions") / "study")


def cautions_with(study: Path, **changes: Any) -> list[str]:
    found = read_study(study)
    return study_cautions(Study(found.folder, {**found.content, **changes}, found.runs))


def test_a_sound_study_and_its_runs(study: Path) -> None:
    found = cautions_with(study, seeds=[0, 1, 2])
    assert found[0] == "Validation is small."
    assert found[1] == (
        "Fewer than 10 test subjects with the class: rare. Their figures have no interval and say little; means over "
        "the classes rest on them too."
    )
    # of the runs: ten have a tiny test set of their own, in other words once
    tiny = [one for one in found if "tiny test set" in one]
    assert len(tiny) == 1
    assert tiny[0].startswith("srcl, 5 % of the labels, seed 0 (and ")
    assert not any("one seed" in one.lower() for one in found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"complete": False}, "The study is not complete: 10 of 10 runs have ended."),
        ({"seeds": [0]}, "A single seed: how much the figures depend on chance in training is not known."),
        ({"seeds": [0, 1]}, "Only 2 seeds: how much the figures depend on chance in training is hardly known."),
        ({"overlays": ["cpu", "smoke"]}, "Run with the overlay smoke"),
        ({"n_test_subjects": 12}, "A tiny test set: 12 test subjects."),
    ],
)
def test_cautions_of_a_study(study: Path, changes: dict[str, Any], words: str) -> None:
    assert not any(one.startswith(words) for one in cautions_with(study, seeds=[0, 1, 2]))
    assert sum(one.startswith(words) for one in cautions_with(study, **changes)) == 1
    seeds = "only 2 seeds: x" if changes.get("seeds") == [0, 1] else "a single seed: x"
    said = {"complete": "3 of 9 runs are not complete", "seeds": seeds, "overlays": "the overlay smoke is",
            "n_test_subjects": "a tiny test set, 12 subjects"}[next(iter(changes))]  # fmt: skip
    found = cautions_with(study, **changes, warnings=[said])
    assert f"{said[:1].upper()}{said[1:]}." in found
    assert not any(one.startswith(words) for one in found)


def test_what_a_study_of_before_did_not_say_itself(study: Path) -> None:
    content = study_content()
    budgets = [{**budget, "enough_validation": True} for budget in content["budgets"]]
    rows = [
        {"budget": "80labels", "labels": 80, "difference": {"interval_90": [-0.09, 0.0]}},
        {"budget": "5pct", "labels": 41, "difference": {"interval_90": [-0.2, -0.1]}},
    ]
    saved = {"supervised": {**content["annotation_saved"]["supervised"], "differences": rows}}
    few = "Fewer than 50 validation labels have chosen the checkpoint at 5 % of the labels (10), 80 labels (16)"
    reference = "Supervised with all labels is not shown to be better than with 80 labels: annotation saved"
    for words, changes in ((few, {"budgets": budgets}), (reference, {"annotation_saved": saved})):
        assert sum(one.startswith(words) for one in cautions_with(study, **changes)) == 1
        assert not any(one.startswith(words) for one in cautions_with(study))
        own = next(one for one in cautions_with(study, **changes) if one.startswith(words))
        assert sum(one.startswith(words) for one in cautions_with(study, **changes, warnings=[own])) == 1
    better = {**saved["supervised"], "differences": [{**rows[0], "difference": {"interval_90": [-0.09, -0.01]}}]}
    assert not any("not shown" in one for one in cautions_with(study, annotation_saved={"supervised": better}))


def test_classes_are_named_as_the_summary_names_them(study: Path) -> None:
    rows = [{**row, "n_subjects": 12} for row in study_content()["summary"]]
    assert not any("test subjects with the class" in one for one in cautions_with(study, summary=rows))
    assert json.loads((study / "study.json").read_text())["class_names"] == CLASSES
