"""Confidence of organs, and each labelled slice segmented by the others, against banks written without it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medssl_monai.engines.support_confidence import absence_threshold, leave_one_slice_out
from medssl_monai.networks import CoWProHead, CoWProSegmenter, DenseEncoder
from medssl_monai.networks.organ_confidence import organ_confidence, slice_confidence

SIZE, SLICES, ORGANS = 48, 16, 2


def segmenter(**kwargs):
    torch.manual_seed(0)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.0625, num_features=6, stages=3)
    return CoWProSegmenter(encoder, CoWProHead(pool=2), ORGANS, **kwargs).double().eval()


def scan(seed=0, ranges=((3, 8), (5, 12))):
    maker = torch.Generator().manual_seed(seed)
    volume = 0.02 * torch.rand(1, SIZE, SIZE, SLICES, generator=maker, dtype=torch.float64)
    label = torch.zeros(SIZE, SIZE, SLICES, dtype=torch.long)
    volume[:, 3:45, 4:44, 1:15] += 0.3
    for organ, (first, last) in enumerate(ranges, start=1):
        for place in range(first, last + 1):
            label[18 * organ - 14 + place // 3 : 18 * organ + 4, 12 * organ : 12 * organ + 14, place] = organ
    volume[0][label > 0] += 0.25 * label[label > 0]
    return volume, label


def by_banks(net, scans, number):
    """Logits of a scan's slices, each by a bank that was written without the organ in that slice."""
    volume, label = scans[number]
    logits = torch.zeros(1 + ORGANS, SIZE, SIZE, SLICES, dtype=torch.float64)
    for organ in (1, 2):
        places = [place for place in range(SLICES) if (label[..., place] == organ).any()]
        ranges = torch.tensor([[places[0], places[-1]]] * ORGANS)[None]
        for place in range(SLICES):
            without = label.clone()
            without[..., place][without[..., place] == organ] = 0
            labels = [without if k == number else other[1] for k, other in enumerate(scans)]
            net.remember([one[0] for one in scans], labels, require_all=False)
            nearest = min(max(place, places[0]), places[-1])
            moved = volume.clone()
            moved[..., nearest] = volume[..., place]
            with torch.no_grad():
                logits[organ, ..., place] = net.forward_within(moved[None], ranges)[0, organ, ..., nearest]
    return logits


def confidence_by_loops(logits, organ, place):
    probability = logits[..., place].softmax(dim=0)[organ]
    predicted = logits[..., place].argmax(dim=0) == organ
    return float(probability[predicted].mean()) if predicted.any() else 0.0


@pytest.mark.parametrize("ranges", [[((3, 8), (5, 12))], [((3, 8), (5, 12)), ((6, 10), (4, 9))]])
def test_each_slice_by_the_others(ranges):
    net = segmenter()
    scans = [scan(seed, of_scan) for seed, of_scan in enumerate(ranges)]
    check = leave_one_slice_out(net, *zip(*scans))
    present, absent, both, total = ([[], []] for _ in range(4))
    for number, (_, label) in enumerate(scans):
        logits = by_banks(net, scans, number)
        predicted = logits.argmax(dim=0)
        for organ in (1, 2):
            for place in range(SLICES):
                truth, found = label[..., place] == organ, predicted[..., place] == organ
                if truth.any():
                    present[organ - 1].append(confidence_by_loops(logits, organ, place))
                    both[organ - 1].append(2 * (truth & found).sum().item())
                    total[organ - 1].append((truth.sum() + found.sum()).item())
                elif 1 <= place <= 14:  # the body's slices
                    absent[organ - 1].append(confidence_by_loops(logits, organ, place))
    for organ, found in enumerate(check.organs):
        np.testing.assert_allclose(found.present, present[organ], atol=1e-6)
        np.testing.assert_allclose(found.absent, absent[organ], atol=1e-6)
        assert found.dice == pytest.approx(sum(both[organ]) / sum(total[organ]))
        assert found.threshold == absence_threshold(found.present, found.absent)
        assert 0.3 < found.dice < 1
    assert check.thresholds.shape == (ORGANS,)


def test_known_features_and_the_bank_stay():
    net, support = segmenter(), scan()
    net.remember([support[0]], [support[1]])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = leave_one_slice_out(net, [support[0]], [support[1]])
    features = [net.encode(support[0])]
    net.encoder.register_forward_hook(lambda *_: pytest.fail("encoded again"))
    again = leave_one_slice_out(net, [support[0]], [support[1]], features)
    np.testing.assert_allclose(again.organs[0].present, first.organs[0].present)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name], equal_nan=True)


def test_an_organ_on_one_slice_has_nothing_to_be_compared_with():
    check = leave_one_slice_out(segmenter(), *zip(scan(0, ((5, 5), (4, 11)))))
    alone = check.organs[0]
    assert (alone.dice, alone.threshold, len(alone.present), len(alone.absent)) == (None, None, 0, 13)
    assert check.thresholds[0].isnan()
    assert check.organs[1].dice > 0


def test_an_organ_that_one_scan_lacks_is_compared_with_the_other_scans():
    scans = [scan(0), scan(1, ((1, 0), (6, 10)))]
    check = leave_one_slice_out(segmenter(), *zip(*scans))
    assert (len(check.organs[0].present), len(check.organs[0].absent)) == (6, 8 + 14)
    none = leave_one_slice_out(segmenter(), *zip(scan(0, ((1, 0), (6, 10)))))
    assert (none.organs[0].dice, len(none.organs[0].absent)) == (None, 0)


def test_the_prior_is_a_part_of_it():
    """Organ 2 lies behind the centre of the body only: a hard prior takes it nowhere else."""
    support = scan()
    net = segmenter(quadrant_prior="hard")
    net.remember([support[0]], [support[1]])
    plain = leave_one_slice_out(segmenter(), [support[0]], [support[1]])
    prior = leave_one_slice_out(net, [support[0]], [support[1]])
    assert not np.allclose(plain.organs[1].absent, prior.organs[1].absent)


def test_threshold():
    present, absent = np.array([0.9, 0.8, 0.7]), np.array([0.5, 0.3, 0.1])
    assert absence_threshold(present, absent) == pytest.approx((0.8 + 0.3) / 2)
    assert absence_threshold(absent, present) is None
    assert absence_threshold(present, present) is None
    assert absence_threshold(present[:2], absent) is None
    assert absence_threshold(present, absent[:2]) is None


def test_confidence_of_a_volume_is_the_mean_of_its_slices():
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 3, 5, 4, 6)
    logits[0, 1] = -40.0  # not looked for anywhere
    logits[1, 1, ..., :2] = -40.0
    logits[1, 2, ..., 4] = -20.0  # looked for, and not found
    found = organ_confidence(logits, -40.0)
    for item in range(2):
        for organ in (1, 2):
            slices = [s for s in range(6) if (logits[item, organ, ..., s] > -40).any()]
            values = [confidence_by_loops(logits[item], organ, s) for s in slices]
            assert float(found[item, organ - 1]) == pytest.approx(np.mean(values) if values else 0.0, abs=1e-6)
    assert found[0, 0] == 0
    assert slice_confidence(logits)[1, 1, 4] == 0
    every = organ_confidence(logits)
    assert every[1, 0] == pytest.approx(4 / 6 * found[1, 0].item(), abs=1e-6)
    torch.testing.assert_close(organ_confidence(logits[..., 3]), slice_confidence(logits)[..., 3])
    assert ((every >= 0) & (every <= 1)).all()
    for wrong in (logits[0, 0], logits[:, :1]):
        with pytest.raises(ValueError, match=r"logits: expected \(N, 1 \+ O, H, W, S\) or \(N, 1 \+ O, H, W\), got"):
            organ_confidence(wrong)


def test_the_segmenter_knows_where_it_did_not_look():
    net, support = segmenter(), scan()
    net.remember([support[0]], [support[1]])
    with torch.no_grad():
        logits = net(support[0][None])
    torch.testing.assert_close(net.confidence(logits), organ_confidence(logits, -40.0))
    assert (net.confidence(logits) > organ_confidence(logits) + 0.01).all()
