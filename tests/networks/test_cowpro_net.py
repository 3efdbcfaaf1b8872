"""CoWProNet against its parts called one by one, and the cyclic step by hand."""

from __future__ import annotations

import pytest
import torch

from medssl_monai.losses import CoWProLoss
from medssl_monai.networks import ALPNetHead, CoWProHead, CoWProNet, DenseEncoder, PANetHead


def net(head=None, seed=0):
    torch.manual_seed(seed)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.125, num_features=8, stages=3)
    return CoWProNet(encoder, head or CoWProHead(pool=2)).double().eval()


def episode(count=3, size=64):
    maker = torch.Generator().manual_seed(1)
    support, query = torch.rand(2, count, 1, size, size, generator=maker, dtype=torch.float64)
    mask = torch.zeros(count, 1, size, size)
    for item in range(count):
        mask[item, 0, 8 : 40 + 4 * item, 16:48] = 1
        for image in (support, query):  # something to recognise
            image[item, 0, 8 : 40 + 4 * item, 16:48] += 2
    return support, mask, query


@pytest.mark.parametrize("head", [CoWProHead(pool=2), ALPNetHead(pool=2), PANetHead()])
def test_is_the_head_on_the_encoders_features(head):
    model, (support, mask, query) = net(head), episode()
    found = model(support, mask, query)
    assert found.shape == (3, 2, 8, 8)
    torch.testing.assert_close(found, head(model.encoder(support), mask, model.encoder(query)))


def test_the_cycle_changes_support_and_query():
    model, (support, mask, query) = net(CoWProHead(pool=1, threshold=0.2)), episode()
    scores = model.episode(support, mask, query)
    torch.testing.assert_close(scores.query, model(support, mask, query))
    predicted = scores.query.argmax(dim=1, keepdim=True)
    assert 0 < predicted.sum() < predicted.numel()
    strict = CoWProHead(pool=1, threshold=0.95)
    expected = strict(model.encoder(query), predicted, model.encoder(support))
    torch.testing.assert_close(scores.support, expected)
    assert scores.cyclic.all()
    assert model.head.threshold == 0.2  # the head itself keeps its own


def test_a_query_without_foreground_predicted_has_no_cycle():
    model, (support, mask, query) = net(), episode()
    mask[1] = 0
    scores = model.episode(support, mask, query)
    assert scores.cyclic.tolist() == [True, False, True]
    assert len(scores.support) == 2
    loss = CoWProLoss()(scores.query, mask, scores.support, mask[scores.cyclic])
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    mask[:] = 0
    nothing = model.episode(support, mask, query)
    assert nothing.support.shape == (0, 2, 8, 8)
    assert CoWProLoss()(nothing.query, mask, nothing.support, mask[:0]).isfinite()


def test_support_and_query_share_their_batch_statistics():
    model, (support, mask, query) = net().train(), episode()
    found = model(support, mask, query)
    features = net().train().encoder(torch.cat([support, query]))
    torch.testing.assert_close(found, model.head(features[:3], mask, features[3:]))


def test_it_learns_an_episode():
    model, (support, mask, query) = net().train(), episode()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(12):
        scores = model.episode(support, mask, query)
        loss = CoWProLoss()(scores.query, mask, scores.support, mask[scores.cyclic])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < 0.6 * losses[0]


def test_errors():
    support, mask, query = episode()
    with pytest.raises(ValueError, match=r"query: expected the support's shape \(3, 1, 64, 64\), got \(2, 1, 64, 64\)"):
        net()(support, mask, query[:2])
    with pytest.raises(ValueError, match=r"support mask: expected \(3, 1, H, W\)"):
        net().episode(support, mask[:2], query)
