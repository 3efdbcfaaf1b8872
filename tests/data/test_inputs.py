"""The profile of the training images and how a new image differs from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from tiny_images import image_dataset

from medssl_monai.core import DataError
from medssl_monai.data import InputProfile
from medssl_monai.transforms import DescribeInputd

# channels, width, height, mean, std
ROWS = np.array(
    [[3, 100, 80, 120.0, 40.0], [3, 200, 60, 130.0, 44.0], [1, 150, 70, 125.0, 38.0], [3, 120, 75, 100.0, 41.0]]
)


def test_profile_by_hand() -> None:
    profile = InputProfile.from_descriptions(ROWS)
    assert (profile.n, profile.channels) == (4, (1, 3))
    assert (profile.width, profile.height) == ((100.0, 200.0), (60.0, 80.0))
    # means 100, 120, 125, 130: median 122.5, distances 22.5, 2.5, 2.5, 7.5: median 5
    assert profile.mean == pytest.approx((122.5, 1.4826 * 5.0))
    # deviations 38, 40, 41, 44: median 40.5, distances 2.5, .5, .5, 3.5: median 1.5
    assert profile.std == pytest.approx((40.5, 1.4826 * 1.5))
    assert InputProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_training_images_do_not_differ() -> None:
    profile = InputProfile.from_descriptions(ROWS)
    assert [profile.differences(row) for row in ROWS] == [[], [], [], []]


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({0: 4}, ["4 channels (trained on 1 or 3)"]),
        ({2: 161}, ["height 161 px (trained on 60 to 80)"]),
        ({2: 160}, []),  # twice the largest is the limit
        ({1: 50}, []),
        ({1: 49}, ["width 49 px (trained on 100 to 200)"]),
        ({3: 122.5 + 37.0}, []),  # 5 x 1.4826 x 5 = 37.07
        ({3: 122.5 + 37.2}, ["intensity mean 159.7 (trained on 122.5 +- 7.4)"]),
        ({3: 122.5 - 37.2}, ["intensity mean 85.3 (trained on 122.5 +- 7.4)"]),
        ({3: float("nan")}, ["intensity mean nan (trained on 122.5 +- 7.4)"]),
        ({4: 0.5}, ["intensity std 0.5 (trained on 40.5 +- 2.2)"]),
        ({0: 2, 1: 5000, 2: 1}, ["2 channels (trained on 1 or 3)", "height 1 px (trained on 60 to 80)",
                                 "width 5000 px (trained on 100 to 200)"]),
    ],
)  # fmt: skip
def test_differences_in_words(changes: dict[int, float], texts: list[str]) -> None:
    row = ROWS[0].copy()
    for column, value in changes.items():
        row[column] = value
    assert InputProfile.from_descriptions(ROWS).differences(row) == texts


VOLUMES = np.array([[1, 256, 240, 50.0, 20.0, 24], [1, 256, 250, 52.0, 21.0, 40], [1, 300, 256, 49.0, 20.0, 31]])


@pytest.mark.parametrize(
    ("size", "texts"),
    [
        ((256, 250, 30), []),
        ((256, 250, 12), []),
        ((256, 250, 11), ["slices 11 (trained on 24 to 40)"]),
        ((256, 250, 81), ["slices 81 (trained on 24 to 40)"]),
        ((2000, 250, 30), ["width 2000 px (trained on 256 to 300)"]),
        ((30, 250, 256), ["axes seem mixed up: columns, rows, slices are 30, 250, 256 (trained on 256 to 300, "
                          "240 to 256, 24 to 40); bring the slices last, numpy.transpose(array, (2, 1, 0))"]),
        ((256, 30, 250), ["axes seem mixed up: columns, rows, slices are 256, 30, 250 (trained on 256 to 300, "
                          "240 to 256, 24 to 40); bring the slices last, numpy.transpose(array, (0, 2, 1))"]),
    ],
)  # fmt: skip
def test_volumes(size: tuple[int, int, int], texts: list[str]) -> None:
    profile = InputProfile.from_descriptions(VOLUMES)
    assert profile.slices == (24.0, 40.0)
    row = [1, *size[:2], 50.0, 20.0, size[2]]
    assert profile.differences(row) == texts
    assert InputProfile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


def test_a_profile_from_before_slices_were_kept() -> None:
    content = {
        key: value for key, value in InputProfile.from_descriptions(VOLUMES).to_json().items() if key != "slices"
    }
    profile = InputProfile.from_json(content)
    assert profile.slices is None
    assert profile.differences([1, 256, 250, 50.0, 20.0, 500]) == []


def test_near_identical_training_images_do_not_flag_every_other_one() -> None:
    profile = InputProfile.from_descriptions(np.repeat(ROWS[:1], 5, axis=0))
    assert profile.mean[1] == 0.0
    assert profile.differences([3, 100, 80, 121.0, 40.5]) == []
    assert profile.differences([3, 100, 80, 151.0, 40.0]) == ["intensity mean 151 (trained on 120 +- 0)"]


@pytest.mark.parametrize(
    ("mean", "std", "texts"),
    [
        (131.0, 180.0, []),
        (311.0, 180.0, []),  # one deviation of the voxels off
        (312.0, 180.0, ["intensity mean 312 (trained on 131)"]),
        (-540.0, 510.0, ["intensity mean -540 (trained on 131)"]),  # CT for MR
        (131.0, 59.0, ["intensity std 59 (trained on 180)"]),
        (131.0, 60.0, []),  # a third
        (131.0, 540.0, []),
        (131.0, 541.0, ["intensity std 541 (trained on 180)"]),
        (float("nan"), 180.0, ["intensity mean nan (trained on 131)"]),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_few_images_know_no_spread(count: int, mean: float, std: float, texts: list[str]) -> None:
    profile = InputProfile.from_descriptions(np.array([[1, 256, 256, 131.0, 180.0, 36]] * count))
    assert profile.differences([1, 256, 256, mean, std, 36]) == texts


def test_profile_of_files(tmp_path: Path) -> None:
    records = image_dataset(tmp_path, training=5).records("training")
    loading = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), DescribeInputd("image")])
    profile = InputProfile.from_records(records, loading)
    assert (profile.n, profile.channels, profile.width, profile.height) == (5, (3,), (12.0, 12.0), (10.0, 10.0))
    means = [
        np.random.default_rng(i).integers(0, 256, (10, 12, 3), dtype=np.uint8).astype(np.float64).mean()
        for i in range(5)
    ]
    assert profile.mean[0] == pytest.approx(np.median(means), rel=1e-9)
    assert profile.mean[1] == pytest.approx(1.4826 * np.median(np.abs(np.array(means) - np.median(means))), rel=1e-9)


def test_a_large_set_is_sampled_by_seed() -> None:
    seen: list[list[int]] = []

    def loading(data: dict[str, Any]) -> dict[str, Any]:
        seen[-1].append(data["image"])
        return DescribeInputd("image")({"image": MetaTensor(torch.zeros(1, 2, 2))})

    records = [{"image": i} for i in range(50)]
    for seed in (0, 0, 1):
        seen.append([])
        assert InputProfile.from_records(records, loading, limit=10, seed=seed).n == 10
    assert seen[0] == seen[1] != seen[2]
    assert len(set(seen[0])) == 10


def test_errors() -> None:
    with pytest.raises(DataError, match=r"^there is no image to describe\.$"):
        InputProfile.from_records([], lambda data: data)
    for loaded in (torch.zeros(1, 2, 2), MetaTensor(torch.zeros(1, 2, 2))):
        with pytest.raises(
            DataError, match=r"the loading transforms describe no image\. Put DescribeInputd among them\."
        ):
            InputProfile.from_records([{"image": 1}], lambda data, image=loaded: {"image": image})
