"""``medssl protocol`` on an encoder that nobody has trained: colours are told apart by any."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from medssl_monai.apps.cli import main
from medssl_monai.apps.protocol import embeddings
from medssl_monai.apps.protocol.judge import Samples, check_embeddings, judge, label_array
from medssl_monai.apps.protocol.results import write_results
from medssl_monai.core import DataError
from medssl_monai.data import Datalist, Item, load_datalist, select_budget
from medssl_monai.handlers import BudgetRecord, PretrainRecord
from medssl_monai.handlers.features import read_features

BUNDLE = "srcl_skin_lesion_classification"
KEYS = ("image_size=16", "backbone=resnet18", "width=0.125", "labels=[dark, bright]", "batch_size=32")


def make_data(folder: Path, **changes: Any) -> Path:
    """60 training, 20 validation and 40 test images of two a subject; bright ones are brighter, mostly."""
    random = np.random.default_rng(0)

    def items(split: str, subjects: int) -> list[dict[str, Any]]:
        made = []
        for i in range(2 * subjects):
            label = (i // 2) % 2
            path = folder / split / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = random.normal(100 + 30 * label, 25)
            pixels = np.clip(random.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path)
            made.append({"image": f"{split}/{i}.png", "label": label, "subject": f"subject:{split}{i // 2}"})
        return made

    content = {
        "name": "toy", "modality": "none", "task": "binary", "labels": ["dark", "bright"], "license": "none",
        "training": items("training", 30), "validation": items("validation", 10), "test": items("test", 20),
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps({**content, **changes}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and the results of all protocols on an untrained encoder."""
    root = tmp_path_factory.mktemp("protocol")
    data = make_data(root / "data")
    assert call("knn,linear_probe,linear_svm", root / "run", data, "--untrained", "--bundle", BUNDLE, *KEYS) == 0
    return root


def call(*arguments: object) -> int:
    return main(["protocol", *map(str, arguments)])


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def scores(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    with (folder / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return np.array([row["label"] == "bright" for row in rows]), np.array(
        [float(r["probability_bright"]) for r in rows]
    )


def parts(root: Path) -> dict[str, np.ndarray]:
    """Embeddings by split, in the order that the file keeps: training, validation, test."""
    features = read_features(root / "run/eval/protocols/features_untrained.npz")
    return {split: features.embeddings[features.split == split] for split in ("training", "validation", "test")}


LABELS = {split: (np.arange(n) // 2) % 2 for split, n in (("training", 60), ("validation", 20), ("test", 40))}


def test_neighbours_by_hand(made: Path) -> None:
    held = {name: rows.astype(float) for name, rows in parts(made).items()}
    expected = []
    for q in held["test"]:
        votes = [0.0, 0.0]
        for b, label in zip(held["training"], LABELS["training"]):
            votes[label] += math.exp(float(q @ b) / math.sqrt(float(q @ q) * float(b @ b)) / 0.1)
        expected.append(votes[1] / sum(votes))
    truth, found = scores(made / "run/eval/protocols/knn")
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (truth == LABELS["test"]).all()
    facts = report(made / "run/eval/protocols/knn")["protocol"]
    assert (facts["name"], facts["k"], facts["k_asked"], facts["temperature"]) == ("knn", 60, 200, 0.1)


def test_the_probe_by_scikit_learn(made: Path) -> None:
    held = parts(made)
    content = report(made / "run/eval/protocols/linear_probe")
    scaler = StandardScaler().fit(held["training"].astype(float))
    losses, probabilities = {}, {}
    for text in content["protocol"]["tried"]:
        model = LogisticRegression(C=float(text), max_iter=2000)
        model.fit(scaler.transform(held["training"].astype(float)), LABELS["training"])
        p = model.predict_proba(scaler.transform(held["validation"].astype(float)))
        losses[text] = float(np.mean(np.log(p[np.arange(20), LABELS["validation"]])))
        probabilities[float(text)] = model.predict_proba(scaler.transform(held["test"].astype(float)))[:, 1]
    assert content["protocol"]["tried"] == pytest.approx(losses, abs=1e-5)
    assert content["protocol"]["chosen_by"] == "validation"
    chosen = content["protocol"]["regularisation"]
    assert chosen == float(max(losses, key=losses.__getitem__))
    # served with the temperature that validation has set, which keeps the order
    truth, found = scores(made / "run/eval/protocols/linear_probe")
    auroc = roc_auc_score(truth, probabilities[chosen])
    assert roc_auc_score(truth, found) == pytest.approx(auroc)
    odds = np.log(probabilities[chosen] / (1 - probabilities[chosen])) / content["calibration"]["temperature"]
    np.testing.assert_allclose(np.log(found / (1 - found)), odds, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "linear_svm"])
def test_results_have_the_shape_of_evaluation(made: Path, name: str) -> None:
    content = report(made / "run/eval/protocols" / name)
    truth, found = scores(made / "run/eval/protocols" / name)
    entry = content["metrics"]["macro_auroc"]
    assert entry["estimate"] == pytest.approx(roc_auc_score(truth, found))
    assert 0.7 < entry["estimate"] < 1
    assert entry["interval_90"][0] < entry["estimate"] < entry["interval_90"][1]
    assert (content["n"], content["n_subjects"], content["n_boot"]) == (40, 20, 1000)
    assert content["label_counts"]["n_labels_training"] == 60
    assert content["label_counts"]["n_labels_validation"] == 20
    assert content["n_subjects_seen_in_training"] == 0
    assert content["protocol"]["encoder"]["stage"] == "untrained"
    assert set(content["per_class"]) == {"dark", "bright"}
    assert content["per_class"]["bright"]["operating_point"]["threshold"] is not None


def test_embeddings_are_computed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    whole = embeddings.embed
    monkeypatch.setattr(
        embeddings, "embed", lambda opened, cases: asked.append([c.name for c in cases]) or whole(opened, cases)
    )
    before = report(root / "run/eval/protocols/knn")["metrics"]
    assert call("knn", root / "run/models/untrained.pt", root / "data", "--out", root / "other") == 0
    assert asked == []
    assert report(root / "other/knn")["metrics"] == before
    assert (
        call("linear_svm", root / "run", root / "data", "--untrained", "--bundle", BUNDLE, "--labels", 20, *KEYS) == 0
    )
    assert asked == []
    counts = report(root / "run/eval/protocols/linear_svm")["label_counts"]
    assert (counts["n_labels_training"], counts["n_labels_validation"], counts["label_budget"]) == (16, 4, 20)
    # an image that has changed is embedded again, and nothing else
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "data/test/3.png")
    assert call("knn", root / "run/models/untrained.pt", root / "data") == 0
    assert asked == [["test/3.png"]]
    # another encoder shares nothing
    assert call("knn", root / "run", root / "data", "--untrained", "--bundle", BUNDLE, "--seed", 1, *KEYS) == 0
    assert len(asked[-1]) == 120


def test_few_validation_labels_choose_nothing(root: Path) -> None:
    assert call("knn,linear_probe", root / "run/models/untrained.pt", root / "data", "--labels", 20) == 0
    content = report(root / "run/eval/protocols/linear_probe")
    assert content["protocol"]["chosen_by"] == "cross-validation"
    assert content["calibration"]["temperature"] is None
    assert "operating_point" not in content["per_class"]["bright"]


def test_a_pretrain_only_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``pretrain.pt`` and the configuration it was made by are enough."""
    models = root / "run/models"
    shutil.copy(models / "untrained.pt", models / "pretrain.pt")
    shutil.copy(models / "untrained_config.yaml", models / "pretrain_config.yaml")
    assert call("knn", root / "run", root / "data", "--out", root / "out") == 0
    content = report(root / "out/knn")
    first = report(root / "run/eval/protocols/knn")
    assert content["metrics"] == first["metrics"]
    assert content["protocol"]["encoder"]["stage"] == "pretrain"
    assert content["n_subjects_seen_in_training"] is None
    assert "whether the encoder was trained with images of test subjects is not known" in capsys.readouterr().out
    # the report shows the map of what was embedded, and the pre-training's curves
    (models / "pretrain_history.json").write_text(json.dumps([{"epoch": 1, "loss": 3.0, "effective_rank": 7.5}] * 2))
    assert main(["report", str(root / "run"), "--out", str(root / "page.html")]) == 0
    page = (root / "page.html").read_text()
    assert "Map of the features of 40 images" in page
    assert "Effective rank" in page
    assert "No features" not in page
    assert "Frozen embeddings on the test images" in page
    assert "k = 60, T = 0.1" in page
    assert f"{first['metrics']['macro_auroc']['estimate']:.3f}" in page


def test_labels_that_the_encoder_has_learnt_from_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = root / "run/models"
    shutil.copy(models / "untrained.pt", models / "pretrain.pt")
    shutil.copy(models / "untrained_config.yaml", models / "pretrain_config.yaml")
    budget = select_budget(load_datalist(root / "data"), label_fraction=1.0)
    PretrainRecord(budget, models).write()
    assert call("knn", root / "run", root / "data") == 0
    assert call("knn", root / "run", root / "data", "--budget", "20%") == 2
    assert "labels that are outside this run's budget" in capsys.readouterr().err
    PretrainRecord(budget, models, uses_labels=False).write()
    assert call("knn", root / "run", root / "data", "--budget", "20%") == 0


def train_stage(root: Path, **keys: Any) -> None:
    """What the train stage leaves of its labels, beside a pre-trained encoder of all labels."""
    models = root / "run/models"
    shutil.copy(models / "untrained.pt", models / "pretrain.pt")
    shutil.copy(models / "untrained_config.yaml", models / "pretrain_config.yaml")
    BudgetRecord(select_budget(load_datalist(root / "data"), **keys), models).write()


def test_labels_are_those_of_the_train_stage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run pre-trained with all labels and trained with some: its figures stand beside those of fine-tuning."""
    train_stage(root, label_fraction=0.3, split_seed=4)
    used = json.loads((root / "run/models/budget.json").read_text())
    assert 0 < len(used["training"]) < 30
    for place in ("run", "run/models/pretrain.pt"):
        assert call("knn", root / place, root / "data") == 0
        assert f"{len(used['training'])} training and" in (said := capsys.readouterr().out)
        assert "labels as the train stage had them" in said
        content = report(root / "run/eval/protocols/knn")
        assert content["label_counts"] == {key: one for key, one in used.items() if not isinstance(one, list)}
        assert content["protocol"]["labels"] == {"budget_of": "train", "long_tail_factor": None}
    # what is asked for wins, as option or as key
    for given in (("--budget", "50%"), ("label_fraction=0.5",)):
        assert call("knn", root / "run", root / "data", *given) == 0
        content = report(root / "run/eval/protocols/knn")
        assert content["label_counts"]["label_fraction"] == 0.5
        assert content["protocol"]["labels"]["budget_of"] == "asked for"


def test_labels_of_a_run_without_a_train_stage(root: Path) -> None:
    train_stage(root)
    (root / "run/models/budget.json").unlink()
    assert call("knn", root / "run", root / "data") == 0
    content = report(root / "run/eval/protocols/knn")
    assert content["protocol"]["labels"]["budget_of"] == "pretrain"
    assert content["label_counts"]["n_labels_training"] == 60


def test_the_long_tail_is_that_of_the_run(root: Path) -> None:
    train_stage(root)
    (root / "run/models/train_config.yaml").write_text("long_tail_factor: 5\n")
    for given, expected in (((), 36), (("--long-tail", 1), 60)):
        assert call("knn", root / "run", root / "data", *given) == 0
        content = report(root / "run/eval/protocols/knn")
        assert content["label_counts"]["n_labels_training"] == expected
        assert content["protocol"]["labels"]["long_tail_factor"] == {36: 5, 60: 1}[expected]


def test_a_long_tail(root: Path) -> None:
    assert call("knn", root / "run/models/untrained.pt", root / "data", "--long-tail", 5) == 0
    assert report(root / "run/eval/protocols/knn")["label_counts"]["n_labels_training"] == 36


@pytest.mark.parametrize("name", ["knn", "linear_probe", "linear_svm"])
def test_labels_that_are_each_there_or_not(name: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def samples(split: str, n: int) -> Samples:
        table = random.integers(0, 2, (n, 2))
        rows = np.concatenate([4 * table - 2 + random.normal(size=(n, 2)), random.normal(size=(n, 3))], axis=1)
        items = [Item(f"{split}{i}.png", tuple(map(int, row)), f"subject:{split}{i}") for i, row in enumerate(table)]
        return Samples(items, rows.astype(np.float32), label_array(items, exclusive=False))

    parts = {split: samples(split, n) for split, n in (("training", 60), ("validation", 30), ("test", 40))}
    datalist = Datalist("toy", "multilabel", ["a", "b"], {split: list(part.items) for split, part in parts.items()})
    budget = select_budget(datalist)
    verdict = judge(name, parts["training"], parts["validation"], parts["test"], ["a", "b"], 9, 0.1, 0)
    write_results(tmp_path, name, verdict, parts["validation"], parts["test"], budget, {}, {}, 0, 0, n_boot=100)
    content = report(tmp_path)
    with (tmp_path / "predictions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for k, label in enumerate(("a", "b")):
        truth = [int(row[f"label_{label}"]) for row in rows]
        assert truth == [item.label[k] for item in parts["test"].items]
        auroc = roc_auc_score(truth, [float(row[f"probability_{label}"]) for row in rows])
        assert content["per_class"][label]["auroc"]["estimate"] == pytest.approx(auroc)
        assert auroc > 0.75
        assert content["per_class"][label]["operating_point"]["threshold"] is not None
    assert content["exclusive"] is False
    assert (verdict.temperature, content["n_subjects_seen_in_training"]) == (None, 0)


def test_embeddings_that_are_zero() -> None:
    items = [Item(f"{i}.png", i % 2) for i in range(4)]
    rows = np.ones((4, 3))
    rows[2] = 0
    with pytest.raises(DataError, match="1 of 4 embeddings are zero: the encoder is blind to these images"):
        check_embeddings(Samples(items, rows, label_array(items, exclusive=True)), Path("pretrain.pt"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("knm", "run", "data"), "PROTOCOL: no protocol is called 'knm'. Did you mean 'knn'?"),
        (("finetune", "run", "data"), "Fine-tuning trains the encoder"),
        ((",", "run", "data"), "PROTOCOL: no protocol is named (expected knn, linear_probe, linear_svm)"),
        (
            ("knn", "nowhere", "data"),
            "no encoder here (expected a run folder with models/pretrain.pt or models/model.pt",
        ),
        (("knn", "nowhere", "data"), "Run the pretrain or the train stage first (`medssl run BUNDLE pretrain"),
        (("knn", "new", "data", "--untrained"), "--bundle: an encoder that is not trained belongs to no run"),
        (("knn", "run/models/untrained.pt", "run"), "no datalist.json here"),
        (("knn", "run/models/untrained.pt", "data", "--budget", "5%", "--labels", "4"), "both given"),
        (("knn", "run/models/untrained.pt", "data", "--budget", "5%,9%"), "--budget: one budget at a time"),
        (("knn", "run/models/untrained.pt", "data", "--budget", "x"), "--budget: not a label budget"),
        (("knn", "run/models/untrained.pt", "data", "-k", "0"), "-k: not above 0"),
        (("knn", "run/models/untrained.pt", "data", "image_sise=8"), "Did you mean 'image_size'?"),
        (("knn", "run/models/untrained.pt", "one"), "no labelled training item shows 'bright'"),
        (("knn", "run/models/untrained.pt", "untested"), "no labelled test image"),
        (("knn", "lone.pt", "data"), "of which bundle this encoder is stands nowhere beside it. Name it by --bundle."),
    ],
)
def test_what_is_refused(
    root: Path, arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((root / "data/datalist.json").read_text())
    for name, change in {
        "one": {"training": [i for i in content["training"] if i["label"] == 0], "validation": None},
        "untested": {"test": None},
    }.items():
        shutil.copytree(root / "data", root / name)
        changed = {key: value for key, value in {**content, **change}.items() if value is not None}
        (root / name / "datalist.json").write_text(json.dumps(changed))
    shutil.copy(root / "run/models/untrained.pt", root / "lone.pt")
    given = [str(root / text) if (root / text).exists() or text in ("nowhere", "new") else text for text in arguments]
    assert main(["protocol", *given]) == 2
    assert message in capsys.readouterr().err
