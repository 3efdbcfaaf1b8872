"""Protocols in a study: what is run once for all budgets, which figures there are, and what is claimed of them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from study_bundle import CLASSES, Stages, make_dataset, make_study_bundle

from medssl_monai.apps import arms
from medssl_monai.apps.cli import main
from medssl_monai.apps.study.definition import StudyArm, StudyDefinition
from medssl_monai.data import load_datalist, select_budget
from medssl_monai.metrics import bootstrap_distribution
from medssl_monai.metrics.comparison import joint_distributions
from medssl_monai.visualize.report import report_page

ARMS = {
    "random": {"stages": [], "protocols": ["knn", "linear_probe"]},
    "contrastive": {
        "stages": ["pretrain"], "overrides": {"temperature": 0.2}, "shared_pretrain": True,
        "protocols": ["knn", "linear_probe"],
    },
    "tuned": {
        "stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "better"}, "shared_pretrain": True,
        "protocols": ["knn"],
    },
    "labelled": {
        "stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "other"}, "protocols": ["linear_svm"],
    },
}  # fmt: skip
STUDY = {
    "arms": ARMS, "baseline_arm": "random", "primary_arm": "contrastive", "primary_metric": "knn/macro_auroc",
}  # fmt: skip
OPTIONS = ("--budgets", "10%,30", "--seeds", "2", "--arms", "all")


class Study:
    """A study's command, called in this process with stages that only write files."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, **study: Any) -> None:
        self.bundle, self.data = make_study_bundle(root / "b", **{**STUDY, **study}), make_dataset(root / "data")
        self.out, self.monkeypatch = root / "out", monkeypatch

    def __call__(self, *options: str, expect: int = 0, hook: Any = None) -> Stages:
        stages = Stages(hook)
        self.monkeypatch.setattr(arms, "run_process", stages)
        code = main(["study", str(self.bundle), "--data", str(self.data), "--out", str(self.out), *options])
        assert code == expect
        return stages

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.out / "study.json").read_text())


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def rows(study: Study) -> list[dict[str, str]]:
    with (study.out / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def predictions(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    with path.open(newline="") as stream:
        read = list(csv.DictReader(stream))
    scores = np.array([[float(row[f"probability_{name}"]) for name in CLASSES] for row in read])
    return [row["subject"] for row in read], np.array([CLASSES.index(row["label"]) for row in read]), scores


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_what_budgets_share_is_run_once_a_seed(study: Study, jobs: str) -> None:
    done = study(*OPTIONS, "--jobs", jobs)
    pretrained = sorted("/".join(folder.parts[-3:]) for stage, _, folder in done.commands if stage == "pretrain")
    shared = sorted(f"{arm}/shared/seed{seed}" for arm in ("contrastive", "tuned") for seed in (0, 1))
    own = sorted(f"labelled/{budget}/seed{seed}" for budget in ("10pct", "30labels") for seed in (0, 1))
    assert pretrained == sorted([*shared, *own])
    for stage, keys, folder in done.commands:
        budget = {"10pct": (0.1, None), "30labels": (None, 30)}.get(folder.parts[-2], (1.0, None))
        if stage != "protocols":
            # shared pre-training sees no image that validates at any budget: it is that of all labels
            assert (keys["label_fraction"], keys["label_budget"]) == budget
            assert keys["seed"] == int(folder.name.removeprefix("seed"))
        if stage == "train" and folder.parts[-3] == "tuned":
            assert (
                Path(keys["pretrained"]) == study.out.resolve() / f"runs/tuned/shared/{folder.name}/models/pretrain.pt"
            )
        if stage == "pretrain":
            assert "regime" not in keys  # a key of the train stage alone
            assert keys.get("temperature") == (0.2 if folder.parts[-3] == "contrastive" else None)
    for line in (line for line in done.lines if line[3] == "protocol"):
        out, source = Path(option(line, "--out")), Path(line[5])
        arm, budget, seed = out.parts[-5:-2]
        wanted = study.out.resolve() / "runs" / arm / (budget if arm == "labelled" else "shared") / seed
        assert source.resolve() == wanted
        assert line[4] == ",".join(ARMS[arm]["protocols"])
        assert option(line, "--budget") == {"10pct": "10%", "30labels": "30", "100pct": "100%"}[budget]
        assert (option(line, "--seed"), option(line, "--split-seed")) == (seed[-1], "0")
        assert ("--untrained" in line) == (arm == "random")
        # an encoder that is not trained is built by the pretrain stage's keys, a trained one knows its own
        assert not [text for text in line if text.startswith(("label_", "pretrained=", "resume=", "dataset_dir="))]
        assert f"labels={json.dumps(CLASSES)}" in line
    assert study(*OPTIONS).commands == []


def test_larger_budgets_validate_on_what_smaller_ones_do(study: Study) -> None:
    """What makes a shared pre-training sound: its pool, with all labels, holds no subject that validates anywhere."""
    content = json.loads((study.data / "datalist.json").read_text())
    content["training"] += [{**item, "image": item["image"].replace("val", "tr")} for item in content.pop("validation")]
    (study.data / "datalist.json").write_text(json.dumps(content))
    datalist = load_datalist(study.data)
    for seed in range(5):
        everything = select_budget(datalist, label_fraction=1.0, split_seed=seed)
        pool = {item.group for item in everything.labeled + everything.unlabeled}
        for asked in ({"label_fraction": 0.1}, {"label_fraction": 0.5}, {"label_budget": 30}):
            budget = select_budget(datalist, **asked, split_seed=seed)
            assert budget.validation_carved
            assert not pool & {item.group for item in budget.validation + budget.test}


def test_figures_and_the_claim(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study(*OPTIONS)
    record = study.record
    found = {(row["arm"], row["metric"]) for row in rows(study)}
    names = ("macro_auroc", "balanced_top1_accuracy", "top1_accuracy", "auroc")
    by = {arm: [f"{protocol}/" for protocol in entry["protocols"]] for arm, entry in ARMS.items()}
    for arm in ("tuned", "labelled"):
        by[arm].append("")
    assert found == {(arm, source + name) for arm, sources in by.items() for source in sources for name in names}

    def values(arm: str, budget: str) -> np.ndarray:
        distributions = []
        for seed in (0, 1):
            path = study.out / f"runs/{arm}/{budget}/seed{seed}/eval/protocols/knn/predictions.csv"
            subjects, labels, scores = predictions(path)
            scores /= scores.sum(axis=1, keepdims=True)
            distributions.append(bootstrap_distribution("macro_auroc", labels, scores, subjects, n_boot=2000).values)
        return np.mean(distributions, axis=0)

    assert [claim["budget"] for claim in record["claims"]] == ["10pct", "30labels"]
    for claim in record["claims"]:
        assert claim["metric"] == "knn/macro_auroc"
        by_hand = values("contrastive", claim["budget"]) - values("random", claim["budget"])
        by_hand = by_hand[~np.isnan(by_hand)]
        np.testing.assert_allclose(claim["difference"]["interval_95"], np.percentile(by_hand, (2.5, 97.5)), atol=1e-7)
        assert claim["p_holm"] >= claim["p"]
    compared = {(e["arm"], e["budget"], e["metric"]) for e in record["exploratory"]}
    assert ("tuned", "10pct", "knn/macro_auroc") in compared
    assert ("contrastive", "10pct", "linear_probe/macro_auroc") in compared
    # what the baseline does not have cannot be compared with it
    assert not {metric for _, _, metric in compared if metric.startswith("linear_svm") or "/" not in metric}
    assert record["annotation_saved"]["contrastive"]["labels_full"] == 260
    assert record["arms"]["contrastive"] == {
        "stages": ["pretrain"], "overrides": {"temperature": 0.2}, "protocols": ["knn", "linear_probe"],
        "shared_pretrain": True,
    }  # fmt: skip
    out = capsys.readouterr().out
    assert "Protocol: kNN\n| budget" in out
    assert "Protocol: linear SVM\n| budget" in out
    assert "10pct: contrastive - random, macro AUROC (kNN) +" in out
    assert "what the budgets of an arm share is not in its minutes" in out
    page = report_page(study.out)
    assert "Did contrastive help?" in page
    assert "Macro AUROC (kNN) against number of labels" in page
    assert "Macro AUROC (linear probe) by arm and budget" in page


def test_lost_results_of_a_protocol_are_made_again(study: Study) -> None:
    study(*OPTIONS)
    before = study.record["claims"]
    path = study.out / "runs/contrastive/10pct/seed0/eval/protocols/linear_probe/predictions.csv"
    path.unlink()
    assert study(*OPTIONS).stages == ["contrastive 10pct seed0 protocols"]
    assert path.is_file()
    assert study.record["claims"] == before


def test_another_shared_encoder_makes_what_rests_on_it_again(study: Study) -> None:
    study(*OPTIONS)
    shared = study.out / "runs/tuned/shared/seed1"
    (shared / "models/pretrain.pt").write_text("other weights")
    again = study(*OPTIONS).stages
    steps = ("train", "evaluate", "protocols")
    assert again == [f"tuned {budget} seed1 {step}" for budget in ("10pct", "30labels") for step in steps]
    (shared / "pretrain.stage.json").unlink()
    assert study(*OPTIONS).stages[0] == "tuned shared seed1 pretrain"


def test_a_failing_shared_stage_fails_each_run_that_needs_it(study: Study) -> None:
    def hook(stage: str, keys: dict[str, Any], stop: Any) -> int | None:
        return 2 if stage == "pretrain" and keys.get("temperature") else None

    study("--budgets", "10%", "--seeds", "1", hook=hook, expect=2)
    failed = [run["arm"] for run in study.record["runs"] if run["failed"]]
    assert failed == ["contrastive"]
    assert study("--budgets", "10%", "--seeds", "1").stages == [
        "contrastive shared seed0 pretrain", "contrastive 10pct seed0 protocols",
    ]  # fmt: skip


def test_varied_labels_vary_what_is_shared(study: Study) -> None:
    done = study("--budgets", "10%", "--seeds", "2", "--vary-labels")
    split_seeds = {folder.name: keys["split_seed"] for stage, keys, folder in done.commands if stage == "pretrain"}
    assert split_seeds == {"seed0": 0, "seed1": 1}


def test_more_protocols_of_an_arm_are_another_study(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study("--budgets", "10%", "--seeds", "1")
    path = study.bundle / "configs" / "study.yaml"
    content = yaml.safe_load(path.read_text())
    content["arms"]["random"]["protocols"] = ["knn", "linear_svm"]
    path.write_text(yaml.safe_dump(content))
    assert study("--budgets", "10%", "--seeds", "1", expect=2).commands == []
    assert "another arm random" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"stages": ["pretrain"]}, "arm 'contrastive' has no stages that end in evaluate .found .*or protocols that"),
        ({"stages": [], "protocols": []}, "arm 'contrastive' has no stages that end in evaluate"),
        (
            {"stages": ["pretrain"], "protocols": ["kn"]},
            r"'contrastive': no protocol is called 'kn'. Did you mean 'knn'",
        ),
        ({"stages": ["pretrain"], "protocols": ["finetune"]}, r"Fine-tuning trains the encoder: .*\[pretrain, train"),
        ({"stages": ["pretrain"], "protocols": "knn"}, "the protocols of arm 'contrastive' are no list"),
        (
            {"stages": ["train"], "protocols": ["knn"], "shared_pretrain": True},
            "shared_pretrain of arm 'contrastive' is for an arm that begins with the stage pretrain",
        ),
        ({"stages": ["pretrain"], "protocols": ["knn"], "shared_pretrain": "yes"}, "expected true or false"),
        (
            {"stages": ["pretrain"], "protocols": ["linear_svm"]},
            r"primary_metric 'knn/macro_auroc' is not computed for the primary_arm, 'contrastive' .expected one of "
            "linear_svm/macro_auroc; of exclusive classes also linear_svm/balanced_top1_accuracy, linear_svm/top1_acc",
        ),
        ({"stages": ["pretrain"], "protocols": ["knn"], "overrides": {"temperatur": 1}}, "Did you mean 'temperature'"),
    ],
)
def test_arms_that_cannot_be_run(
    entry: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    study = Study(tmp_path, monkeypatch, arms={**ARMS, "contrastive": entry})
    assert study(expect=2).commands == []
    error = capsys.readouterr().err
    assert re.search(message, error, re.DOTALL), error


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_figures_an_arm_names_are_those_that_are_computed(exclusive: bool) -> None:
    """Of labels that are each there or not there is no most probable class."""
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(3), size=30)
    truth = np.arange(30) % 3 if exclusive else rng.integers(0, 2, (30, 3))
    computed = joint_distributions(truth, {"run": scores}, None, ["a", "b", "c"], n_boot=10)["run"]
    names = [name for name, label in computed if not label]
    tuned = StudyArm("tuned", ("train", "evaluate"), protocols=("knn",))
    frozen = StudyArm("frozen", (), protocols=("linear_svm", "knn"))
    assert sorted(StudyArm("plain", ("train", "evaluate")).metrics(exclusive)) == sorted(names)
    assert sorted(tuned.metrics(exclusive)) == sorted([*names, *(f"knn/{name}" for name in names)])
    assert not [name for name in frozen.metrics(exclusive) if "/" not in name]
    both = StudyDefinition({"tuned": tuned, "frozen": frozen}, "frozen", "tuned", "knn/macro_auroc")
    assert sorted(both.metrics(exclusive)) == sorted(f"knn/{name}" for name in names)
