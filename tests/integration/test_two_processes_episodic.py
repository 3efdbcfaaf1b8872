"""Training by episodes on two processes against one process with the doubled batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import Recorder, copy_state
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from two_processes import Pair

from medssl_monai.core import generator
from medssl_monai.data import SampleKey, StepBatchSampler
from medssl_monai.engines import EpisodicTrainer
from medssl_monai.networks import CoWProNet, build_head

STEPS, EPOCHS = 4, 2


class Scenes(Dataset[dict[str, Any]]):
    """An image and a mask of 40 pixels: the weighted mean of a whole batch is then that of its parts' means."""

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        image = torch.tensor(generator(3, key.index).random((1, 16, 16)))
        mask = torch.zeros(1, 16, 16, dtype=torch.float64)
        row = key.index % 6
        mask[:, row : row + 8, 4:9] = 1
        return {"image": image + mask, "mask": mask, "index": key.index, "name": f"{key.index}.nii.gz"}


def mirrored(images: Tensor, masks: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
    return images.flip(3) * 0.9**epoch, masks.flip(3)


def train(batch_size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 6, 1)).double()
    network, recorder = CoWProNet(body, build_head("cowpro", pool=2, threshold=0.5)), Recorder()
    first = copy_state(network)
    EpisodicTrainer(
        device="cpu", max_epochs=EPOCHS, network=network, views=mirrored, train_handlers=[recorder], seed=5,
        optimizer=torch.optim.SGD(network.parameters(), 0.1, momentum=0.9),
        train_data_loader=DataLoader(Scenes(), batch_sampler=StepBatchSampler(12, batch_size, STEPS, seed=2)),
    ).run()  # fmt: skip
    return {"rows": recorder.rows, "network": copy_state(network), "first": first}


def test_trajectory_of_one_process_with_the_doubled_batch(pair: Pair) -> None:
    one = train(4)
    two = pair(train, 2)
    assert len(one["rows"]) == STEPS * EPOCHS
    for result in two:
        for row, expected in zip(result["rows"], one["rows"], strict=True):
            assert row == pytest.approx(expected, rel=1e-8, abs=1e-9)
        for key, value in one["network"].items():
            torch.testing.assert_close(result["network"][key], value, rtol=1e-7, atol=1e-9)
    moved = max(float((one["network"][key] - value).abs().max()) for key, value in one["first"].items())
    assert moved > 0.01
