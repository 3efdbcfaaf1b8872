"""``medssl study`` of a bundle that segments: budgets in scans, Dice by organ, on the same resamples of subjects."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml
from study_bundle import KEYS, STUDY

from medssl_monai.apps import arms
from medssl_monai.apps.cli import main
from medssl_monai.apps.run import parse_overrides
from medssl_monai.apps.study.definition import ORGAN_CLAIMS, StudyArm, read_study
from medssl_monai.core import ConfigError
from medssl_monai.data import load_datalist, select_budget
from medssl_monai.handlers.segmentation_files import organ_rows, score_columns, write_table
from medssl_monai.metrics import OrganScore, segmentation_report
from medssl_monai.visualize.report import report_page

ORGANS = {2: "liver", 5: "spleen", 7: "rare"}
ARMS = {
    "random": {"stages": ["train", "evaluate"], "overrides": {"regime": "random"}, "protocols": []},
    "cowpro": {
        "stages": ["pretrain", "train", "evaluate"], "overrides": {"regime": "cowpro"}, "shared_pretrain": True,
    },
    "other": {"stages": ["train", "evaluate"], "overrides": {"regime": "other"}},
}  # fmt: skip
#: of every scan and organ, whatever the seed: what an arm adds to the baseline's Dice
GAIN = {"random": 0.0, "cowpro": 0.1, "other": 0.0}
RARE = 5  # test subjects with the organ "rare"


def make_organ_bundle(root: Path, name: str = "study_segmentation", **study: Any) -> Path:
    configs = root / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({"version": "0.2.0"}))
    keys = {**KEYS, "label_fraction": None, "label_budget": 1, "validation_share": 0.0, "labels": None}
    (configs / "train.yaml").write_text(yaml.safe_dump({**keys, "regime": "random"}))
    (configs / "pretrain.yaml").write_text(yaml.safe_dump({**keys, "temperature": 0.1}))
    (configs / "evaluate.yaml").write_text(yaml.safe_dump(keys))
    (configs / "inference.yaml").write_text(yaml.safe_dump(keys))
    content = {"arms": ARMS, "baseline_arm": "random", "primary_arm": "cowpro", "primary_metric": "mean_dice"}
    (configs / "study.yaml").write_text(yaml.safe_dump({**content, **study}))
    return configs.parent


def make_scans(root: Path, test: int = 14) -> Path:
    """10 training scans and ``test`` test subjects, the first of them with two scans; masks on disk."""
    root.mkdir(parents=True)

    def scan(name: str, subject: str, values: tuple[int, ...]) -> dict[str, str]:
        mask = np.zeros((4, 4, 2), np.uint8)
        for k, value in enumerate(values):
            mask[k, :, 0] = value
        nib.save(nib.Nifti1Image(mask, np.eye(4)), root / f"{name}_mask.nii.gz")
        return {"image": f"{name}.nii.gz", "label": f"{name}_mask.nii.gz", "subject": f"subject:{subject}"}

    content = {
        "name": "scans", "modality": "MR", "task": "segmentation", "license": "none",
        "labels": {"0": "background", **{str(value): name for value, name in ORGANS.items()}},
        "training": [scan(f"train{k}", f"T{k}", tuple(ORGANS)) for k in range(10)],
        "test": [scan("test_again", "E0", tuple(ORGANS)[:2])]
        + [scan(f"test{k}", f"E{k}", tuple(ORGANS)[: 3 if k < RARE else 2]) for k in range(test)],
    }  # fmt: skip
    (root / "datalist.json").write_text(json.dumps(content))
    return root


class OrganStages:
    """Stands for ``run_process``: writes what the stages of a segmentation bundle would."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, dict[str, Any], Path]] = []

    def __call__(self, command: list[str], log: Path, threads: int, stop: Any) -> int:
        stage, folder = command[5], Path(command[command.index("--run-dir") + 1])
        keys = parse_overrides([text for text in command[6:] if "=" in text])
        self.commands.append((stage, keys, folder))
        (folder / "models").mkdir(parents=True, exist_ok=True)
        if stage == "evaluate":
            write_scores(folder, keys)
        else:
            (folder / "models" / f"{stage}.json").write_text(json.dumps(keys))
            (folder / "models" / f"{stage}.pt").write_text(f"weights of {folder.parts[-3:]}")
        return 0


def scores_of(item: Any, datalist: Any, regime: str, n_labels: int, seed: int) -> list[OrganScore]:
    """Dice of a scan: hard and easy scans, better with labels and by the arm's gain; the spleen is often missed."""
    mask = np.asarray(nib.load(datalist.root / item.label).dataobj)
    number = int(re.sub(r"\D", "", item.name) or 99)
    found = []
    for k, (value, name) in enumerate(ORGANS.items()):
        true = float((mask == value).sum())
        dice = 0.3 + 0.02 * number + 0.1 * k / 3 + 0.01 * n_labels + 0.01 * seed + GAIN[regime]
        if not true:
            found.append(OrganScore(name, "absent", None, None, 0.0, 0.0))
        elif name == "spleen" and number % 2:
            found.append(OrganScore(name, "missed", 0.0 + GAIN[regime], None, 0.0, true))
        else:
            found.append(OrganScore(name, "both", dice, 5.0 - number / 10 - seed, true + number, true))
    return found


def write_scores(folder: Path, keys: dict[str, Any]) -> None:
    trained = json.loads((folder / "models" / "train.json").read_text())
    datalist = load_datalist(keys["dataset_dir"])
    asked = {key: trained[key] for key in ("label_fraction", "label_budget", "split_seed")}
    budget = select_budget(datalist, **asked, validation_share=0.0)
    rows = []
    items = datalist.splits["test"][:: -1 if keys["seed"] else 1]  # their order is the writer's own affair
    for item in items:
        scores = scores_of(item, datalist, trained["regime"], budget.n_labels, keys["seed"])
        cells = [{**score_columns(one), "confidence": 0.5, **score_columns(one, "paper_")} for one in scores]
        rows += [{"image": item.name, "subject": item.subject, **row} for row in organ_rows(ORGANS, cells)]
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    write_table(folder / "eval" / "predictions.csv", rows)
    counts = {"n_labels_training": budget.n_labels_training, "n_labels_validation": budget.n_labels_validation}
    listed = [scores_of(item, datalist, trained["regime"], budget.n_labels, keys["seed"]) for item in items]
    figures = segmentation_report(listed, [item.group for item in items], n_boot=20)
    report = {
        "task": "segmentation", "label_counts": counts, "n_subjects_seen_in_training": 0, **figures,
        "protocol": "blind", "protocols": {"paper": figures},
    }  # fmt: skip
    (folder / "eval" / "metrics.json").write_text(json.dumps(report))


class Study:
    """A study's command, called in this process with stages that only write files."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, test: int = 14, **study: Any) -> None:
        self.bundle, self.data = make_organ_bundle(root / "b", **study), make_scans(root / "data", test)
        self.out, self.monkeypatch = root / "out", monkeypatch

    def __call__(self, *options: str, expect: int = 0) -> OrganStages:
        stages = OrganStages()
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

    def dice(self, arm: str, budget: str, seed: int) -> tuple[np.ndarray, list[str]]:
        """Dice (scans, organs) as it was written, NaN where absent, and the scans' names."""
        place = self.out / "runs" / arm / budget / f"seed{seed}" / "eval" / "predictions.csv"
        with place.open(newline="") as stream:
            read = list(csv.DictReader(stream))
        names = list(dict.fromkeys(row["image"] for row in read))
        table = np.full((len(names), len(ORGANS)), np.nan)
        for row in read:
            if row["dice"]:
                table[names.index(row["image"]), list(ORGANS.values()).index(row["organ"])] = float(row["dice"])
        return table, names


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    return Study(tmp_path, monkeypatch)


OPTIONS = ("--budgets", "1,3", "--seeds", "2", "--arms", "all")


def test_budgets_are_scans_and_the_reference_has_all_of_them(study: Study) -> None:
    done = study(*OPTIONS)
    asked = {"1labels": (None, 1), "3labels": (None, 3), "100pct": (1.0, None), "shared": (1.0, None)}
    for _, keys, folder in done.commands:
        # the bundle's own default, one scan, must not stand beside a share
        assert (keys["label_fraction"], keys["label_budget"]) == asked[folder.parts[-2]]
        assert "labels" not in keys  # all organs of the dataset: the background is none
    assert sum(stage == "pretrain" for stage, *_ in done.commands) == 2  # once a seed
    reference = {folder.parts[-3] for _, _, folder in done.commands if folder.parts[-2] == "100pct"}
    assert reference == {"random"}
    budgets = {b["name"]: (b["n_labels_training"], b["n_labels_validation"]) for b in study.record["budgets"]}
    assert budgets == {"1labels": (1, 0), "3labels": (3, 0), "100pct": (10, 0)}
    assert study(*OPTIONS).commands == []


def test_figures_claims_and_annotation_saved(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study(*OPTIONS)
    record = study.record
    assert (record["task"], record["class_names"]) == ("segmentation", list(ORGANS.values()))
    assert (record["n_test"], record["n_test_subjects"], record["majority_accuracy"]) == (15, 14, None)
    assert {row["metric"] for row in study.rows if not row["class"]} == {
        f"{source}mean_{figure}" for source in ("", "paper/")
        for figure in ("dice", "hd95_mm", "volume_bias_ml", "volume_error_ml", "volume_error_percent")
    }  # fmt: skip
    assert len(study.rows) == (3 * 2 * 2 + 2) * 2 * 5 * (1 + len(ORGANS))
    means = {}
    for arm in ("random", "cowpro"):
        for seed in (0, 1):
            table, _ = study.dice(arm, "3labels", seed)
            means[arm, seed] = float(np.mean([np.nanmean(table[:, k]) for k in range(len(ORGANS))]))
            row = next(
                one for one in study.rows
                if (one["arm"], one["budget"], one["seed"], one["metric"], one["class"])
                == (arm, "3labels", str(seed), "mean_dice", "")
            )  # fmt: skip
            assert float(row["estimate"]) == pytest.approx(means[arm, seed], abs=1e-7)
            assert (row["n"], row["n_subjects"]) == ("15", "14")
            assert float(row["low_95"]) < means[arm, seed] - 0.01  # hard and easy scans: a wide interval
    claim = next(one for one in record["claims"] if one["budget"] == "3labels")
    # scans are resampled jointly: what an arm adds to every scan alike has no width, whatever the scans drawn
    assert claim["difference"]["estimate"] == pytest.approx(0.1, abs=1e-7)
    np.testing.assert_allclose(claim["difference"]["interval_95"], 0.1, atol=1e-6)
    np.testing.assert_allclose(claim["seed_differences"], 0.1, atol=1e-7)
    p = 2 / 2001  # the least that 2,000 resamples can say, times two budgets
    assert (claim["p"], claim["p_holm"]) == (pytest.approx(p), pytest.approx(2 * p))
    # with 10 labels the baseline is 0.09 better than with 1 (0.07 than with 3), less what is missed
    saved = record["annotation_saved"]
    assert (saved["cowpro"]["budget"], saved["cowpro"]["labels_full"]) == ("1labels", 10)
    assert saved["cowpro"]["saved_fraction"] == pytest.approx(0.9)
    assert saved["random"]["budget"] is None
    assert (
        "with 1 labelled scan (1labels) the mean Dice is at most 0.01 below random with all 10 labelled scans"
        in (saved["cowpro"]["text"])
    )
    compared = {row["metric"] for row in record["exploratory"]}
    assert compared == {"mean_dice", "mean_hd95_mm", "mean_volume_error_percent", "paper/mean_dice"}
    text = capsys.readouterr().out
    assert "labelled scans (train + val.)" in text
    assert "mean HD95 (mm)" in text
    assert "Protocol: slices known" in text
    assert "cowpro is better" in text


def test_two_scans_of_a_subject_are_drawn_together(study: Study) -> None:
    """The interval against one resampled by hand: subject 0 has two scans, which come and go together."""
    study("--budgets", "1", "--seeds", "1")
    table, names = study.dice("random", "1labels", 0)
    subjects = [0 if name.startswith("test_again") else int(re.sub(r"\D", "", name)) for name in names]
    maker, values = np.random.default_rng(5), []
    for _ in range(2000):
        chosen = [k for one in maker.integers(0, 14, 14) for k, subject in enumerate(subjects) if subject == one]
        values.append(np.nanmean(table[chosen, 0]))
    row = next(
        one for one in study.record["summary"]
        if (one["arm"], one["budget"], one["metric"], one["class"]) == ("random", "1labels", "dice", "liver")
    )  # fmt: skip
    np.testing.assert_allclose(row["interval_95"], np.percentile(values, [2.5, 97.5]), atol=0.02)
    assert row["interval_95"][1] - row["interval_95"][0] > 0.1


def test_organs_of_few_subjects_have_no_interval(study: Study) -> None:
    study(*OPTIONS)
    record = study.record
    by = {(row["metric"], row["class"]): row for row in record["summary"] if row["arm"] == "cowpro"}
    rare = by["dice", "rare"]
    assert rare["estimate"] is not None
    assert (rare["interval_90"], rare["interval_95"], rare["n_subjects"]) == (None, None, RARE)
    assert rare["note"] == "only 5 subjects with this organ; no interval below 10"
    assert by["dice", "spleen"]["interval_95"]
    # a distance is known of the 7 subjects only in whom the spleen was found
    assert by["hd95_mm", "spleen"]["interval_95"] is None
    assert by["hd95_mm", "spleen"]["note"] == "only 7 subjects; no interval below 10"
    assert (by["hd95_mm", "spleen"]["n"], by["dice", "spleen"]["n"]) == (7, 15)
    assert any("fewer than 10 test subjects with the organ: rare (5); no interval" in w for w in record["warnings"])
    # nothing is chosen by validation labels here, so their lack is no limit
    assert not [words for words in record["warnings"] if "validation labels" in words]
    blank = [row for row in study.rows if row["class"] == "rare" and row["metric"] == "dice"]
    assert all(row["estimate"] and not row["low_90"] and row["n_subjects"] == "5" for row in blank)


def test_page_shows_each_organ(study: Study) -> None:
    study(*OPTIONS)
    page = report_page(study.out)
    for words in (
        "Yes at 1 labelled scan and 3 labelled scans: cowpro was better than random.",
        "Each organ", "Liver: Dice", "Spleen: Dice", "Labelled scans (training and validation), logarithmic",
        "random with all labelled scans, band", "Dice of each organ, 95 % intervals", "Mean Dice (slices known)",
        "15 test scans of 14 test subjects never trained on", "another labelled scan may serve better",
        "Of distances and volume errors less is better.", "against the baseline arm as it is",
    ):  # fmt: skip
        assert words in page, words
    for words in ("cannot be shown", "test images of", "of each class", "A better AUROC", "labels to choose by"):
        assert words not in page, words
    # what only classifiers leave, and a history of steps that a bank of prototypes does not take, is not missed
    for name in ("roc.png", "saliency.png", "features.npz", "/history.json", "Training curves"):
        assert name not in page, name
    curve = page[page.index("Liver: Dice against number of labelled scans") :]
    estimate = next(
        row["estimate"] for row in study.record["summary"]
        if (row["arm"], row["budget"], row["metric"], row["class"]) == ("cowpro", "1labels", "dice", "liver")
    )  # fmt: skip
    assert f"cowpro with 1 labelled scan {estimate:.3f}" in curve


def test_few_test_subjects_give_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study(tmp_path, monkeypatch, test=6)
    study("--budgets", "1", "--seeds", "1")
    claim = study.record["claims"][0]
    assert claim["difference"]["estimate"] == pytest.approx(0.1, abs=1e-7)
    assert (claim["difference"]["interval_95"], claim["p"]) == (None, None)
    assert claim["note"] == "only 6 subjects; no interval below 10"
    words = "No answer: too few test subjects: 3 of 3 organs are shown by fewer than 10 test subjects."
    assert words in report_page(study.out)


def test_some_organs_of_the_dataset(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    done = study("--budgets", "1", "--seeds", "1", "labels=[liver,spleen]")
    assert {str(keys.get("labels")) for stage, keys, _ in done.commands if stage == "train"} == {"['liver', 'spleen']"}
    study("--budgets", "1", "--seeds", "1", "labels=[liver,spleeen]", expect=2)
    assert "Did you mean 'spleen'" in capsys.readouterr().err


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("test3.nii.gz", "other.nii.gz", "scores of other test scans or organs than those of the other runs"),
        ("spleen", "splen", "scores of other test scans or organs than those of the other runs"),
        (",8,", ",9,", "other masks than in the other runs"),
        ("both", "bth", "line 2 cannot be read .case is 'bth'"),
        ("dice", "dce", "no column dice"),
    ],
)
def test_runs_that_cannot_be_compared(
    study: Study, old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study("--budgets", "1", "--seeds", "1")
    place = study.out / "runs/cowpro/1labels/seed0"
    path = place / "eval" / "predictions.csv"
    if old == ",8,":
        lines = path.read_text().splitlines()
        cells = lines[1].split(",")
        cells[lines[0].split(",").index("true_volume_ml")] = "9"
        lines[1] = ",".join(cells)
        path.write_text("\n".join(lines) + "\n")
    else:
        change(path, old, new)
    # as if the run had left it so
    record = json.loads((place / "evaluate.stage.json").read_text())
    record["outputs"] = arms._result_digests(place, record["outputs"])
    (place / "evaluate.stage.json").write_text(json.dumps(record))
    capsys.readouterr()
    study("--budgets", "1", "--seeds", "1", expect=2)
    assert re.search(message, capsys.readouterr().err)


def test_other_tasks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    study = Study(tmp_path, monkeypatch)
    content = json.loads((study.data / "datalist.json").read_text())
    for part in ("training", "test"):
        content[part] = [{**item, "label": k % 2} for k, item in enumerate(content[part])]
    classes = tmp_path / "classes"
    classes.mkdir()
    (classes / "datalist.json").write_text(json.dumps({**content, "task": "binary", "labels": ["a", "b"]}))
    masks, study.data = study.data, classes
    assert study(expect=2).commands == []
    error = capsys.readouterr().err
    assert "study_segmentation segments organs" in error
    assert "task binary" in error
    study.data, study.bundle = masks, make_organ_bundle(tmp_path / "c", "study_classification", **STUDY)
    assert study(expect=2).commands == []
    error = capsys.readouterr().err
    assert "study_classification classifies images" in error
    assert "binary, multiclass or multilabel" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"primary_metric": "macro_auroc"}, "'macro_auroc' is no figure of organs.*one of mean_dice, paper/mean_dice"),
        ({"primary_metric": "mean_dise"}, "Did you mean 'mean_dice'"),
        ({"primary_metric": "mean_hd95_mm"}, "no figure of organs that a claim may be about"),
        (
            {"arms": {**ARMS, "judged": {"stages": ["train", "evaluate"], "protocols": ["knn"]}}},
            "protocols of arm 'judged' judge embeddings of whole images.*found knn",
        ),
    ],
)
def test_studies_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_study(make_organ_bundle(tmp_path, **changes))
    assert re.search(message, str(caught.value), re.DOTALL), caught.value


def test_claims_of_organs(tmp_path: Path) -> None:
    assert StudyArm("one", ("train", "evaluate")).metrics(organs=True) == list(ORGAN_CLAIMS)
    assert StudyArm("one", ("train",)).metrics(organs=True) == []
    assert read_study(make_organ_bundle(tmp_path, primary_metric="paper/mean_dice")).organs
    # a copy under another name is known by what its metadata say of the output
    copy = make_organ_bundle(tmp_path, "mine")
    with pytest.raises(ConfigError, match="'mean_dice' is not computed"):
        read_study(copy)
    formats = {"network_data_format": {"outputs": {"pred": {"format": "segmentation"}}}}
    (copy / "configs" / "metadata.json").write_text(json.dumps(formats))
    assert read_study(copy).organs


@pytest.mark.parametrize(
    "arguments",
    [
        ("features", "{bundle}", "{data}", "{out}/features.npz", "--run-dir", "{out}"),
        ("next", "{bundle}", "{data}", "--run-dir", "{out}"),
        ("protocol", "knn", "{out}", "{data}"),
        ("protocol", "knn", "{out}", "{data}", "--bundle", "{bundle}"),
        ("protocol", "knn", "{out}", "{data}", "--bundle", "{bundle}", "--untrained"),
        ("protocol", "knn", "{out}/new", "{data}", "--bundle", "{bundle}", "--untrained"),
    ],
)
def test_commands_for_embeddings_say_that_a_bundle_segments(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, data, out = make_organ_bundle(tmp_path / "b"), make_scans(tmp_path / "data"), tmp_path / "run"
    (out / "models").mkdir(parents=True)
    (out / "models" / "model.pt").write_bytes(b"weights")
    (out / "models" / "train_config.yaml").write_text(yaml.safe_dump({**KEYS, "bundle_root": str(bundle)}))
    assert main([text.format(bundle=bundle, data=data, out=out) for text in arguments]) == 2
    error = capsys.readouterr().err
    assert "this bundle segments scans: it gives no embedding and no class of a whole image" in error
    assert "`medssl supports` says which labelled scan serves best" in error
