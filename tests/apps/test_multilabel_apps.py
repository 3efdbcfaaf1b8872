"""`medssl next` and `medssl features` on labels that are each there or not; predictions of a study's run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medssl_monai.apps._model import OpenRun, Predictions
from medssl_monai.apps._pools import Pools
from medssl_monai.apps.arms import paired_difference, read_predictions
from medssl_monai.apps.features import Case, datalist_cases, embed
from medssl_monai.apps.next import propose
from medssl_monai.core import DataError
from medssl_monai.data import Datalist, Item
from medssl_monai.handlers.prediction_files import write_label_predictions

NAMES = ["abnormal", "acl"]
POINTS = {"abnormal": {"threshold": 0.7}, "acl": {"threshold": None}}


class Opened(SimpleNamespace):
    """A run whose outputs are given; what is called comes from the class itself."""

    exclusive = False
    serving = {"operating_points": POINTS}  # noqa: RUF012
    called = OpenRun.called

    def predict(self, records: list[dict[str, Any]]) -> Predictions:
        number = len(records)
        return Predictions(
            [record["name"] for record in records], np.ones((number, 2), np.float32), self.probabilities[:number]
        )

    def describe(self) -> dict[str, Any]:
        return {}


def opened(probabilities: list[list[float]], data: Path = Path(), names: list[str] = NAMES) -> Opened:
    return Opened(
        bundle=SimpleNamespace(name="toy"), class_names=names, probabilities=np.array(probabilities), data=data
    )


def test_uncertainty_is_the_mean_binary_entropy_of_the_labels() -> None:
    probabilities = np.array([[0.5, 0.1], [0.69, 0.55], [0.9, 0.02], [0.95, 0.6]])
    cases = [Case({"image": f"{i}.png", "name": f"{i}.png"}) for i in range(4)]
    run = opened(probabilities.tolist())
    rng = np.random.default_rng(0)
    found = Predictions([case.name for case in cases], rng.normal(size=(4, 3)).astype(np.float32), probabilities)
    rows = propose(run, Pools(cases, []), found, 4, None, "uncertainty")  # type: ignore[arg-type]
    entropy = -(probabilities * np.log2(probabilities) + (1 - probabilities) * np.log2(1 - probabilities)).mean(axis=1)
    assert [row["image"] for row in rows] == [f"{i}.png" for i in np.argsort(-entropy)]
    by_name = {row["image"]: row for row in rows}
    for i in range(4):
        assert by_name[f"{i}.png"]["uncertainty"] == f"{entropy[i]:.4f}"
    assert [by_name[f"{i}.png"]["predicted"] for i in range(4)] == ["none", "acl", "abnormal", "abnormal + acl"]
    assert by_name["1.png"]["reason"].startswith("acl (55%), abnormal (69%): more uncertain than")


def dataset(root: Path) -> Datalist:
    items = [Item("0.png", (1, 0, 1)), Item("1.png", (0, 1, 1)), Item("2.png", (1, 1, 0))]
    datalist = Datalist(
        "knees", "multilabel", ["meniscus", "acl", "abnormal"], {"training": items, "unlabeled": [Item("3.png")]},
        root=root,
    )  # fmt: skip
    datalist.save(root)
    return datalist


def test_features_hold_a_table_of_labels(tmp_path: Path) -> None:
    cases = datalist_cases(dataset(tmp_path), ("training", "unlabeled"))
    run = opened([[0.8, 0.4], [0.6, 0.6], [0.7, 0.5], [0.1, 0.9]], tmp_path)
    features = embed(run, cases)  # type: ignore[arg-type]
    assert features.label.tolist() == [[1, 0], [1, 1], [0, 1], [-1, -1]]  # abnormal, acl
    assert features.predicted.tolist() == [[1, 0], [0, 1], [1, 1], [0, 1]]
    one = embed(opened([[0.4]] * 4, tmp_path, ["acl"]), cases)  # type: ignore[arg-type]
    assert one.label.tolist() == [[0], [1], [1], [-1]]
    other = embed(opened([[0.4]] * 4, tmp_path, ["fracture"]), cases)  # type: ignore[arg-type]
    assert other.label.tolist() == [[-1]] * 4
    plain = embed(opened([[0.4, 0.1]] * 4, tmp_path / "images"), cases)  # type: ignore[arg-type]
    assert plain.label.tolist() == [[-1, -1]] * 4


def predictions(folder: Path, seed: int, signal: float) -> tuple[np.ndarray, np.ndarray]:
    truth = np.random.default_rng(0).integers(0, 2, (60, 2))
    scores = 1 / (1 + np.exp(-(np.random.default_rng(seed).normal(size=(60, 2)) + signal * truth)))
    (folder / "eval").mkdir(parents=True)
    names = [f"{i}.png" for i in range(60)]
    subjects = {"subject": [f"s{i // 2}" if i else "" for i in range(60)]}
    write_label_predictions(folder / "eval" / "predictions.csv", names, scores, scores > 0.5, NAMES, subjects, truth)
    return truth, scores


def test_predictions_come_back_as_tables(tmp_path: Path) -> None:
    truth, scores = predictions(tmp_path / "a", 1, 2.0)
    names, subjects, labels, probabilities = read_predictions(tmp_path / "a")
    assert names[:2] == ["0.png", "1.png"]
    assert subjects[:4] == ["0.png", "s0", "s1", "s1"]
    assert labels.tolist() == truth.tolist()
    np.testing.assert_allclose(probabilities, scores, rtol=1e-8)
    _, weaker = predictions(tmp_path / "b", 2, 0.5)
    difference = paired_difference("macro_auroc", [(tmp_path / "a", tmp_path / "b")])
    expected = roc_auc_score(truth, scores) - roc_auc_score(truth, weaker)
    assert difference.estimate == pytest.approx(expected)
    path = tmp_path / "b" / "eval" / "predictions.csv"
    path.write_text(path.read_text().replace("label_acl", "label_ac"))
    with pytest.raises(
        DataError, match=r"not the predictions of a classifier of labels that are each there or not \('l"
    ):
        read_predictions(tmp_path / "b")
