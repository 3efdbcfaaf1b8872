"""The quadrant prior, features that are known beforehand, organs that no support shows, and traces."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from medssl_monai.networks import CoWProHead, CoWProSegmenter, DenseEncoder
from medssl_monai.networks.support_memory import quadrant_log_prior, slice_quadrants

SIZE, SLICES, ORGANS = 48, 14, 2


def segmenter(prior=None, **kwargs):
    torch.manual_seed(0)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.0625, num_features=6, stages=3)
    return CoWProSegmenter(encoder, CoWProHead(pool=2), ORGANS, quadrant_prior=prior, **kwargs).double().eval()


def scan(seed=0, shift=(0, 0)):
    """A body off the slice's centre; organ 1 in its first quadrant, organ 2 in three quadrants, unevenly."""
    maker = torch.Generator().manual_seed(seed)
    volume = 0.02 * torch.rand(1, SIZE, SIZE, SLICES, generator=maker, dtype=torch.float64)
    label = torch.zeros(SIZE, SIZE, SLICES, dtype=torch.long)
    rows, columns = slice(2 + shift[0], 34 + shift[0]), slice(8 + shift[1], 40 + shift[1])
    volume[:, rows, columns, 1:13] += 0.4
    label[4 + shift[0] : 14 + shift[0], 10 + shift[1] : 20 + shift[1], 3:9] = 1
    # 9 x 20 pixels about the centre (row 17.5, column 23.5): 3 % behind and before it, the rest behind both
    label[18 + shift[0] : 30 + shift[0], 24 + shift[1] : 38 + shift[1], 5:11] = 2
    label[18 + shift[0] : 21 + shift[0], 22 + shift[1] : 24 + shift[1], 5:11] = 2
    label[16 + shift[0] : 18 + shift[0], 24 + shift[1] : 38 + shift[1], 5:11] = 2
    volume[0][label > 0] += 0.2 * label[label > 0]
    return volume, label


def quadrant_by_loops(image, share=0.02):
    """Quadrant of each pixel about the middle of the rows and columns that show the body."""
    body = np.asarray(image) > 0.05
    rows = [row for row in range(SIZE) if body[row].mean() > share] or [0, SIZE - 1]
    columns = [column for column in range(SIZE) if body[:, column].mean() > share] or [0, SIZE - 1]
    middle = ((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2)
    return np.array([[2 * (r > middle[0]) + (c > middle[1]) for c in range(SIZE)] for r in range(SIZE)])


def shares_by_loops(scans, organ):
    shares = []
    for volume, label in scans:
        counts = np.zeros(4)
        for place in range(SLICES):
            quadrant = quadrant_by_loops(volume[0, ..., place])
            counts += [((label[..., place] == organ).numpy() & (quadrant == number)).sum() for number in range(4)]
        if counts.sum():
            shares.append(counts / counts.sum())
    return np.mean(shares, axis=0)


def test_quadrants_about_the_centre_of_the_body():
    volume, _ = scan(shift=(5, 3))
    volume[0, 47, 47, 4] = 1.0  # one bright pixel in the air
    found = slice_quadrants(volume.permute(3, 0, 1, 2), 0.05, 0.03)
    expected = np.stack([quadrant_by_loops(volume[0, ..., place], 0.03) for place in range(SLICES)])
    np.testing.assert_array_equal(found, expected)
    inner = found[4]
    assert (inner[22, 26], inner[22, 27], inner[23, 26], inner[23, 27]) == (0, 1, 2, 3)  # between rows 7 and 38
    found = slice_quadrants(volume.permute(3, 0, 1, 2), 0.05, 0.02)
    assert torch.equal(found[0], slice_quadrants(torch.zeros(1, 1, SIZE, SIZE), 0.05, 0.02)[0])  # of the whole slice
    assert found[0, 23, 23] == 0
    assert found[0, 24, 24] == 3


def test_shares_are_those_of_the_supports():
    net, scans = segmenter(), [scan(), scan(1, (6, 5)), scan(2)]
    scans[2][1][scans[2][1] == 1] = 0  # this one lacks organ 1
    net.remember(*zip(*scans))
    for organ in (1, 2):
        np.testing.assert_allclose(net.quadrants[organ - 1], shares_by_loops(scans, organ), atol=1e-6)
    np.testing.assert_allclose(net.quadrants[0], [1, 0, 0, 0], atol=1e-6)
    assert 0 < net.quadrants[1, 2] < 0.05 < net.quadrants[1, 1] < net.quadrants[1, 3]


@pytest.mark.parametrize("prior", ["hard", "soft"])
def test_the_prior_follows_the_body_of_the_query(prior):
    plain, net, support = segmenter(), segmenter(prior), scan()
    query, _ = scan(3, (9, 6))
    plain.remember([support[0]], [support[1]])
    net.load_state_dict(plain.state_dict())  # the shares are of the state, whatever prior it was written with
    with torch.no_grad():
        before, after = plain(query[None])[0], net(query[None])[0]
    shares = np.stack([shares_by_loops([support], organ) for organ in (1, 2)])
    expected = before.clone()
    for place in range(SLICES):
        quadrant = quadrant_by_loops(query[0, ..., place])
        for organ in range(ORGANS):
            if (before[1 + organ, ..., place] == -40).all():
                continue  # outside its range
            share = shares[organ][quadrant]
            if prior == "hard":
                expected[1 + organ, ..., place][torch.from_numpy(share <= 0.05)] = -40
            else:
                expected[1 + organ, ..., place] += np.log((share + 0.05) / (shares[organ].max() + 0.05))
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after[0], before[0])
    slices = net(query[None, ..., 6])
    assert slices.shape == (1, 1 + ORGANS, SIZE, SIZE)


def test_the_log_prior_is_flat_where_the_shares_are():
    assert torch.equal(quadrant_log_prior(torch.full((3, 4), 0.25), 0.1), torch.zeros(3, 4))
    found = quadrant_log_prior(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.05)
    np.testing.assert_allclose(found, [[0.0, *[np.log(0.05 / 1.05)] * 3]], rtol=1e-6)


def test_known_features_give_the_same():
    net, other, scans = segmenter(slice_chunk=4), segmenter(), [scan(), scan(1, (6, 5))]
    net.remember(*zip(*scans))
    calls = []
    with torch.no_grad():
        features = [other.encode(volume) for volume, _ in scans]
        other.encoder.register_forward_hook(lambda *_: calls.append(1))
        other.remember(*zip(*scans), features=features)
        found = other.forward_encoded(scans[1][0][None], features[1])
        assert not calls
        torch.testing.assert_close(found, net(scans[1][0][None]))
    for name, value in net.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, equal_nan=True)
    with pytest.raises(ValueError, match="features: expected those of every slice of every volume"):
        net.remember(*zip(*scans), features=features[:1])
    with pytest.raises(ValueError, match=r"expected one volume \(1, C, H, W, S\) and the features of its slices, got"):
        net.forward_encoded(scans[0][0][None], features[0][1:])


def test_only_the_slices_that_give_prototypes_are_encoded():
    net, support, seen = segmenter(), scan(), []
    net.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    net.remember([support[0]], [support[1]])
    assert sum(seen) == len({3 + 1, 3 + 3, 3 + 5} | {5 + 1, 5 + 3, 5 + 5})


def test_an_organ_that_no_support_shows_is_never_found():
    net, support = segmenter(), scan()
    label = torch.where(support[1] == 1, 0, support[1])
    net.remember([support[0]], [label], require_all=False)
    assert net.extent[0].isnan().all()
    with torch.no_grad():
        found, slices = net(support[0][None]), net(support[0][None, ..., 6])
    assert (found[:, 1] == -40).all()
    assert (slices[:, 1] == -40).all()
    assert found.isfinite().all()
    assert (found[:, 2] > 0).any()
    with pytest.raises(ValueError, match="no scan shows label 1"):
        net.remember([support[0]], [torch.zeros_like(label)], require_all=False)


def test_remembering_anew_forgets_the_thresholds():
    net, support = segmenter(), scan()
    net.remember([support[0]], [support[1]])
    confidence = torch.tensor([[0.4, 0.4]])
    assert not net.absent(confidence).any()
    net.absence_threshold[0] = 0.5
    assert net.absent(confidence).tolist() == [[True, False]]
    net.remember([support[0]], [support[1]])
    assert net.absence_threshold.isnan().all()


@pytest.mark.parametrize("prior", [None, "hard", "soft"])
@pytest.mark.parametrize("size", [(SIZE, SIZE, SLICES), (SIZE, SIZE)])
def test_a_trace_gives_the_same(prior, size):
    net, support = segmenter(prior), scan()
    net.remember([support[0]], [support[1]])
    example = support[0][None] if len(size) == 3 else support[0].permute(3, 0, 1, 2)[:3]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, example, check_trace=False)
        torch.testing.assert_close(traced(example * 1.1), net(example * 1.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quadrant_prior": "firm"}, 'quadrant_prior: expected None, "hard" or "soft", got \'firm\''),
        ({"quadrant_share": 0.25}, "quadrant_share: expected a number above 0, below 0.25, got 0.25"),
        ({"quadrant_share": 0}, "quadrant_share: expected a number above 0, below 0.25, got 0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoWProSegmenter(torch.nn.Identity(), CoWProHead(), 1, **arguments)
