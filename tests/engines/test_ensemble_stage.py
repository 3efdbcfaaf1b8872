"""The ensemble stage: joins, weights, votes and intervals recomputed, every table a user can get wrong."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from sklearn.metrics import roc_auc_score

from medssl_monai.core import CheckpointError, ConfigError, DataError, OutputError
from medssl_monai.core.hashing import hash_case
from medssl_monai.data.datalist import Item
from medssl_monai.engines import PlaneEnsemble, plane_folders
from medssl_monai.handlers import EvaluationWriter
from medssl_monai.handlers.prediction_files import write_label_predictions
from medssl_monai.metrics import multilabel_report, paired_bootstrap

LABELS = ["abnormal", "acl", "meniscus"]
PLANES = ["sagittal", "coronal", "axial"]
SKILL = {"sagittal": 2.0, "coronal": 1.0, "axial": 0.3}
SPLITS = {"test": ("", 60), "validation": ("validation_", 40)}


def exam_names(split):
    return [f"exams/{split}{n:03d}/sagittal.nii.gz" for n in range(SPLITS[split][1])]


def truth_of(split):
    random = np.random.default_rng(1 if split == "test" else 2)
    torn = random.random((SPLITS[split][1], 2)) < (0.35, 0.45)
    return np.c_[torn.any(1) | (random.random(len(torn)) < 0.3), torn].astype(int)


def scores_of(split, plane, labels=LABELS):
    random = np.random.default_rng([ord(plane[0]), len(split)])
    columns = [LABELS.index(label) for label in labels]
    truth = truth_of(split)
    logits = SKILL[plane] * (2 * truth - 1) + random.normal(0, 1.5, truth.shape)
    return (1 / (1 + np.exp(-logits)))[:, columns]


def items_of(split):
    names, truth = exam_names(split), truth_of(split)
    return [
        Item(name, tuple(map(int, row)), f"subject:{split}{n // 2}", {"sex": ("female", "male")[n % 2]})
        for n, (name, row) in enumerate(zip(names, truth, strict=True))
    ]


def write_plane(folder, plane, labels=LABELS, order=None):
    """A plane's results as the evaluate stage writes them, of both splits, rows in an order of its own."""
    serving = {
        "labels": list(labels), "exclusive": False, "temperature": None, "operating_points": {},
        "calibration_note": "a test", "settings": {"plane": plane}, "label_counts": {"n_labels": 9},
        "seen_key": hash_case("key"), "seen_subjects": [],
    }  # fmt: skip
    for split in SPLITS:
        writer = EvaluationWriter(folder, items_of(split), serving, "knees", n_boot=20, split=split)
        rows = np.random.default_rng(order).permutation(SPLITS[split][1])
        writer.clear(None)
        writer.names = [exam_names(split)[row] for row in rows]
        p = scores_of(split, plane, labels)[rows]
        writer._outputs = [torch.from_numpy(np.log(p / (1 - p)))]
        writer._labels = [torch.from_numpy(truth_of(split)[rows][:, [LABELS.index(label) for label in labels]])]
        writer.finish(None)
    return folder


@pytest.fixture(scope="module")
def planes(tmp_path_factory):
    root = tmp_path_factory.mktemp("planes")
    return {plane: write_plane(root / plane, plane, order=n) for n, plane in enumerate(PLANES)}


@pytest.fixture(scope="module")
def ensemble(planes, tmp_path_factory):
    out = tmp_path_factory.mktemp("ensemble")
    stage = PlaneEnsemble(planes, LABELS, out / "eval", out / "models", items=items_of("test"), n_boot=200, seed=3)
    return stage.evaluate(), out


def rows_of(path):
    with Path(path).open(newline="") as stream:
        return {row["image"]: row for row in csv.DictReader(stream)}


def by_loops():
    """Weights and votes by equations 4.19 and 4.20, from the numbers the tables were written from."""
    truth, weights = truth_of("validation"), {}
    for c, label in enumerate(LABELS):
        odds = {}
        for plane in PLANES:
            p = scores_of("validation", plane)[:, c]
            accuracy = np.mean([(one >= 0.5) == bool(t) for one, t in zip(p, truth[:, c], strict=True)])
            accuracy = min(max(accuracy, 0.501), 0.999)
            odds[plane] = math.log(accuracy / (1 - accuracy))
        for plane in PLANES:
            weights[plane, label] = odds[plane] / sum(odds.values())
    votes = np.zeros((SPLITS["test"][1], 3))
    for plane in PLANES:
        for c, label in enumerate(LABELS):
            votes[:, c] += weights[plane, label] * scores_of("test", plane)[:, c]
    return weights, votes


def test_weights_and_votes_are_those_of_the_equations(ensemble):
    weights, votes = by_loops()
    stored = json.loads((ensemble[1] / "models" / "ensemble.json").read_text())
    assert stored["labels"] == LABELS
    assert stored["set_on"] == "validation"
    assert (stored["n"], stored["n_subjects"]) == (40, 20)
    for (plane, label), weight in weights.items():
        assert stored["weights"][plane][label] == pytest.approx(weight, abs=1e-6)
    assert stored["weights"]["sagittal"]["acl"] > stored["weights"]["axial"]["acl"]
    assert set(stored["predictions_sha256"]["axial"]) == {"all"}
    written = rows_of(ensemble[1] / "eval" / "predictions.csv")
    for name, expected, truth in zip(exam_names("test"), votes, truth_of("test"), strict=True):
        row = written[name]
        assert [float(row[f"probability_{label}"]) for label in LABELS] == pytest.approx(expected.tolist(), abs=1e-6)
        assert [int(row[f"label_{label}"]) for label in LABELS] == truth.tolist()
        assert [int(row[f"predicted_{label}"]) for label in LABELS] == [int(p >= 0.5) for p in expected]
    assert row["subject"] == "subject:test29"


def test_metrics_are_those_of_the_evaluate_stage(ensemble):
    report, (_, votes), truth = ensemble[0], by_loops(), truth_of("test")
    assert report == json.loads((ensemble[1] / "eval" / "metrics.json").read_text())
    groups = [item.group for item in items_of("test")]
    whole = multilabel_report(truth, votes, groups, LABELS, n_boot=200, seed=3)
    for key in ("n", "n_subjects", "class_names", "threshold", "exclusive"):
        assert report[key] == whole[key]
    for name, entry in whole["metrics"].items():
        assert report["metrics"][name]["estimate"] == pytest.approx(entry["estimate"], abs=1e-6)
    for c, label in enumerate(LABELS):
        found = report["per_class"][label]["auroc"]
        assert found["estimate"] == pytest.approx(roc_auc_score(truth[:, c], votes[:, c]))
        for plane in PLANES:
            one = report["planes"][plane]["per_class"][label]["auroc"]["estimate"]
            assert one == pytest.approx(roc_auc_score(truth[:, c], scores_of("test", plane)[:, c]))
    assert report["dataset"] == "knees"
    assert report["label_counts"] == {"n_labels": 9}
    assert report["settings"]["coronal"] == {"plane": "coronal"}
    assert report["n_subjects_seen_in_training"] == 0
    assert set(report["subgroups"]["sex"]) == {"female", "male"}


def test_the_difference_is_paired_and_to_the_best_plane_of_validation(ensemble):
    difference = ensemble[0]["difference"]
    valid = {p: roc_auc_score(truth_of("validation"), scores_of("validation", p)) for p in PLANES}
    assert difference["minus"] == max(valid, key=valid.get)
    assert difference["validation_scores"] == pytest.approx(valid)
    _, votes = by_loops()
    groups = [item.group for item in items_of("test")]
    for c, label in enumerate(LABELS):
        best = scores_of("test", difference["minus"])[:, c]
        expected = paired_bootstrap("auroc", truth_of("test")[:, c], votes[:, c], best, groups, n_boot=200, seed=3)
        entry = difference["per_class"][label]["auroc"]
        assert entry["estimate"] == pytest.approx(expected.estimate)
        assert entry["interval_90"] == pytest.approx([expected.low, expected.high])
    means = [difference["per_class"][label]["auroc"]["estimate"] for label in LABELS]
    assert difference["macro_auroc"]["estimate"] == pytest.approx(np.mean(means))


def test_nine_models_of_one_label_give_the_same(planes, ensemble, tmp_path):
    sources = {
        plane: {label: write_plane(tmp_path / plane / label, plane, [label], order=n + m)
                for m, label in enumerate(LABELS)}
        for n, plane in enumerate(PLANES)
    }  # fmt: skip
    report = PlaneEnsemble(sources, LABELS, tmp_path / "out", tmp_path / "models", n_boot=200, seed=3).evaluate()
    for name in ("macro_auroc", "macro_average_precision", "subset_accuracy"):
        assert report["metrics"][name]["estimate"] == pytest.approx(ensemble[0]["metrics"][name]["estimate"])
    assert report["subgroups"] == {}
    assert set(report["settings"]) == {f"{plane} {label}" for plane in PLANES for label in LABELS}
    stored = json.loads((tmp_path / "models" / "ensemble.json").read_text())
    assert set(stored["sources"]["axial"]) == set(LABELS)
    mixed = {**planes, "axial": sources["axial"]}
    again = PlaneEnsemble(mixed, LABELS, tmp_path / "mixed", tmp_path / "m", n_boot=20).evaluate()
    assert again["metrics"]["macro_auroc"]["estimate"] == pytest.approx(report["metrics"]["macro_auroc"]["estimate"])


def test_the_validation_split_as_in_the_thesis(planes, ensemble, tmp_path, caplog):
    """Weights and figures from the same exams; nothing that looks like a test result is written."""
    sources = {plane: copied(folder, tmp_path / plane) for plane, folder in planes.items()}
    for folder in sources.values():  # a dataset without a test part has no such files
        (folder / "metrics.json").unlink()
        (folder / "predictions.csv").unlink()
    out = tmp_path / "o"
    stage = PlaneEnsemble(
        sources, LABELS, out, tmp_path / "m", items=items_of("validation"), n_boot=50, split="validation"
    )
    report = stage.evaluate()
    assert {path.name for path in out.glob("*.*")} >= {"validation_metrics.json", "validation_predictions.csv"}
    assert not (out / "metrics.json").exists()
    assert not (out / "predictions.csv").exists()
    weights, _ = by_loops()
    stored = json.loads((tmp_path / "m" / "ensemble.json").read_text())["weights"]
    assert stored == json.loads((ensemble[1] / "models" / "ensemble.json").read_text())["weights"]
    truth = truth_of("validation")
    for c, label in enumerate(LABELS):
        votes = sum(weights[plane, label] * scores_of("validation", plane)[:, c] for plane in PLANES)
        assert report["per_class"][label]["auroc"]["estimate"] == pytest.approx(roc_auc_score(truth[:, c], votes))
    assert report["split"] == "validation"
    assert report["warnings"][0].startswith("figures of the validation exams, by which checkpoints")
    ending = (
        "weights were set (as in the thesis, which sets the weights on the exams it reports): too good, and no test"
    )
    assert f"{ending} result" in report["warnings"][0]
    assert report["warnings"][0] in caplog.text
    assert "n_subjects_seen_in_training" not in report
    assert set(report["subgroups"]["sex"]) == {"female", "male"}
    with pytest.raises(DataError, match=r"exam is not in the validation split.* evaluate the validation split again"):
        PlaneEnsemble(sources, LABELS, out, tmp_path / "m", items=items_of("test"), split="validation").evaluate()


def write_inference(folder, plane, names, differs=None):
    p = scores_of("test", plane)[: len(names)]
    columns = {} if differs is None else {"differs": differs}
    write_label_predictions(folder / "inference.csv", names, p, p >= 0.5, LABELS, columns)
    return folder


def test_inference_uses_the_stored_weights(ensemble, tmp_path):
    names = exam_names("test")[:4]
    differs = {"axial": ["", "smaller", "", ""], "coronal": ["", "darker", "", ""]}
    sources = {p: write_inference(tmp_path / p, p, names, differs.get(p)) for p in reversed(PLANES)}
    written = PlaneEnsemble(sources, LABELS, tmp_path / "out", ensemble[1] / "models").predict()
    _, votes = by_loops()
    np.testing.assert_allclose(written.probabilities, votes[:4], atol=1e-6)
    rows = rows_of(tmp_path / "out" / "inference.csv")
    assert list(rows) == names
    assert rows[names[1]]["differs"] == "axial: smaller; coronal: darker"
    assert rows[names[0]]["differs"] == ""
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_exams_that_a_plane_lacks(ensemble, tmp_path):
    names = exam_names("test")[:5]
    sources = {p: write_inference(tmp_path / p, p, names[: 3 if p == "axial" else 5]) for p in PLANES}
    with pytest.raises(DataError, match=r"axial/inference.csv: 2 of 5 exams have no prediction of the axial plane: "
                                        r"exams/test003/sagittal.nii.gz, exams/test004.*missing_planes"):  # fmt: skip
        PlaneEnsemble(sources, LABELS, tmp_path / "o", ensemble[1] / "models").predict()
    written = PlaneEnsemble(sources, LABELS, tmp_path / "o", ensemble[1] / "models", missing="average").predict()
    weights, votes = by_loops()
    np.testing.assert_allclose(written.probabilities[:3], votes[:3], atol=1e-6)
    two = ["sagittal", "coronal"]
    for c, label in enumerate(LABELS):
        share = sum(weights[p, label] for p in two)
        expected = sum(weights[p, label] * scores_of("test", p)[4, c] for p in two) / share
        assert written.probabilities[4, c] == pytest.approx(expected, abs=1e-6)
    rows = rows_of(tmp_path / "o" / "inference.csv")
    assert [rows[name]["planes"] for name in names[2:4]] == ["sagittal coronal axial", "sagittal coronal"]


def test_evaluation_with_exams_that_a_plane_lacks(planes, tmp_path):
    sources = {**planes, "axial": copied(planes["axial"], tmp_path / "axial")}
    edit(sources["axial"] / "predictions.csv", lambda rows: rows[:31])
    report = PlaneEnsemble(sources, LABELS, tmp_path / "o", tmp_path / "m", missing="average", n_boot=50).evaluate()
    assert (report["n"], report["planes"]["axial"]["n"], report["planes"]["coronal"]["n"]) == (60, 30, 60)
    assert all(entry["estimate"] is not None for entry in report["metrics"].values())
    assert report["difference"]["macro_auroc"]["n"] == 60


CONFIG = """
imports: []
bundle_root: "."
labels: [abnormal, acl, meniscus]
planes: {planes}
ensemble:
  _target_: medssl_monai.engines.PlaneEnsemble
  sources: "@planes"
  labels: "@labels"
  output_dir: "$@bundle_root + '/eval'"
  ckpt_dir: "$@bundle_root + '/models'"
  n_boot: 20
initialize: []
run:
  - "$@ensemble.evaluate()"
finalize: []
"""


def test_as_a_stage_of_a_bundle(planes, ensemble, tmp_path):
    text = CONFIG.format(planes=json.dumps({plane: str(folder) for plane, folder in planes.items()}))
    (tmp_path / "ensemble.yaml").write_text(text)
    stage = ConfigWorkflow(str(tmp_path / "ensemble.yaml"), workflow_type="train", bundle_root=str(tmp_path))
    stage.initialize()
    stage.run()
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["metrics"]["macro_auroc"]["estimate"] == ensemble[0]["metrics"]["macro_auroc"]["estimate"]
    assert (tmp_path / "models" / "ensemble.json").is_file()


def copied(folder, target):
    target.mkdir(parents=True)
    for path in folder.glob("*.*"):
        (target / path.name).write_bytes(path.read_bytes())
    return target


def edit(path, change):
    """Rewrite a table; ``change`` gets and gives its lines as lists of cells, the header first."""
    with path.open(newline="") as stream:
        rows = list(csv.reader(stream))
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(change(rows))


def cell(column, value):
    def change(rows):
        rows[1][rows[0].index(column)] = value
        return rows

    return change


def renamed(**names):
    return lambda rows: [[names.get(name, name) for name in rows[0]], *rows[1:]]


def swapped(rows):
    a, b = rows[0].index("probability_acl"), rows[0].index("probability_abnormal")
    for row in rows:
        row[a], row[b] = row[b], row[a]
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[5]], r"more than once: exams/.* \(expected one row an exam\)"),
        (lambda rows: rows[:-2], r"2 of 60 exams have no prediction of the coronal plane: exams/"),
        (lambda rows: rows[:1], "holds no prediction"),
        (swapped, r"labels stand in another order \(found acl, abnormal, meniscus, expected abnormal, acl, meniscus\)"),
        (renamed(probability_acl="probability_pcl"), r"of other labels \(found abnormal, pcl, meniscus, expected abn"),
        (renamed(label_acl="truth"), r"true labels are not in this table .*expected columns label_acl too"),
        (renamed(image="exam"), r"is no table of predictions .*expected columns image and probability_NAME"),
        (lambda rows: [row[:2] for row in rows], "is no table of predictions"),
        (lambda rows: [*rows, rows[1][:3]], "line 62 has another number of columns than the header"),
        (lambda rows: [*rows, [*rows[1], "1"]], "line 62 has another number of columns than the header"),
        (cell("probability_acl", "1.5"), r"probability_acl of exam .* is no probability \(found 1.5, expected a num"),
        (cell("probability_acl", "nan"), r"is no probability \(found nan"),
        (cell("probability_acl", ""), r"is no probability \(found nothing"),
        (cell("label_acl", "2"), r"label_acl of exam .* is no label \(found 2, expected 0 or 1\)"),
        (cell("subject", "subject:X"), r"has another subject than in .*found subject:X, expected subject:test"),
        (lambda rows: [rows[0], *([*row[:2], str(1 - int(row[2])), *row[3:]] for row in rows[1:])],
         "has another true labels than in"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used(planes, tmp_path, change, message):
    sources = {**planes, "coronal": copied(planes["coronal"], tmp_path / "coronal")}
    edit(sources["coronal"] / "predictions.csv", change)
    with pytest.raises(DataError, match=message):
        PlaneEnsemble(sources, LABELS, tmp_path / "out", tmp_path / "models").evaluate()
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_weights_never_come_from_the_test_split(planes, tmp_path):
    sources = {plane: copied(folder, tmp_path / plane) for plane, folder in planes.items()}
    for folder in sources.values():
        (folder / "validation_predictions.csv").write_bytes((folder / "predictions.csv").read_bytes())
    with pytest.raises(
        DataError, match=r"weights would come from the test split: 60 exams are in both .*never on test"
    ):
        PlaneEnsemble(sources, LABELS, tmp_path / "out", tmp_path / "models").evaluate()
    for plane, folder in sources.items():  # other exams, but of a subject that is tested
        source = planes[plane] / "validation_predictions.csv"
        (folder / "validation_predictions.csv").write_text(
            source.read_text().replace("subject:validation3,", "subject:test3,")
        )
    with pytest.raises(DataError, match=r"test split: 1 subjects are in both tables \(found subject:test3"):
        PlaneEnsemble(sources, LABELS, tmp_path / "out", tmp_path / "models").evaluate()
    assert not (tmp_path / "models").exists()


def test_files_that_are_not_there(planes, tmp_path):
    sources = {**planes, "axial": copied(planes["axial"], tmp_path / "axial")}
    stage = PlaneEnsemble(sources, LABELS, tmp_path / "out", tmp_path / "models")
    with pytest.raises(CheckpointError, match=r"no ensemble.json here\. The ensemble stage writes it from validation"):
        stage.predict()
    (tmp_path / "axial" / "metrics.json").write_text('{"dataset": "knees"}')
    with pytest.raises(DataError, match=r"no result of the evaluate stage \(found no settings, label_counts\)"):
        stage.evaluate()
    (tmp_path / "axial" / "metrics.json").write_text('{"dataset": "hips", "settings": {}, "label_counts": {}}')
    with pytest.raises(
        DataError, match=r"sources: the planes were evaluated on different datasets \(found hips, knees"
    ):
        stage.evaluate()
    (tmp_path / "axial" / "validation_predictions.csv").unlink()
    with pytest.raises(DataError, match=r"axial/validation_predictions.csv: no such table .* of the validation split"):
        stage.evaluate()
    (tmp_path / "axial" / "validation_predictions.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a table"):
        stage.evaluate()


def test_stored_weights_of_something_else(ensemble, planes, tmp_path):
    models = ensemble[1] / "models"
    two = {plane: planes[plane] for plane in PLANES[:2]}
    message = r"other planes or labels \(found planes sagittal, coronal, axial; .*expected planes sagittal, coronal; l"
    with pytest.raises(CheckpointError, match=message):
        PlaneEnsemble(two, LABELS, tmp_path / "o", models).predict()
    with pytest.raises(CheckpointError, match="weights are of other planes or labels"):
        PlaneEnsemble(planes, LABELS[::-1], tmp_path / "o", models).predict()
    (tmp_path / "ensemble.json").write_text('{"labels": ["a"]}')
    with pytest.raises(CheckpointError, match=r"holds no weights of an ensemble \(found KeyError: 'weights'\)"):
        PlaneEnsemble(planes, LABELS, tmp_path / "o", tmp_path).predict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "a"]}, r"labels: labels must be different names \(found \['a', 'a'\]\)"),
        ({"sources": {"axial": "a"}}, r"sources: an ensemble joins two planes or more \(found axial"),
        ({"sources": {"axial": "a", "coronal": "./a"}}, "sources#coronal: one folder stands for two models"),
        (
            {"sources": {"axial": "a", "coronal": {"acl": "b"}}},
            r"sources#coronal: a plane needs one folder of each label",
        ),
        ({"split": "validaton"}, r"split: unknown split 'validaton'. Did you mean 'validation'?"),
        ({"missing": "averge"}, "missing: missing cannot be 'averge'. Did you mean 'average'?"),
        ({"output_dir": "b"}, r"output_dir: the ensemble would overwrite the results of a plane \(found b\)"),
    ],
)
def test_configurations_that_cannot_be_used(change, message):
    settings = {"sources": {"axial": "a", "coronal": "b"}, "labels": LABELS, "output_dir": "o", "ckpt_dir": "m"}
    with pytest.raises(ConfigError, match=message):
        PlaneEnsemble(**{**settings, **change})


def test_cautions(planes, tmp_path):
    sources = {plane: copied(folder, tmp_path / plane) for plane, folder in planes.items()}
    counts = {"sagittal": 0, "coronal": None, "axial": 2}
    few, place = exam_names("validation")[:6], 2 + LABELS.index("acl")

    def six_without(rows):
        return [rows[0], *([*r[:place], "0", *r[place + 1 :]] for r in rows[1:] if r[0] in few)]

    for plane, folder in sources.items():
        content = json.loads((folder / "metrics.json").read_text())
        content["n_subjects_seen_in_training"] = counts[plane]
        content["label_counts"] = {"n_labels": len(plane)}
        (folder / "metrics.json").write_text(json.dumps(content))
        edit(folder / "validation_predictions.csv", six_without)
    report = PlaneEnsemble(sources, LABELS, tmp_path / "o", tmp_path / "m", n_boot=20).evaluate()
    text = "\n".join(report["warnings"])
    assert "the weights rest on 3 validation subjects" in text
    assert "coronal: whether test subjects were seen in training is unknown" in text
    assert "axial: 2 test subjects were seen in training: the figures are too good" in text
    assert "trained with different label budgets" in text
    assert "sagittal: the validation exams all have, or all lack, acl" in text
    assert report["n_subjects_seen_in_training"] is None


def test_another_run_in_the_folder(planes, tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(OutputError, match="another run is writing in this folder"),
    ):
        PlaneEnsemble(planes, LABELS, tmp_path / "out", tmp_path / "models").evaluate()


def test_labels_of_one_plane_of_different_exams(planes, tmp_path):
    single = {label: write_plane(tmp_path / label, "axial", [label]) for label in LABELS}
    edit(single["meniscus"] / "predictions.csv", lambda rows: rows[:-1])
    with pytest.raises(
        DataError, match=r"meniscus/predictions.csv: axial: exams without a prediction of meniscus: exams"
    ):
        PlaneEnsemble({**planes, "axial": single}, LABELS, tmp_path / "o", tmp_path / "m", n_boot=5).evaluate()
    write_plane(tmp_path / "meniscus", "axial", ["meniscus"])
    edit(single["acl"] / "predictions.csv", cell("subject", "subject:Y"))
    stage = PlaneEnsemble({**planes, "axial": single}, LABELS, tmp_path / "o", tmp_path / "m", n_boot=5)
    with pytest.raises(DataError, match="another subject than in"):
        stage.evaluate()


def test_exams_of_another_dataset(planes, tmp_path):
    with pytest.raises(DataError, match=r"exams/test.*: exam is not in the test split"):
        PlaneEnsemble(planes, LABELS, tmp_path / "o", tmp_path / "m", items=items_of("validation"), n_boot=5).evaluate()


def test_planes_of_one_budget_are_said_to_be_of_one(planes, tmp_path):
    """Each plane has files, and a model of one label classes, of its own: neither is another budget."""
    sources = {plane: copied(folder, tmp_path / plane) for plane, folder in planes.items()}
    for plane, folder in sources.items():
        content = json.loads((folder / "metrics.json").read_text())
        content["label_counts"] |= {"fingerprint": plane, "classes_training": {plane: 1}}
        (folder / "metrics.json").write_text(json.dumps(content))
    report = PlaneEnsemble(sources, LABELS, tmp_path / "o", tmp_path / "m", n_boot=20).evaluate()
    assert not [text for text in report["warnings"] if "label budgets" in text]


@pytest.mark.parametrize(
    ("output_dir", "folder"),
    [("b/eval/exam", "b/eval/axial"), ("RUN/exam/eval", "RUN/axial/eval"), ("exam/exam/eval", "exam/axial/eval")],
)
def test_planes_lie_beside_the_exam(output_dir, folder):
    found = plane_folders(["axial", "coronal"], output_dir)
    assert found == {"axial": Path(folder), "coronal": Path(folder.replace("axial", "coronal"))}
    by_label = plane_folders(["axial"], output_dir.replace("exam", "all"), "all", ["acl", "meniscus"])
    expected = folder.replace("exam", "all").replace("axial", "axial/LABEL")
    assert by_label == {"axial": {k: Path(expected.replace("LABEL", k)) for k in ("acl", "meniscus")}}


@pytest.mark.parametrize("output_dir", ["RUN/eval", "exam/RUN/eval", "eval", "exams/eval"])
def test_planes_that_lie_beside_nothing(output_dir):
    message = (
        r"output_dir: the planes' folders cannot be told.*expected a folder exam, or exam/eval.*--run-dir RUN/exam"
    )
    with pytest.raises(ConfigError, match=message):
        plane_folders(["axial", "coronal"], output_dir)
