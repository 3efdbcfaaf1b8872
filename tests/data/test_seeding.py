"""Seeding in place gives the very draws of ``set_random_state``."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    OneOf,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    Randomizable,
    RandRotated,
    RandSpatialCropd,
    RandSpatialCropSamplesd,
    ScaleIntensityd,
    Transform,
)

from medssl_monai.core import seed_transform
from medssl_monai.data.seeding import TransformSeeder
from medssl_monai.transforms import RandColorJitter, RandResizedCrop, TwoViewsd


class Counting(Randomizable, Transform):
    """Its own rule: the seed plus one; and it counts."""

    seeded = 0

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Counting:
        self.seeded += 1
        super().set_random_state(None if seed is None else seed + 1, state)
        return self

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "drawn": self.R.random(3).tolist()}


PIPELINES = {
    "volumes": lambda: Compose(
        [
            ScaleIntensityd("image"),
            RandSpatialCropd(["image", "label"], (6, 6, 4), random_size=False),
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandAffined("image", prob=1.0, rotate_range=0.3, scale_range=0.1),
            RandRotated("image", prob=0.7, range_x=0.4),
            RandGaussianNoised("image", prob=0.8),
        ]
    ),
    "labels": lambda: Compose([RandCropByPosNegLabeld(["image", "label"], "label", (4, 4, 4), num_samples=2)]),
    "samples": lambda: Compose([RandSpatialCropSamplesd(["image", "label"], (4, 4, 4), 3, random_size=False)]),
    "choice": lambda: OneOf([RandFlipd("image", prob=0.5), RandGaussianNoised("image", prob=1.0)]),
    "nested": lambda: Compose([Compose([RandFlipd("image", prob=0.5)]), Counting(), RandGaussianNoised("image", 1.0)]),
}


def item() -> dict[str, torch.Tensor]:
    values = torch.rand(1, 10, 10, 8, generator=torch.Generator().manual_seed(5))
    return {"image": values, "label": (values > 0.5).float()}


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_same(one, other)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=0)
    else:
        assert a == b


@pytest.mark.parametrize("name", PIPELINES)
def test_draws_are_those_of_set_random_state(name: str) -> None:
    ours, plain = PIPELINES[name](), PIPELINES[name]()
    seeder = TransformSeeder(ours)
    for epoch in range(3):
        for index in range(3):
            seeder(7, epoch, index)
            seed_transform(plain, 7, epoch, index)
            assert_same(ours(item()), plain(item()))


def test_views_are_those_of_set_random_state() -> None:
    def views() -> Compose:
        chain = Compose([RandResizedCrop((8, 8), scale=(0.3, 1.0)), RandColorJitter(0.4, 0.4, 0.4, 0.1)])
        return Compose([TwoViewsd("image", chain)])

    ours, plain = views(), views()
    seeder = TransformSeeder(ours)
    image = {"image": torch.rand(3, 8, 8)}
    for epoch in range(4):
        seeder(1, epoch)
        seed_transform(plain, 1, epoch)
        assert_same(ours(image), plain(image))


def test_no_generator_is_made_anew_where_the_rule_is_known() -> None:
    transform = PIPELINES["volumes"]()
    seeder = TransformSeeder(transform)
    seeder(0)
    before = [id(t.R) for t in transform.transforms[1:]]
    seeder(1)
    assert [id(t.R) for t in transform.transforms[1:]] == before
    seed_transform(transform, 1)
    assert [id(t.R) for t in transform.transforms[1:]] != before  # what it saves


def test_a_rule_of_ones_own_is_called_every_time() -> None:
    own = Counting()
    seeder = TransformSeeder(Compose([own]))
    seeder(0)
    count = own.seeded
    seeder(1)
    seeder(2)
    assert own.seeded == count + 2


def test_a_generator_given_by_somebody_else_is_noticed() -> None:
    ours, plain = PIPELINES["volumes"](), PIPELINES["volumes"]()
    seeder = TransformSeeder(ours)
    seeder(0)
    shared = np.random.RandomState(3)
    for transform in ours.transforms[1:]:
        transform.set_random_state(state=shared)
    seeder(4)
    seed_transform(plain, 4)
    assert_same(ours(item()), plain(item()))


def test_survives_the_way_into_a_worker() -> None:
    ours, plain = PIPELINES["volumes"](), PIPELINES["volumes"]()
    seeder = TransformSeeder(ours)
    seeder(0)
    sent_seeder, sent = pickle.loads(pickle.dumps((seeder, ours)))
    sent_seeder(5)
    seed_transform(plain, 5)
    assert_same(sent(item()), plain(item()))


def test_a_transform_without_randomness_is_left_alone() -> None:
    TransformSeeder(ScaleIntensityd("image"))(1, 2)
    TransformSeeder(lambda x: x)(1, 2)
