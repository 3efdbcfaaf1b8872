"""``medssl study``: what is run, in which order, what a second call does, and what stops it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study_bundle import CLASSES, Stages, make_dataset, make_study_bundle

from medssl_monai.apps import arms
from medssl_monai.apps.arms import read_predictions
from medssl_monai.apps.cli import main
from medssl_monai.core.files import FolderLock
from medssl_monai.metrics import bootstrap_interval


class Study:
    """A study's command, called in this process with stages that only write files."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bundle, self.data, self.out = make_study_bundle(root / "b"), make_dataset(root / "data"), root / "out"
        self.monkeypatch = monkeypatch

    def __call__(self, *options: str, hook: Callable[..., Any] | None = None, expect: int = 0) -> Stages:
        stages = Stages(hook)
        self.monkeypatch.setattr(arms, "run_process", stages)
        code = main(["study", str(self.bundle), "--data", str(self.data), "--out", str(self.out), *options])
        assert code == expect
        return stages

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.out / "study.json").read_text())

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.out / "results.csv").open(newline="") as stream:
            return list(csv.DictReader(stream))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


SMALL = ("--budgets", "10%", "--seeds", "1")


# --- what is run
def test_order_leaves_whole_pairs_and_the_reference_once(study: Study) -> None:
    done = study("--budgets", "20%,10%", "--seeds", "2", "--arms", "all").stages
    evaluated = [name.removesuffix(" evaluate") for name in done if name.endswith("evaluate")]
    claim = ["plain 10pct", "better 10pct", "plain 20pct", "better 20pct", "plain 100pct"]
    others = ["other 10pct", "other 20pct"]
    assert evaluated == [f"{cell} seed{seed}" for part in (claim, others) for seed in (0, 1) for cell in part]
    # the chain of an arm, each in its own folder; pre-training at each budget, since it uses labels
    assert done[2:5] == [f"better 10pct seed0 {stage}" for stage in ("pretrain", "train", "evaluate")]


def test_all_labels_are_not_repeated_and_then_compare_every_arm(study: Study) -> None:
    done = study("--budgets", "100%,30", "--seeds", "4,9").stages
    evaluated = [name.removesuffix(" evaluate") for name in done if name.endswith("evaluate")]
    cells = ["plain 30labels", "better 30labels", "plain 100pct", "better 100pct"]
    assert evaluated == [f"{cell} seed{seed}" for seed in (4, 9) for cell in cells]
    assert [claim["budget"] for claim in study.record["claims"]] == ["30labels", "100pct"]


def test_keys_of_the_runs(study: Study) -> None:
    stages = study("--budgets", "10%,30", "--seeds", "1", "max_epochs=7", "train::x=1", expect=2)
    assert not stages.commands  # train::x: refused before anything runs
    stages = study("--budgets", "10%,30", "--seeds", "1", "max_epochs=7")
    for stage, keys, folder in stages.commands:
        share = {"10pct": 0.1, "30labels": None, "100pct": 1.0}[folder.parts[-2]]
        number = 30 if share is None else None
        assert (keys["label_fraction"], keys["label_budget"], keys["seed"]) == (share, number, 0)
        assert (keys["split_seed"], keys["max_epochs"], keys["labels"]) == (0, 7, CLASSES)
        assert Path(keys["dataset_dir"]) == study.data
        assert keys.get("regime") == {"train": folder.parts[-3]}.get(stage)


@pytest.mark.parametrize("vary", [False, True])
def test_labels_are_the_same_for_all_seeds_unless_asked(study: Study, vary: bool) -> None:
    stages = study("--budgets", "10%", "--seeds", "2", *(["--vary-labels"] if vary else ["split_seed=5"]))
    assert {(keys["seed"], keys["split_seed"]) for _, keys, _ in stages.commands} == (
        {(0, 0), (1, 1)} if vary else {(0, 5), (1, 5)}
    )


def test_files_and_their_contract(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study("--budgets", "10%,20%", "--seeds", "2", "--arms", "all")
    record = study.record
    assert record["format"] == 1
    assert (record["bundle"], record["bundle_version"], record["dataset"]) == ("study_classification", "0.3.0", "toy")
    assert record["task"] == "multiclass"
    assert record["class_names"] == CLASSES
    assert (record["baseline_arm"], record["primary_arm"], record["primary_metric"]) == (
        "plain",
        "better",
        "macro_auroc",
    )
    assert [b["name"] for b in record["budgets"]] == ["10pct", "20pct", "100pct"]
    assert record["budgets"][0]["label_fraction"] == 0.1
    assert (record["n_test"], record["n_test_subjects"], record["seeds"]) == (90, 45, [0, 1])
    assert record["complete"] is True
    assert record["majority_accuracy"] == 42 / 90  # of 45 subjects with two images 3 are rare, 21 a, 21 b
    assert all("n_undefined" in row for part in ("summary", "exploratory") for row in record[part])
    assert len(record["runs"]) == 2 * (3 * 2 + 1)
    assert all((study.out / run["folder"] / "eval" / "predictions.csv").is_file() for run in record["runs"])
    assert record["arms"]["better"] == {"stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "better"}}
    assert {"versions", "hardware", "overlays", "warnings", "data_fingerprint"} <= set(record)

    rows = study.rows
    assert ",".join(rows[0]) == (
        "arm,budget,seed,n_labels_training,n_labels_validation,metric,class,estimate,low_90,high_90,low_95,high_95,n,"
        "n_subjects,seconds"
    )
    assert len(rows) == 14 * (3 + len(CLASSES))
    # one row against the intervals of the single run
    row = next(r for r in rows if (r["arm"], r["budget"], r["seed"], r["class"]) == ("better", "20pct", "1", "b"))
    _, subjects, labels, scores = read_predictions(study.out / "runs/better/20pct/seed1")
    expected = bootstrap_interval("auroc", labels == 1, scores[:, 1], subjects, n_boot=2000, level=(2.5, 97.5))
    found = [float(row[key]) for key in ("estimate", "low_95", "high_95")]
    np.testing.assert_allclose(found, [expected.estimate, expected.low, expected.high], atol=1e-8)
    # no interval for the class of three subjects
    rare = [r for r in rows if r["class"] == "rare"]
    assert all(r["estimate"] and not r["low_90"] and not r["high_95"] for r in rare)
    summary = [s for s in record["summary"] if s["class"] == "rare"]
    assert all(s["interval_95"] is None and s["n_subjects"] == 3 for s in summary)
    assert "only 3 subjects with this class" in summary[0]["note"]
    text = capsys.readouterr().out
    assert "fewer than 10 test subjects with, or without, the class: rare (3)" in text
    assert "a tiny test set, 45 subjects" in text


def test_claims_are_paired_averaged_and_corrected(study: Study) -> None:
    study("--budgets", "10%,20%", "--seeds", "2", "--arms", "all")
    record = study.record

    def aurocs(arm: str, budget: str) -> list[np.ndarray]:
        """On every resample, by the bootstrap of each run alone: the same seed and subjects, the same resamples."""
        from medssl_monai.metrics import bootstrap_distribution

        found = []
        for seed in (0, 1):
            _, subjects, labels, scores = read_predictions(study.out / f"runs/{arm}/{budget}/seed{seed}")
            found.append(bootstrap_distribution("macro_auroc", labels, scores, subjects, n_boot=2000).values)
        return found

    ps = []
    for claim in record["claims"]:
        by_hand = np.mean(aurocs("better", claim["budget"]), axis=0) - np.mean(aurocs("plain", claim["budget"]), axis=0)
        assert (claim["n_undefined"], claim["n_resamples"]) == (np.isnan(by_hand).sum(), 2000)
        assert claim["n_undefined"] > 0  # a class of three subjects is missing in some
        by_hand = by_hand[~np.isnan(by_hand)]
        np.testing.assert_allclose(claim["difference"]["interval_95"], np.percentile(by_hand, (2.5, 97.5)), atol=1e-7)
        np.testing.assert_allclose(claim["difference"]["interval_90"], np.percentile(by_hand, (5, 95)), atol=1e-7)
        ps.append(min(1.0, 2 * (1 + min((by_hand <= 0).sum(), (by_hand >= 0).sum())) / (len(by_hand) + 1)))
        assert claim["p"] == pytest.approx(ps[-1])
        assert len(claim["seed_differences"]) == 2
        assert np.mean(claim["seed_differences"]) == pytest.approx(claim["difference"]["estimate"])
    low, high = sorted(ps)
    assert sorted(c["p_holm"] for c in record["claims"]) == pytest.approx([min(1, 2 * low), max(min(1, 2 * low), high)])
    # everything else with the baseline is exploratory, and nothing is in both
    compared = {(e["arm"], e["versus"], e["budget"], e["metric"]) for e in record["exploratory"]}
    assert len(compared) == len(record["exploratory"]) == 2 * (2 + 3)
    assert ("better", "plain", "10pct", "macro_auroc") not in compared
    assert ("other", "plain", "10pct", "macro_auroc") in compared
    assert all("p_holm" not in entry for entry in record["exploratory"])


def test_annotation_saved_of_an_arm_that_needs_few_labels(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study("--budgets", "10%,80%", "--seeds", "1", "--arms", "better")
    saved = study.record["annotation_saved"]
    differences = {d["budget"]: d["difference"]["interval_90"][0] for d in saved["better"]["differences"]}
    expected = next((name for name in ("10pct", "80pct") if differences[name] > -0.01), None)
    assert saved["better"]["budget"] == expected == "80pct"
    assert (saved["better"]["labels"], saved["better"]["labels_full"]) == (208, 260)
    assert saved["better"]["saved_fraction"] == pytest.approx(0.2)
    assert "20% of the labels saved" in saved["better"]["text"]
    assert saved["plain"]["budget"] is None  # the reference itself is no candidate
    assert saved["better"]["text"] in capsys.readouterr().out


def test_few_seeds_few_validation_labels_and_a_reference_that_is_no_better(study: Study) -> None:
    def cautions() -> str:
        return "\n".join(study.record["warnings"])

    study("--budgets", "30%", "--seeds", "2")
    assert "only 2 seeds: how much the figures vary" in cautions()
    assert "have chosen the checkpoint" not in cautions()  # too few to choose by at all, or enough
    assert "is not shown to be better" not in cautions()  # the reference has learnt more, by far
    study("--budgets", "50%,95%", "--seeds", "3")
    labels = {b["name"]: b["n_labels_validation"] for b in study.record["budgets"]}
    assert 20 <= labels["50pct"] < 50 <= labels["95pct"]
    assert f"fewer than 50 validation labels have chosen the checkpoint at 50pct ({labels['50pct']}):" in cautions()
    assert "seeds" not in cautions().replace("has fewer seeds than", "")
    rows = study.record["annotation_saved"]["plain"]["differences"]
    assert rows[-1]["budget"] == "95pct"
    assert rows[-1]["difference"]["interval_90"][1] >= 0
    assert "plain with all labels is not shown to be better than with 248 labels (95pct)" in cautions()


def test_a_trial_run_claims_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    (study.bundle / "configs" / "smoke.yaml").write_text("max_epochs: 1\n")
    study(*SMALL, "--overlay", str(study.bundle / "configs" / "smoke.yaml"))
    out = capsys.readouterr().out
    assert out.count("the figures mean nothing") == 4  # the claim, annotation saved of two arms, the caution
    assert not re.search("is (better|worse)|labels saved", out)
    assert all("cannot be said, trial run" in one["text"] for one in study.record["annotation_saved"].values())


# --- a second call
def test_a_second_call_runs_only_what_is_missing(study: Study) -> None:
    study(*SMALL)
    first = study.record
    assert study(*SMALL).commands == []
    assert {**study.record, "seconds": 0} == {**first, "seconds": 0}
    (study.out / "runs/better/10pct/seed0/train.stage.json").unlink()
    assert study(*SMALL).stages == ["better 10pct seed0 train", "better 10pct seed0 evaluate"]


@pytest.mark.parametrize("name", ["predictions.csv", "metrics.json"])
@pytest.mark.parametrize("lost", [True, False])
def test_lost_or_damaged_results_are_made_again(
    study: Study, name: str, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    study(*SMALL)
    before = study.record
    path = study.out / "runs/better/10pct/seed0/eval" / name
    whole = path.read_text()
    path.unlink() if lost else path.write_text(whole[: len(whole) // 2])
    assert study(*SMALL).stages == ["better 10pct seed0 evaluate"]
    assert "3 runs: 2 complete, 1 to run" in capsys.readouterr().out
    assert path.read_text() == whole
    assert study.record["claims"] == before["claims"]
    # a run of an earlier call that this one does not ask for is left out and named
    path.unlink()
    study("--budgets", "20%", "--seeds", "1")
    assert "better, 10pct, seed 0: left out, its results are lost or damaged" in capsys.readouterr().out
    assert "better/10pct" not in {"/".join(run["folder"].split("/")[1:3]) for run in study.record["runs"]}


def test_more_arms_budgets_and_seeds_go_into_the_same_folder(study: Study) -> None:
    study(*SMALL)
    assert study("--budgets", "10%", "--seeds", "2").stages[-2:] == [
        "plain 100pct seed1 train",
        "plain 100pct seed1 evaluate",
    ]
    more = study("--budgets", "30", "--seeds", "1", "--arms", "other").stages
    assert more == [f"{arm} 30labels seed0 {stage}" for arm in ("plain", "other") for stage in ("train", "evaluate")]
    # what earlier calls have completed stays part of the study
    record = study.record
    assert [b["name"] for b in record["budgets"]] == ["10pct", "30labels", "100pct"]
    assert set(record["arms"]) == {"plain", "better", "other"}
    assert record["seeds"] == [0, 1]
    assert [claim["budget"] for claim in record["claims"]] == ["10pct"]
    assert len(record["claims"][0]["seed_differences"]) == 2
    assert "plain at 30labels has fewer seeds than the study" in record["warnings"]


def test_a_definition_of_ones_own(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.yaml"
    arms = {
        name: {"stages": ["train", "evaluate"], "overrides": {"regime": regime}}
        for name, regime in (("here", "plain"), ("there", "better"))
    }
    mine.write_text(
        yaml.safe_dump({"arms": arms, "baseline_arm": "here", "primary_arm": "there", "primary_metric": "macro_auroc"})
    )
    done = study(*SMALL, "--definition", str(mine)).stages
    assert {name.split()[0] for name in done} == {"here", "there"}
    assert f"--definition {mine}" in study.record["command"]
    assert (study.record["baseline_arm"], study.record["primary_arm"]) == ("here", "there")
    study(*SMALL, "--definition", str(tmp_path / "none.yaml"), expect=2)
    assert re.search(r"--definition: no such file \(found .*none.yaml, expected a file like", capsys.readouterr().err)


def test_other_code_is_warned_of(study: Study) -> None:
    study(*SMALL)
    assert len(study.record["code"]) == 1
    train = study.bundle / "configs" / "train.yaml"
    train.write_text(train.read_text() + "more: 1\n")
    assert study("--budgets", "10%", "--seeds", "2").stages[0] == "plain 10pct seed1 train"
    assert any("runs were made by 2 states of the code" in text for text in study.record["warnings"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ("data", (), "this folder holds a study with other settings: the dataset has changed since"),
        ("image", (), "this folder holds a study with other settings: the dataset has changed since"),
        ("none", ("max_epochs=9",), r"other settings: other overrides .found {'labels': .*'max_epochs': 9"),
        ("none", ("--vary-labels",), r"another vary_labels .found False, expected True\)"),
        ("none", ("--overlay", "smoke"), r"other overlays .found \[\], expected \['smoke'\]\)"),
        ("none", ("split_seed=3",), "other overrides"),
        ("arm", (), "another arm better"),
    ],
)
def test_another_study_in_the_folder_is_refused(
    study: Study, change: str, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study(*SMALL)
    before = study.record
    if change == "data":
        make_dataset(study.data, license="another")
    if change == "image":
        (study.data / "training").mkdir()
        (study.data / "training" / "3_1.png").write_bytes(b"pixels where there were none")
    if change == "arm":
        path = study.bundle / "configs" / "study.yaml"
        content = yaml.safe_load(path.read_text())
        content["arms"]["better"]["overrides"]["regime"] = "other"
        path.write_text(yaml.safe_dump(content))
    assert study(*SMALL, *options, expect=2).commands == []
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Name another --out folder" in error
    assert study.record == before


def test_two_studies_in_one_folder(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.out.mkdir()
    lock = FolderLock(study.out)
    lock.acquire()
    assert study(*SMALL, expect=2).commands == []
    assert "another run is writing in this folder" in capsys.readouterr().err
    lock.release()
    assert study(*SMALL).commands


# --- what goes wrong
def test_a_failing_run_does_not_stop_the_others(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(stage: str, keys: dict[str, Any], stop: Any) -> int | None:
        return 2 if stage == "train" and keys["regime"] == "better" and keys["seed"] == 0 else None

    stages = study("--budgets", "10%", "--seeds", "2", hook=broken, expect=2)
    assert "better 10pct seed0 evaluate" not in stages.stages
    assert "better 10pct seed1 evaluate" in stages.stages
    out = capsys.readouterr().out
    assert "better, 10pct, seed 0: FAILED" in out
    assert "medssl: x.png: it is broken. Mend it." in out
    assert "1 runs failed: better, 10pct, seed 0" in out
    record = study.record
    assert record["complete"] is False
    failed = [run for run in record["runs"] if run["failed"]]
    assert [(run["arm"], run["seed"], run["complete"]) for run in failed] == [("better", 0, False)]
    # what can be compared is: the seed that both arms have
    assert len(record["claims"][0]["seed_differences"]) == 1
    assert study("--budgets", "10%", "--seeds", "2").stages == [
        f"better 10pct seed0 {s}" for s in ("train", "evaluate")
    ]
    assert study.record["complete"] is True


def test_the_minute_limit(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    def late(stage: str, keys: dict[str, Any], stop: Any) -> str | None:
        if stage == "train" and keys["regime"] == "better":
            stop.deadline = 0.0  # the time is over while this stage runs
            return "stopped"
        return None

    stages = study("--budgets", "10%", "--seeds", "2", "--max-minutes", "60", hook=late, expect=1)
    assert stages.stages[-1] == "better 10pct seed0 train"
    assert "not complete: run the same command again to go on" in capsys.readouterr().out
    record = study.record
    assert record["complete"] is False
    assert [run["complete"] for run in record["runs"]] == [True, False, False, False, False, False]
    assert record["claims"][0]["difference"]["estimate"] is None
    assert record["claims"][0]["note"] == "no seed is complete in both arms"
    assert "5 of 6 runs are not complete" in record["warnings"]
    assert {row["arm"] for row in study.rows} == {"plain"}
    again = study("--budgets", "10%", "--seeds", "2").stages
    assert again[0] == "better 10pct seed0 train"  # pre-training is complete
    assert study.record["complete"] is True


def test_labels_beyond_those_asked_for_are_said(study: Study) -> None:
    study("--budgets", "3", "--seeds", "1")  # two images a subject, three classes
    used = study.record["budgets"][0]
    assert used["n_labels_training"] + used["n_labels_validation"] == 6
    assert any(text.startswith("3labels: asked for 3 labels, 6 are used") for text in study.record["warnings"])


def test_nothing_done_yet(study: Study) -> None:
    study(*SMALL, hook=lambda *_: "stopped", expect=1)
    record = study.record
    assert (record["summary"], record["claims"], record["annotation_saved"]) == ([], [], {})
    assert study.rows == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly(study: Study, number: int, code: int) -> None:
    before = signal.getsignal(number)

    def interrupt(stage: str, keys: dict[str, Any], stop: Any) -> str | None:
        if stage != "evaluate":
            return None
        os.kill(os.getpid(), number)
        while not stop.reached:
            threading.Event().wait(0.01)
        return "stopped"

    stages = study(*SMALL, hook=interrupt, expect=code)
    assert stages.stages == ["plain 10pct seed0 train", "plain 10pct seed0 evaluate"]
    assert signal.getsignal(number) is before
    assert study.record["complete"] is False
    assert not FolderLock(study.out).acquire()  # it is free again


def test_two_jobs_run_side_by_side(study: Study) -> None:
    meeting = threading.Barrier(2)

    def meet(stage: str, keys: dict[str, Any], stop: Any) -> None:
        if keys["label_fraction"] == 0.1 and stage == "evaluate":
            meeting.wait(timeout=30)  # one job alone would wait in vain

    study(*SMALL, "--jobs", "2", hook=meet)
    assert study.record["complete"] is True


# --- what is refused before anything runs
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arms", "beter"), r"--arms: no arm 'beter'. Did you mean 'better'\?"),
        (("--budgets", "0.1"), r"--budgets: not a label budget .found '0\.1', expected a share such as 5%"),
        (("--budgets", "120%"), "not a label budget .found '120%'"),
        (("--budgets", "10%,"), "not a label budget .found ''"),
        (("--budgets", "0"), "not a label budget .found '0'"),
        (("--seeds", "x"), "--seeds: not a number of seeds .found 'x'"),
        (("--seeds", "0"), "--seeds: not a number of seeds .found '0'"),
        (("--jobs", "0"), "--jobs: below 1"),
        (("--max-minutes", "0"), "--max-minutes: not a time .found 0.0, expected above 0"),
        (("max_epoch=3",), r"'max_epoch': nothing in .* reads it\. Did you mean 'max_epochs'\?"),
        (("seed=3",), "seed: 'seed' is set by the study itself.*--seeds"),
        (("label_budget=3",), "'label_budget' is set by the study itself"),
        (("regime=plain",), "regime: 'regime' is set by arm 'plain'"),
        (("--vary-labels", "split_seed=3"), "'split_seed' is set by the study itself"),
        (("--budgets", "2"), r"label_budget 2 is below the 3 classes.*at least 3"),
        (("--budgets", "261"), "label_budget 261 is above the 260 labelled items"),
        (("--overlay", "smok"), r"no overlay 'smok'.*Did you mean 'smoke'\?"),
    ],
)
def test_what_is_refused(
    study: Study, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(*options, expect=2).commands == []
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error
    assert not study.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "task": "multilabel",
                "training": [{"image": "a.png", "label": [1, 0, 0]}],
                "validation": [],
                "test": [{"image": "b.png", "label": [1, 0, 0]}],
            },
            "this bundle learns exclusive classes (found task multilabel, labels ['a', 'b', 'rare']",
        ),
        ({"test": [{"image": "a.png"}]}, "no labelled test image"),
    ],
)
def test_datasets_that_cannot_be_studied(
    study: Study, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {key: value for key, value in changes.items() if value != []}
    make_dataset(study.data)
    path = study.data / "datalist.json"
    whole = {key: value for key, value in json.loads(path.read_text()).items() if changes.get(key) != []}
    path.write_text(json.dumps({**whole, **content}))
    assert study(expect=2).commands == []
    assert message in capsys.readouterr().err


def arms_with(**entry: Any) -> dict[str, Any]:
    return {"arms": {"plain": {"stages": ["train", "evaluate"]}, "better": entry}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (arms_with(stages=["train"]), r"arm 'better' has no stages that end in evaluate .found \['train'\]"),
        (arms_with(overrides={}), "arm 'better' has no stages that end in evaluate .expected a list"),
        (arms_with(stages=["evaluate"], overides={}), r"unknown key 'overides'\. Did you mean 'overrides'\?"),
        (arms_with(stages=["trian", "evaluate"]), r"has no stage 'trian'\. Did you mean 'train'\?"),
        (
            arms_with(stages=["train", "evaluate"], overrides={"regim": 1}),
            r"'regim': nothing in .* reads it\. Did you mean 'regime'\?",
        ),
        ({"baseline_arm": "plane"}, r"baseline_arm 'plane' is no arm\. Did you mean 'plain'\?"),
        ({"primary_metric": "macro_auc"}, r"primary_metric 'macro_auc' is not computed.*Did you mean 'macro_auroc'\?"),
        ({"arms": {}}, "key 'arms' is missing or empty"),
        ({"primary_arm": "plain"}, "primary_arm is the baseline_arm"),
    ],
)
def test_study_files_that_cannot_be_used(
    content: dict[str, Any], message: str, tmp_path: Path, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.bundle = make_study_bundle(tmp_path / "other", **content)
    assert study(expect=2).commands == []
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error


def test_a_bundle_without_study_or_with_a_damaged_one(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    path = study.bundle / "configs" / "study.yaml"
    path.write_text("arms: [")
    study(expect=2)
    assert "study.yaml: not valid YAML" in capsys.readouterr().err
    path.unlink()
    study(expect=2)
    assert "study.yaml: this bundle defines no study" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["names", "labels", "classes"])
def test_predictions_of_another_test_set(study: Study, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    study(*SMALL)
    path = study.out / "runs/better/10pct/seed0/eval/predictions.csv"
    header, first, *rows = path.read_text().splitlines()
    if damage == "names":
        first = "other" + first
    if damage == "labels":
        first = first.replace(",rare,", ",a,", 1)
    if damage == "classes":
        header = header.replace("probability_a", "probability_z")
        rows = [row.replace(",a,", ",z,", 1) for row in rows]
    path.write_text("\n".join([header, first, *rows]) + "\n")
    record = path.parents[1] / "evaluate.stage.json"  # as the evaluate stage had left them
    record.write_text(json.dumps({**json.loads(record.read_text()), "outputs": {}}))
    study(*SMALL, expect=2)
    error = capsys.readouterr().err
    expected = "have other labels than" if damage == "labels" else "predictions of other test images or classes"
    assert expected in error
    assert "Remove this run's folder" in error
