"""What `medssl next` says of a choice that is less than it seems, and of predictions it cannot use."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from medssl_monai.apps._model import Predictions
from medssl_monai.apps._pools import Pools
from medssl_monai.apps.features import Case
from medssl_monai.apps.next import cautions, propose
from medssl_monai.core import ConfigError, DataError

OPENED = SimpleNamespace(bundle=SimpleNamespace(name="toy"), class_names=["a", "b"], exclusive=True)


def proposals(embeddings, probabilities, n_labelled=0):
    cases = [Case({"image": f"{i}.png", "name": f"{i}.png"}) for i in range(len(embeddings))]
    number = len(cases) - n_labelled
    found = Predictions([case.name for case in cases], np.array(embeddings, np.float32), probabilities)
    return propose(OPENED, Pools(cases[:number], cases[number:]), found, 2, None, "uncertainty_coverage")


def test_a_healthy_choice_has_no_caution():
    rng = np.random.default_rng(0)
    assert cautions(rng.normal(size=(50, 4)), rng.random(50)) == []


def test_equal_uncertainty_and_collapse_are_said():
    found = cautions(np.ones((50, 4)), np.linspace(0.90, 0.94, 50))
    assert "collapsed" in found[0]
    assert found[0].endswith("the choice rests on uncertainty alone")
    assert "about equally unsure of all candidates (uncertainty 0.902 to 0.938 for nine in ten)" in found[1]


def test_rows_of_hand_made_predictions():
    """The certain copy of the labelled case is left out; distances are chords of 90 and 180 degrees."""
    rows = proposals(
        [[1, 0], [0, 1], [-1, 0], [2, 0]], np.array([[0.5, 0.5], [0.6, 0.4], [0.1, 0.9], [1.0, 0.0]]), n_labelled=1
    )
    assert [row["image"] for row in rows] == ["1.png", "2.png"]
    assert [row["distance_to_labelled"] for row in rows] == ["1.4142", "2.0000"]
    assert [row["predicted"] for row in rows] == ["a", "b"]
    assert {row["nearest_labelled"] for row in rows} == {"3.png"}
    assert rows[0]["uncertainty"] == f"{-(0.6 * np.log2(0.6) + 0.4 * np.log2(0.4)):.4f}"
    assert rows[0]["reason"] == (
        "a (60%) or b (40%): more uncertain than 33% of the candidates; farther from the labelled cases than 33% of "
        "the candidates; 1.41 from the nearest labelled or earlier proposed case"
    )


def test_without_labelled_cases_the_distance_is_left_empty():
    rows = proposals([[1, 0], [0, 1]], np.array([[0.5, 0.5], [0.6, 0.4]]))
    assert [row["distance_to_labelled"] for row in rows] == ["", ""]


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (None, "toy: cases are chosen by a classifier's predictions"),
        (np.array([[3.0, -1.0], [0.5, 0.5]]), "toy: the predictions of this bundle are no probabilities of a case"),
    ],
)
def test_predictions_that_cannot_be_used(probabilities, message):
    with pytest.raises(ConfigError, match=message):
        proposals([[1, 0], [0, 1]], probabilities)


def test_an_embedding_of_zeros_is_named():
    with pytest.raises(DataError, match=r"1\.png: 1 images have an embedding of zeros.*blind to them"):
        proposals([[1, 0], [0, 0]], np.array([[0.5, 0.5], [0.6, 0.4]]))
