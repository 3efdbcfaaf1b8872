"""The leave-one-out table of supports against segmenters that know nothing of one another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_scans import ORGANS, preparing, tiny_segmenter, write_dataset

from medssl_monai.core import DataError
from medssl_monai.data import load_datalist
from medssl_monai.engines.support import SupportScans, read_scans
from medssl_monai.engines.support_table import SupportRow, organ_dice, support_table


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    datalist = load_datalist(write_dataset(tmp_path_factory.mktemp("scans")))
    prepare = preparing()
    return read_scans([prepare(record) for record in datalist.records("training")], list(ORGANS))


def without(scans, number, organ):
    labels = [label.clone() for label in scans.labels]
    labels[number][labels[number] == organ] = 0
    return SupportScans(scans.names, scans.volumes, labels)


def by_loops(scans, support):
    """Dice of each organ over the other scans, by a segmenter of this support alone, from the volumes."""
    dice = [[], []]
    for query in range(len(scans.names)):
        if query == support:
            continue
        net = tiny_segmenter()
        net.remember([scans.volumes[support]], [scans.labels[support]], require_all=False)
        with torch.no_grad():
            predicted = net(scans.volumes[query][None])[0].argmax(dim=0)
        for organ in (1, 2):
            truth, found = (scans.labels[query] == organ).numpy(), (predicted == organ).numpy()
            if truth.any():
                dice[organ - 1].append(2 * np.sum(truth & found) / (truth.sum() + found.sum()))
    return dice


def test_each_scan_as_the_only_support(scans):
    rows = support_table(tiny_segmenter(), scans)
    assert sorted(row.name for row in rows) == sorted(scans.names)
    for row in rows:
        expected = by_loops(scans, scans.names.index(row.name))
        np.testing.assert_allclose(row.dice, [np.mean(one) for one in expected], atol=1e-9)
        assert row.n_queries.tolist() == [2, 2]
        assert row.mean == pytest.approx(np.mean([np.mean(one) for one in expected]))
    assert [row.mean for row in rows] == sorted((row.mean for row in rows), reverse=True)
    assert len({row.mean for row in rows}) == 3


def test_organs_that_some_scans_lack(scans):
    lacking = without(scans, 1, 2)
    rows = {row.name: row for row in support_table(tiny_segmenter(), lacking)}
    of_others = rows[scans.names[0]]
    assert of_others.n_queries.tolist() == [2, 1]
    np.testing.assert_allclose(of_others.dice, [np.mean(one) for one in by_loops(lacking, 0)], atol=1e-9)
    assert rows[scans.names[1]].dice[1] == 0  # it cannot show what it does not hold
    nobody = without(without(lacking, 0, 2), 2, 2)
    for row in support_table(tiny_segmenter(), nobody):
        assert np.isnan(row.dice[1])
        assert row.mean == row.dice[0]


def test_every_scan_is_encoded_once_and_the_bank_stays(scans):
    net, seen = tiny_segmenter(), []
    net.remember(scans.volumes[:1], scans.labels[:1])
    net.absence_threshold[0] = 0.5
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    support_table(net, scans)
    assert sum(seen) == sum(volume.shape[-1] for volume in scans.volumes)
    assert net.training
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)
    empty = tiny_segmenter()  # one that has no bank yet
    support_table(empty, scans)
    assert empty.foreground.numel() == 0


def test_a_row_without_any_organ_has_no_mean():
    assert np.isnan(SupportRow("a", np.full(2, np.nan), np.zeros(2, np.int64)).mean)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_dice(pairs):
    predicted, truth = (torch.tensor(values) for values in zip(*pairs))
    found = organ_dice(predicted, truth, 3)
    for organ in (1, 2, 3):
        shown = [t == organ for _, t in pairs]
        hit = [p == organ for p, _ in pairs]
        if not any(shown):
            assert np.isnan(found[organ - 1])
        else:
            both = sum(a and b for a, b in zip(shown, hit))
            assert found[organ - 1] == pytest.approx(2 * both / (sum(shown) + sum(hit)))


def test_errors(scans):
    one = SupportScans(*(part[:1] for part in scans))
    with pytest.raises(
        DataError, match=r"compared by segmenting one another \(found 1 labelled, expected two or more\)"
    ):
        support_table(tiny_segmenter(), one)
    with pytest.raises(DataError, match=r"scan1.nii.gz: the mask shows no organ\. Leave the scan out"):
        support_table(tiny_segmenter(), without(without(scans, 1, 1), 1, 2))
