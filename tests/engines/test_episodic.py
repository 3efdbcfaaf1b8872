"""The trainer of episodes against the same steps written out, and what it leaves out."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from ignite.engine import Events
from torch.utils.data import DataLoader

from medssl_monai.core import ConfigError
from medssl_monai.engines import EpisodicTrainer
from medssl_monai.handlers import SkippedEpisodes
from medssl_monai.losses import CoWProLoss
from medssl_monai.networks import CoWProNet, build_head


class Halves(torch.nn.Module):
    """A small encoder without batch statistics, on a grid of half the side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, 2, 1), torch.nn.Tanh(), torch.nn.Conv2d(6, 6, 1))

    def forward(self, x):
        return self.body(x)


def mirrored(images, masks, index, epoch):
    """A query that is the mirrored support, darker by the epoch."""
    assert index.shape == images.shape[:1]
    return images.flip(3) * 0.9**epoch, masks.flip(3)


def items(count=6, size=16, empty=()):
    maker = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, size, size, generator=maker)
    masks = torch.zeros(count, 1, size, size)
    for i in range(count):
        if i not in empty:
            masks[i, :, 2 : 8 + i % 3, 3:10] = 1
    return [
        {"image": image, "mask": mask, "index": i, "name": str(i)} for i, (image, mask) in enumerate(zip(images, masks))
    ]


def trainer_of(network, data, handlers=(), epochs=2, batch_size=3, views=mirrored, **kwargs):
    return EpisodicTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=DataLoader(data, batch_size=batch_size), network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4), views=views,
        train_handlers=list(handlers), **kwargs,
    )  # fmt: skip


def make(head="cowpro", pool=2):
    return CoWProNet(Halves(), build_head(head, pool=None if head == "panet" else pool))


@pytest.mark.parametrize("head", ["cowpro", "alpnet", "panet"])
@pytest.mark.parametrize("empty", [(), (0, 4), (0, 1, 2)])
def test_steps_are_those_of_the_usable_episodes(head, empty):
    network = make(head)
    bare = copy.deepcopy(network)
    data = items(empty=empty)
    trainer = trainer_of(network, data)
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append(({k: float(v) for k, v in engine.state.output["terms"].items()}, engine.skipped)),
    )
    trainer.run()

    loss = CoWProLoss()
    optimizer = torch.optim.SGD(bare.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    expected = []
    for epoch in range(2):
        for start in (0, 3):
            usable = [i for i in range(start, start + 3) if i not in empty]
            optimizer.zero_grad()
            total = [0.0, 0.0]
            if usable:
                image = torch.stack([data[i]["image"] for i in usable])
                mask = torch.stack([data[i]["mask"] for i in usable])
                query = image.flip(3) * 0.9**epoch
                scores = bare.episode(image, mask, query)
                total = loss.terms(scores.query, mask.flip(3), scores.support, mask[scores.cyclic])
                sum(total).backward()
            else:
                for parameter in bare.parameters():
                    parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            expected.append(({"query": float(total[0]), "cycle": float(total[1])}, 3 - len(usable)))
    for (terms, skipped), (expected_terms, expected_skipped) in zip(seen, expected, strict=True):
        assert skipped == expected_skipped
        assert terms == pytest.approx(expected_terms, rel=1e-5, abs=1e-7)
    for ours, theirs in zip(network.parameters(), bare.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_query_that_lost_its_foreground_is_left_out():
    def away(images, masks, index, epoch):
        query, mask = mirrored(images, masks, index, epoch)
        return query, mask * (index != 0).view(-1, 1, 1, 1)

    trainer = trainer_of(make(), items(3), views=away, epochs=1)
    trainer.run()
    assert trainer.skipped == 1


def test_the_cycle_can_be_left_out_of_the_objective():
    trainer = trainer_of(make(), items(3), epochs=1, weights={"query": 1.0})
    trainer.run()
    assert list(trainer.state.output["terms"]) == ["query"]


@pytest.mark.parametrize("missing", ["image", "mask", "index"])
def test_batches_without_episodes(missing):
    data = [{key: value for key, value in item.items() if key != missing} for item in items(3)]
    with pytest.raises(ConfigError, match=f"the batches have no {missing}"):
        trainer_of(make(), data, epochs=1).run()


class TestSkippedEpisodes:
    def run(self, empty, epochs=1):
        handler, rows = SkippedEpisodes(), []
        trainer = trainer_of(make(), items(empty=empty), [handler], epochs)
        trainer.add_event_handler(
            Events.EPOCH_COMPLETED, lambda engine: rows.append(engine.state.metrics["skipped_episodes"])
        )
        trainer.run()
        return rows

    def test_counts_each_epoch(self, caplog):
        with caplog.at_level(logging.WARNING, "medssl_monai.handlers.episodes"):
            assert self.run((0, 4), epochs=3) == [2, 2, 2]
        told = [record.getMessage() for record in caplog.records if record.name == "medssl_monai.handlers.episodes"]
        assert len(told) == 3
        assert told[0].startswith("2 of 6 episodes of epoch 1 showed no foreground")

    def test_says_nothing_of_none(self, caplog):
        with caplog.at_level(logging.WARNING, "medssl_monai.handlers.episodes"):
            assert self.run(()) == [0]
        assert not [record for record in caplog.records if record.name == "medssl_monai.handlers.episodes"]

    def test_goes_on_within_an_epoch(self):
        handler = SkippedEpisodes()
        handler.load_state_dict({"skipped": 3, "episodes": 5})
        assert handler.state_dict() == {"skipped": 3, "episodes": 5}
        trainer = trainer_of(make(), items(empty=(1,)), [handler], 1)
        trainer.run()
        assert trainer.state.metrics["skipped_episodes"] == 4
