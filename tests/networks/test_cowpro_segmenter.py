"""CoWProSegmenter against loops over scans, organs, parts and slices."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from medssl_monai.core import CheckpointError
from medssl_monai.networks import CoWProHead, CoWProSegmenter, DenseEncoder, PANetHead, load_state
from medssl_monai.networks.support_memory import body_ends

ORGANS, SIZE = 2, 64


def segmenter(head=None, **kwargs):
    torch.manual_seed(0)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.0625, num_features=6, stages=3)
    return CoWProSegmenter(encoder, head or CoWProHead(pool=2), ORGANS, **kwargs).double().eval()


def scan(slices=20, seed=0, body=(2, 17), organs=((4, 12), (9, 15))):
    """A volume whose body lies in some slices, and organs in some of these; ends are included."""
    maker = torch.Generator().manual_seed(seed)
    volume = 0.02 * torch.rand(1, SIZE, SIZE, slices, generator=maker, dtype=torch.float64)
    volume[:, 4:60, 4:60, body[0] : body[1] + 1] += 0.3
    label = torch.zeros(SIZE, SIZE, slices, dtype=torch.long)
    for organ, (first, last) in enumerate(organs, start=1):
        for place in range(first, last + 1):
            rows = slice(8 + 20 * organ - 16 + place, 30 + 20 * organ - 16 + place // 2)
            label[rows, 10 * organ : 10 * organ + 26, place] = organ
            volume[0, rows, 10 * organ : 10 * organ + 26, place] += 0.3 * organ
    return volume, label


def bank_by_loops(net, scans, organ, part):
    """Prototypes of an organ's part from the middle slice of each scan's own part."""
    foreground, background = [], []
    for volume, label in scans:
        places = [place for place in range(label.shape[-1]) if (label[..., place] == organ).any()]
        if places:
            place = places[int((2 * part + 1) / 6 * len(places) + 1e-9)]
            mask = (label[..., place] == organ)[None, None].double()
            pair = net.head.prototypes(net.encoder(volume[None, ..., place]), mask)
            foreground.append(pair[0]), background.append(pair[1])
    return torch.cat(foreground), torch.cat(background)


def by_loops(net, scans, query, part_of):
    """Logits of a volume, slice by slice and organ by organ; ``part_of`` gives a slice's part, or None outside."""
    slices = query.shape[-1]
    logits = torch.full((ORGANS, SIZE, SIZE, slices), -40.0, dtype=torch.float64)
    with torch.no_grad():
        for place in range(slices):
            for organ in range(ORGANS):
                part = part_of(organ, place)
                if part is not None:
                    pair = bank_by_loops(net, scans, organ + 1, part)
                    score = net.head.score(net.encoder(query[None, ..., place]), pair)
                    fine = interpolate(score, (SIZE, SIZE), mode="bilinear")[0]
                    logits[organ, ..., place] = fine[1] - fine[0]
    return torch.cat([torch.zeros_like(logits[:1]), logits])


def blind(extents, body, widen=0.1, parts=3):
    """The rule of fractions between the first and the last slice of the body."""

    def part_of(organ, place):
        low, high = extents[organ]
        fraction = (place - body[0]) / (body[1] - body[0])
        margin = widen * (high - low) / 2
        if not low - margin <= fraction <= high + margin:
            return None
        return int(np.clip(np.floor((fraction - low) / (high - low) * parts), 0, parts - 1))

    return part_of


@pytest.mark.parametrize("head", [CoWProHead(pool=2), CoWProHead(pool=1, top_fraction=0.3), PANetHead()])
def test_a_new_scan_is_compared_part_by_part(head):
    net = segmenter(head, slice_chunk=3)
    support, label = scan()
    net.remember([support], [label])
    query, _ = scan(26, seed=1, body=(5, 22), organs=((8, 14), (12, 20)))
    extents = [((4 - 2) / 15, (12 - 2) / 15), ((9 - 2) / 15, (15 - 2) / 15)]
    np.testing.assert_allclose(net.extent, extents, rtol=1e-6)
    with torch.no_grad():
        found = net(torch.stack([query, query.flip(1)]))
    assert found.shape == (2, 1 + ORGANS, SIZE, SIZE, 26)
    expected = by_loops(net, [(support, label)], query, blind(extents, (5, 22)))
    torch.testing.assert_close(found[0], expected, rtol=1e-6, atol=1e-6)
    outside = (expected[1:] == -40).flatten(1, 2).all(dim=1).sum()
    assert 0 < outside < ORGANS * 26
    torch.testing.assert_close(net(query[None])[0], found[0])  # the batch has no part in it


def test_ranges_that_are_known():
    net = segmenter()
    support = scan()
    net.remember([support[0]], [support[1]])
    query, _ = scan(12, seed=2, body=(0, 11), organs=((2, 7), (5, 9)))
    ranges = torch.tensor([[[2, 7], [1, 0]]])

    def part_of(organ, place):
        if organ == 1 or not 2 <= place <= 7:
            return None
        return min(int((place - 2) / (5 / 3)), 2)

    with torch.no_grad():
        found = net.forward_within(query[None], ranges)[0]
    torch.testing.assert_close(found, by_loops(net, [support], query, part_of), rtol=1e-6, atol=1e-6)


def test_several_scans_join_their_prototypes_and_ranges():
    net = segmenter()
    first, second = scan(), scan(24, seed=3, body=(3, 22), organs=((6, 16), (1, 0)))
    net.remember([first[0], second[0]], [first[1], second[1]])
    for organ in range(ORGANS):
        for part in range(3):
            expected = bank_by_loops(net, [first, second], organ + 1, part)
            for name, rows in zip(("foreground", "background"), expected):
                bank, valid = getattr(net, name)[organ, part], getattr(net, f"{name}_valid")[organ, part]
                torch.testing.assert_close(bank[valid], rows)
    np.testing.assert_allclose(net.extent[0], [min(2 / 15, 3 / 19), max(10 / 15, 13 / 19)], rtol=1e-6)
    np.testing.assert_allclose(net.extent[1], [7 / 15, 13 / 15], rtol=1e-6)  # of the only scan that shows it


def test_slices_without_a_place_are_compared_with_all_parts():
    net = segmenter()
    support = scan()
    net.remember([support[0]], [support[1]])
    images = torch.rand(3, 1, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        found, features = net(images), net.encoder(images)
    assert found.shape == (3, 1 + ORGANS, SIZE, SIZE)
    for organ in range(ORGANS):
        pairs = zip(*(bank_by_loops(net, [support], organ + 1, part) for part in range(3)))
        score = interpolate(
            net.head.score(features, tuple(torch.cat(rows) for rows in pairs)), (SIZE, SIZE), mode="bilinear"
        )
        torch.testing.assert_close(found[:, 1 + organ], score[:, 1] - score[:, 0], rtol=1e-6, atol=1e-6)
    assert (found[:, 0] == 0).all()


def test_the_bank_is_of_the_state(tmp_path):
    net = segmenter()
    support = scan()
    net.remember([support[0]], [support[1]])
    stream = io.BytesIO()
    torch.save(net.state_dict(), stream)
    stream.seek(0)
    other = segmenter()
    with pytest.warns(UserWarning, match=r"the bank of prototypes is empty: call remember\(\).*all is background"):
        nothing = other(support[0][None])
    assert (nothing.argmax(dim=1) == 0).all()
    assert nothing.shape == net(support[0][None]).shape
    with pytest.warns(UserWarning, match="all is background"):
        assert (other(support[0][None][..., 0]).argmax(dim=1) == 0).all()
    with pytest.raises(ValueError, match=r"the bank of prototypes is empty: call remember\(\)"):
        other.forward_within(support[0][None], torch.zeros(1, net.num_organs, 2))
    other.load_state_dict(torch.load(stream, weights_only=True))
    torch.testing.assert_close(other(support[0][None]), net(support[0][None]))
    again, path = segmenter(), tmp_path / "model.pt"
    torch.save(net.state_dict(), path)
    report = load_state(again, path)  # as the served network is loaded
    assert len(report.matched) == len(net.state_dict())
    torch.testing.assert_close(again(support[0][None]), net(support[0][None]))
    with pytest.raises(CheckpointError, match=r"checkpoint of another network.*foreground"):
        load_state(CoWProSegmenter(net.encoder, net.head, ORGANS, parts=2), path)
    with pytest.raises(RuntimeError, match="size mismatch for foreground"):
        CoWProSegmenter(net.encoder, net.head, ORGANS + 1).load_state_dict(net.state_dict())


def test_remembering_leaves_the_mode_and_no_gradient():
    net = segmenter().train()
    support = scan()
    net.remember([support[0]], [support[1]])
    assert net.training
    assert net.encoder.training
    assert not net.foreground.requires_grad
    evaluated = segmenter()
    evaluated.remember([support[0]], [support[1]])
    torch.testing.assert_close(net.foreground, evaluated.foreground)


def test_a_volume_without_a_body_is_all_body():
    net = segmenter()
    support = scan()
    net.remember([support[0]], [support[1]])
    found = net(torch.zeros(1, 1, SIZE, SIZE, 5, dtype=torch.float64))
    assert found.isfinite().all()
    assert [end.item() for end in body_ends(torch.zeros(1, 1, 8, 8, 5), 0.05, 0.02)] == [0, 4]
    one = net(torch.full((1, 1, SIZE, SIZE, 1), 0.5, dtype=torch.float64))
    assert one.shape == (1, 1 + ORGANS, SIZE, SIZE, 1)


def test_errors():
    net = segmenter()
    volume, label = scan()
    with pytest.raises(ValueError, match=r"labels: no scan shows label 2; expected every label from 1 to 2"):
        net.remember([volume], [label.clamp_max(1)])
    with pytest.raises(ValueError, match=r"scan 0: expected a volume \(C, H, W, S\) and labels \(H, W, S\), got"):
        net.remember([volume], [label[None]])
    with pytest.raises(ValueError, match="expected as many labels as volumes, and at least one; got 0, 0"):
        net.remember([], [])
    net.remember([volume], [label])
    with pytest.raises(ValueError, match=r"expected volumes \(N, C, H, W, S\) or slices"):
        net(volume[0])
    with pytest.raises(ValueError, match=r"ranges: expected \(1, 2, 2\) for volumes"):
        net.forward_within(volume[None], torch.zeros(1, 3, 2))
    for arguments, message in (
        ({"num_organs": 0}, "num_organs: expected an integer of at least 1, got 0"),
        ({"parts": 1.5}, "parts: expected an integer of at least 1, got 1.5"),
        ({"body_share": 1}, "body_share: expected a number from 0 to below 1, got 1"),
        ({"widen": -0.1}, "widen: expected a number of at least 0, got -0.1"),
    ):
        with pytest.raises(ValueError, match=message):
            CoWProSegmenter(net.encoder, net.head, **({"num_organs": 2} | arguments))


def test_a_volume_of_one_slice_is_a_slice():
    """A body of one slice has no ends to tell where it lies between them."""
    net, support = segmenter(), scan()
    net.remember([support[0]], [support[1]])
    alone = support[0][None][..., 3:4]
    found = net(alone)
    assert found.shape == (1, 1 + net.num_organs, *alone.shape[2:])
    torch.testing.assert_close(found[..., 0], net(alone[..., 0]))
    torch.testing.assert_close(torch.jit.script(net)(alone), found)
