"""How columns are cut into groups."""

from __future__ import annotations

import numpy as np
import pytest

from medssl_monai.metrics.subgroups import subgroups_of


def cut(name, values):
    return {label: cases.tolist() for label, cases in subgroups_of(name, values).cases.items()}


@pytest.mark.parametrize("name", ["age", "patient_age", "Age at exam"])
def test_ages_are_cut_into_decades(name):
    assert cut(name, [50.0, 49.0, None, 8, 59]) == {"0-9": [3], "40-49": [1], "50-59": [0, 4], "unknown": [2]}


def test_a_name_that_merely_contains_the_letters_is_no_age():
    assert cut("image", [50, 49, 50]) == {"49": [1], "50": [0, 2]}


def test_other_numbers_are_cut_into_quartiles_named_by_their_range():
    groups = cut("thickness", [float(v) for v in range(1, 13)])
    assert groups == {"1 to 3": [0, 1, 2], "4 to 6": [3, 4, 5], "7 to 9": [6, 7, 8], "10 to 12": [9, 10, 11]}


def test_a_value_on_a_quartile_belongs_to_the_group_below():
    groups = cut("thickness", list(range(1, 14)))  # quartiles are 4, 7 and 10
    assert list(groups) == ["1 to 4", "5 to 7", "8 to 10", "11 to 13"]


def test_quartiles_cover_every_case_once_also_with_ties():
    values = np.random.default_rng(0).integers(0, 14, 200)
    values[:90] = 3
    groups = cut("count", list(values))
    assert sorted(case for cases in groups.values() for case in cases) == list(range(200))


def test_few_numbers_are_values_in_numerical_order():
    assert list(cut("field", [3, 1.5, 10, 1.5])) == ["1.5", "3", "10"]


def test_words_in_alphabetical_order_missing_last():
    values = ["male", "female", "", "unknown", None, float("nan"), " NaN "]
    assert cut("sex", values) == {"female": [1], "male": [0], "unknown": [2, 3, 4, 5, 6]}


def test_true_and_false_are_no_numbers():
    assert cut("implant", [True, False, True]) == {"False": [1], "True": [0, 2]}


def test_many_values_are_pooled_with_a_warning():
    values = [f"site {i:02d}" for i in range(30) for _ in range(30 - i)]
    groups = subgroups_of("site", values)
    assert len(groups.cases) == 20
    assert list(groups.cases)[-1] == "other"
    assert len(groups.cases["other"]) == sum(30 - i for i in range(19, 30))
    assert groups.warning == (
        "column 'site' has 30 values; the 19 most frequent are shown, the others are pooled as 'other'"
    )


def test_nothing_known():
    assert cut("sex", [None, None]) == {"unknown": [0, 1]}
