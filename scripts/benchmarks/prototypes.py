"""Prototype heads and whole organs against loops that take one episode, organ or slice at a time."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ResizeWithPadOrCropd
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate, normalize

from benchmarks.harness import Row, paired
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.networks import CoWProHead, CoWProSegmenter, DenseEncoder
from medssl_monai.transforms import scan_transforms

_POOL, _THRESHOLD, _SCALE = 4, 0.95, 20.0  # thesis 7.4.1.3; the published code's scale, also 1 / temperature
_PARTS = 3
_Prototypes = tuple[Tensor, Tensor]


def prototype_head(tiny: bool = False) -> list[Row]:
    """Scores of episodes, and of several organs in several queries."""
    width, grid, repeats = (8, 8, 1) if tiny else (256, 32, 9)
    return [*_episodes(4, width, grid, repeats), _organs(2 if tiny else 8, 4, width, grid, repeats)]


def _episodes(number: int, width: int, grid: int, repeats: int) -> list[Row]:
    head = CoWProHead()
    support, query, masks = _maps(number, width, grid)

    def one_by_one(a: Tensor, b: Tensor) -> Tensor:
        items = zip(a, b, masks)
        return torch.cat([_by_convolution(q[None], _prototypes(s[None], mask[None])) for s, q, mask in items])

    def by_pixel() -> Tensor:
        items = zip(support, query, masks)
        return torch.stack([_by_pixel(q, _prototypes(s[None], mask[None])) for s, q, mask in items])

    def trained(scores: Any) -> tuple[Tensor, Tensor]:
        leaves = support.clone().requires_grad_(), query.clone().requires_grad_()
        scores(*leaves).square().mean().backward()
        return leaves[0].grad, leaves[1].grad

    def ours(a: Tensor, b: Tensor) -> Tensor:
        return head(a, masks, b)

    expected = ours(support, query)
    torch.testing.assert_close(one_by_one(support, query), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(by_pixel(), expected, rtol=1e-4, atol=1e-3)
    for mine, theirs in zip(trained(ours), trained(one_by_one)):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6)
    what = f"{number} episodes, features of {width} x {grid} x {grid}"
    forward = paired(lambda: ours(support, query), lambda: one_by_one(support, query), repeats)
    both = paired(lambda: trained(ours), lambda: trained(one_by_one), repeats)
    slow = paired(lambda: ours(support, query), by_pixel, min(repeats, 3))
    one = "one episode at a time, as 1 x 1 convolutions"
    return [
        forward.row("prototype-head", what, one, "scores, 1e-3"),
        both.row("prototype-head", f"{what}, with gradients", one, "gradients, 1e-3"),
        slow.row("prototype-head", what, "loop over pixels (eq. 7.6 to 7.10)", "scores, 1e-3"),
    ]


def _organs(queries: int, organs: int, width: int, grid: int, repeats: int) -> Row:
    """Queries of whom the part of each organ's range is known, as in inference."""
    head = CoWProHead()
    support, _, masks = _maps(organs * _PARTS, width, grid)
    _, query, _ = _maps(queries, width, grid)
    bank = [_prototypes(support[i : i + 1], masks[i : i + 1]) for i in range(len(support))]
    part = torch.arange(queries)[:, None] * torch.ones(organs, dtype=torch.long) % _PARTS
    padded = [_padded([prototypes[side] for prototypes in bank], organs) for side in (0, 1)]

    def ours() -> Tensor:
        pixels, organ = head.unit(query)[:, None], torch.arange(organs)
        scores = [head.class_score(pixels, rows[organ, part], valid[organ, part]) for rows, valid in padded]
        return torch.stack(scores[::-1], dim=2).view(queries, organs, 2, grid, grid)

    def one_by_one() -> Tensor:
        rows = []
        for one, parts in zip(query, part.tolist()):
            chosen = [bank[organ * _PARTS + place] for organ, place in enumerate(parts)]
            rows.append(torch.cat([_by_convolution(one[None], prototypes) for prototypes in chosen]))
        return torch.stack(rows)

    with torch.no_grad():
        torch.testing.assert_close(ours(), one_by_one(), rtol=1e-4, atol=1e-3)
        pairs = paired(ours, one_by_one, repeats)
    return pairs.row(
        "prototype-head",
        f"{queries} queries, {organs} organs, features of {width} x {grid} x {grid}",
        "one query and organ at a time, as 1 x 1 convolutions",
        "scores, 1e-3",
    )


def _maps(number: int, width: int, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of supports and queries that are smooth and alike, and round masks 8 times as fine."""
    random = torch.Generator().manual_seed(number)
    coarse = torch.randn(number, width, 5, 5, generator=random)
    support = interpolate(coarse, (grid, grid), mode="bilinear")
    query = support.roll(1, dims=3) + 0.1 * torch.randn(support.shape, generator=random)
    place = torch.linspace(-1, 1, 8 * grid)
    centre = torch.rand(number, 2, 1, 1, generator=random) - 0.5
    distance = (place[:, None] - centre[:, 0]) ** 2 + (place - centre[:, 1]) ** 2
    return support, query, (distance < 0.35**2).float()[:, None]


def _padded(rows: Sequence[Tensor], organs: int) -> tuple[Tensor, Tensor]:
    """A bank (O, parts, P, D) of sets of prototypes, and which rows count."""
    bank = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    valid = torch.arange(bank.shape[1]) < torch.tensor([[len(one)] for one in rows])
    return bank.view(organs, _PARTS, *bank.shape[1:]), valid.view(organs, _PARTS, -1)


def _prototypes(features: Tensor, mask: Tensor) -> _Prototypes:
    """Foreground's and background's unit prototypes (P, D) of one slice (thesis 7.4.1.3), the global one last."""
    features = features - features.mean(dim=1, keepdim=True)
    seen = interpolate(mask, (features.shape[2], features.shape[3]), mode="bilinear")
    cells = avg_pool2d(features, _POOL)[0].flatten(1).T
    covered = avg_pool2d(seen, _POOL).flatten()
    foreground, background = cells[covered > _THRESHOLD], cells[1 - covered > _THRESHOLD]
    mean, rest = ((features * weight).sum(dim=(2, 3)) for weight in (seen, 1 - seen))
    foreground = torch.cat([normalize(foreground, dim=1), normalize(mean, dim=1)])
    return foreground, normalize(background if len(background) else rest, dim=1)


def _by_convolution(query: Tensor, prototypes: _Prototypes) -> Tensor:
    """Scores (1, 2, h, w) of one query: cosines as a 1 x 1 convolution for each class."""
    unit = normalize(query - query.mean(dim=1, keepdim=True), dim=1)
    scores = []
    for rows in (prototypes[1], prototypes[0]):
        cosine = conv2d(unit, rows[:, :, None, None])
        scores.append(_SCALE * (torch.softmax(_SCALE * cosine, dim=1) * cosine).sum(dim=1))
    return torch.stack(scores, dim=1)


def _by_pixel(query: Tensor, prototypes: _Prototypes) -> Tensor:
    """Scores (2, h, w) of one query, pixel by pixel: an aggregated prototype for each."""
    unit = normalize(query - query.mean(dim=0, keepdim=True), dim=0)
    scores = torch.empty(2, *query.shape[1:])
    for row in range(query.shape[1]):
        for column in range(query.shape[2]):
            pixel = unit[:, row, column]
            for side, rows in enumerate((prototypes[1], prototypes[0])):
                weight = torch.softmax(_SCALE * (rows @ pixel), dim=0)
                scores[side, row, column] = _SCALE * ((weight @ rows) @ pixel)
    return scores


def organ_inference(tiny: bool = False) -> list[Row]:
    """Four organs in 30 slices by one labelled scan."""
    rows = []
    for size in (64,) if tiny else (128, 256):
        images, labels = _two_scans(size, 12 if tiny else 30)
        torch.manual_seed(0)
        encoder = DenseEncoder("resnet18", 1, 0.125 if tiny else 1.0, 16 if tiny else 256, stages=3)
        net = CoWProSegmenter(encoder, CoWProHead(), int(labels[0].max())).eval()
        rows += _inference(net, images, labels[0], size, 1 if tiny else 3)
    return rows


def _two_scans(size: int, slices: int) -> tuple[list[Tensor], list[Tensor]]:
    """Two abdominal phantoms on the net's grid: images (1, H, W, S) and labels (H, W, S)."""
    keys = ["image", "label"]
    chain = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            *scan_transforms("image", "label", image_size=size),
            ResizeWithPadOrCropd(keys, (size, size, slices)),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        datalist = make_phantom("abdomen", Path(folder), subjects=3, size=min(size, 128))
        scans = [chain(datalist.record(item)) for _, item in list(datalist)[:2]]
    return [scan["image"].as_tensor() for scan in scans], [scan["label"].as_tensor()[0].long() for scan in scans]


@torch.no_grad()
def _inference(net: CoWProSegmenter, images: list[Tensor], label: Tensor, size: int, repeats: int) -> list[Row]:
    support, query = images

    def whole() -> Tensor:
        return net(query[None])[0]

    def with_bank() -> Tensor:
        net.remember([support], [label])
        return whole()

    def slice_by_slice() -> Tensor:
        return _slice_by_slice(net.encoder, support, label, query)

    mine, theirs = with_bank(), slice_by_slice()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-3)
    best = mine.topk(2, dim=0).values
    decided = best[0] - best[1] > 2e-3  # elsewhere rounding may choose the one or the other
    np.testing.assert_array_less(0.99, decided.float().mean().item(), "too many ties")
    torch.testing.assert_close(mine.argmax(0)[decided], theirs.argmax(0)[decided], rtol=0, atol=0)
    rows = []
    for name, ours in (("", whole), (", the support's bank written too", with_bank)):
        pairs = paired(ours, slice_by_slice, repeats)
        aim = ours is whole
        rows.append(
            pairs.row(
                "organ-inference",
                f"{query.shape[-1]} slices of {size} x {size} pixels, {net.num_organs} organs{name}",
                "encoding support and query slice by slice, for each organ",
                "masks, but for ties of rounding",
                goal="3 times or more" if aim else None,
                met=statistics.median(pairs.ratios) >= 3 if aim and size >= 128 else None,
            )
        )
    return rows


def _slice_by_slice(encoder: nn.Module, support: Tensor, label: Tensor, query: Tensor) -> Tensor:
    """Logits (1 + O, H, W, S): each slice in an organ's range with the middle slice of its third (thesis 7.4.2.2)."""
    organs, size = int(label.max()), query.shape[-1]
    logits = torch.full((1 + organs, *query.shape[1:]), -2 * _SCALE)
    logits[0] = 0
    first, last = _body(support)
    begin, end = _body(query)
    for organ in range(1, organs + 1):
        shown = (label == organ).flatten(0, 1).any(dim=0).nonzero().squeeze(1)
        low, high = (shown[0] - first) / (last - first), (shown[-1] - first) / (last - first)
        for z in range(size):
            place = (torch.tensor(z) - begin) / (end - begin)
            if not low - 0.05 * (high - low) <= place <= high + 0.05 * (high - low):
                continue
            part = min(max(int((place - low) / (high - low) * _PARTS), 0), _PARTS - 1)
            middle = int(shown[(2 * part + 1) * len(shown) // (2 * _PARTS)])
            features = encoder(torch.stack([support[..., middle], query[..., z]]))
            mask = (label[..., middle] == organ).float()[None, None]
            scores = _by_convolution(features[1:], _prototypes(features[:1], mask))
            fine = interpolate(scores[:, 1:] - scores[:, :1], (query.shape[1], query.shape[2]), mode="bilinear")
            logits[organ, ..., z] = fine[0, 0]
    return logits


def _body(image: Tensor) -> tuple[Tensor, Tensor]:
    """First and last slice of which more than 2 % is brighter than air."""
    shown = ((image[0] > 0.05).float().mean(dim=(0, 1)) > 0.02).nonzero()
    return shown[0, 0], shown[-1, 0]
