"""Resamples draw whole groups, as many as there are, each as likely as the other."""

from __future__ import annotations

import numpy as np
import pytest

from medssl_monai.metrics.resampling import Resampler, group_codes


def weights(n, groups, n_boot, seed=0):
    return np.concatenate(list(Resampler(n, groups, n_boot, seed).blocks()), axis=1)


def test_every_resample_draws_as_many_groups_as_there_are():
    groups = ["a", "a", "b", "c", "c", "c"]
    drawn = weights(6, groups, 200)
    assert drawn.shape == (6, 200)
    np.testing.assert_array_equal(drawn[[0, 2, 3]].sum(axis=0), 3)  # one row a group


def test_cases_of_a_group_stay_together():
    drawn = weights(6, ["a", "a", "b", "c", "c", "c"], 200)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[3], drawn[5])
    assert (drawn[0] != drawn[2]).any()


def test_counts_are_multinomial():
    drawn = weights(50, None, 4000)
    # Binomial(50, 1/50): mean 1, variance 0.98; standard error of a mean over 4000 draws is 0.016
    np.testing.assert_allclose(drawn.mean(axis=1), 1, atol=0.08)
    assert drawn.var() == pytest.approx(0.98, abs=0.02)
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.005)


def test_groups_are_numbered_in_sorted_order_whatever_their_type():
    assert group_codes(["b", "a", "b"], 3).tolist() == [1, 0, 1]
    assert group_codes([30, 7, 30], 3).tolist() == [1, 0, 1]
    assert group_codes([("s", 1), ("s", 0), ("s", 1)], 3).tolist() == [1, 0, 1]
    assert group_codes(None, 3) is None


def test_numbers_and_text_do_not_break_the_order():
    assert len(set(group_codes(np.array([1, "x", 2.5], dtype=object), 3).tolist())) == 3


def test_no_cases():
    with pytest.raises(ValueError, match="no cases: there is nothing to resample"):
        Resampler(0, None, 10, 0)


def test_missing_ids_do_not_become_one_subject():
    with pytest.raises(ValueError, match=r"2 cases have no group \(the first is case 0\); give each an id of its own"):
        group_codes([float("nan"), "a", float("nan")], 3)
