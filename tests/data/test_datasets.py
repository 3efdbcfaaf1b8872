"""The cached dataset: the same samples whoever prepares them, and an error that names the item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    Resized,
    Transform,
)
from tiny_images import image_dataset

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, SampleKey, SeededBatchSampler, SeededCacheDataset, TwoStreamBatchSampler
from medssl_monai.transforms import (
    BatchedViews,
    RandColorJitter,
    RandResizedCrop,
    ToUnitRanged,
    TwoViewsd,
    mr_views,
)


class InPlaceNoised(RandScaleIntensityd):
    """A random transform that works in place, which MONAI allows."""

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        self.randomize(None)
        for key in self.keys:
            data[key].add_(float(self.R.uniform()))
        return dict(data)


class Named(Transform):
    def __init__(self, work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.work = work

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        return self.work(data)


@pytest.fixture
def datalist(tmp_path: Path) -> Datalist:
    return image_dataset(tmp_path, training=4, unlabeled=5)


def pipeline() -> Compose:
    """The transforms of the training stage, nested as its configuration nests them."""
    loading = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    resizing = Compose([ToUnitRanged("image"), Resized("image", (8, 8)), EnsureTyped("image", track_meta=False)])
    augmentation = Compose(
        [RandResizedCrop(spatial_size=(8, 8), scale=(0.3, 1.0)), RandColorJitter(0.4, 0.4, 0.4, 0.1)]
    )
    return Compose([loading, resizing, TwoViewsd("image", augmentation, names=("view1", "view2"))])


def dataset(records: Sequence[Mapping[str, Any]], **kwargs: Any) -> SeededCacheDataset:
    settings = {"seed": 3, "num_workers": 0, "unlabeled_value": -1, "progress": False, **kwargs}
    return SeededCacheDataset(records, settings.pop("transform", None) or pipeline(), **settings)


def epochs(records: list[dict[str, Any]], workers: int, wanted: Sequence[int] = (0, 1), **kwargs: Any) -> list[Any]:
    sampler = TwoStreamBatchSampler(records, 4, 2, seed=3)
    loader = DataLoader(dataset(records, **kwargs), batch_sampler=sampler, num_workers=workers)
    batches = []
    for epoch in wanted:
        sampler.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_equal(a: list[Any], b: list[Any]) -> None:
    assert len(a) == len(b) > 0
    for one, other in zip(a, b):
        assert one.keys() == other.keys()
        assert one["name"] == other["name"]
        for key in ("view1", "view2", "label"):
            torch.testing.assert_close(one[key], other[key], rtol=0, atol=0)


def test_batches_are_the_same_for_any_number_of_workers_and_any_cache(datalist: Datalist) -> None:
    records = datalist.records("training") + datalist.records("unlabeled")
    alone = epochs(records, 0)
    # the random state that the loaders' workers inherit or draw must not matter
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert_equal(alone, epochs(records, 1))
    assert_equal(alone, epochs(records, 2))
    assert_equal(alone, epochs(records, 0, cache_rate=0.0))
    assert_equal(alone, epochs(records, 2, cache_rate=0.5))
    # an epoch does not depend on those before it: what a resumed run relies on
    assert_equal(alone[3:], epochs(records, 0, wanted=[1]))

    first = alone[0]
    assert first["view1"].shape == (4, 3, 8, 8)
    assert first["view1"].dtype == torch.float32
    assert first["label"].tolist()[2:] == [-1, -1]
    assert not torch.equal(first["view1"], first["view2"])


def test_epoch_repeat_index_and_seed_change_the_augmentation(datalist: Datalist) -> None:
    records = datalist.records("training")
    samples = dataset(records)
    reference = samples[SampleKey(1, 2, 3)]["view1"]
    torch.testing.assert_close(samples[SampleKey(1, 2, 3)]["view1"], reference, rtol=0, atol=0)
    for key in (SampleKey(1, 2, 4), SampleKey(1, 3, 3), SampleKey(0, 2, 3)):
        assert not torch.equal(samples[key]["view1"], reference)
    assert not torch.equal(dataset(records, seed=4)[SampleKey(1, 2, 3)]["view1"], reference)
    torch.testing.assert_close(samples[1]["view1"], samples[SampleKey(1)]["view1"], rtol=0, atol=0)


def test_negative_and_excessive_positions(datalist: Datalist) -> None:
    samples = dataset(datalist.records("training"), cache_rate=0.5)
    assert samples[-1]["name"] == samples[3]["name"] == "training/03.png"
    torch.testing.assert_close(samples[-1]["view1"], samples[3]["view1"], rtol=0, atol=0)
    with pytest.raises(IndexError):
        samples[4]
    assert [sample["name"] for sample in samples] == [f"training/0{i}.png" for i in range(4)]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("cache_rate", [0.0, 1.0])
def test_the_deterministic_part_runs_once_when_cached_and_random_ones_leave_the_cache(
    cache_rate: float, half: bool
) -> None:
    calls: list[float] = []

    def load(data: dict[str, Any]) -> dict[str, Any]:
        calls.append(data["value"])
        return {"image": torch.full((1, 4, 4), data["value"]), "mask": torch.zeros(1, 4, 4, dtype=torch.uint8)}

    random = [InPlaceNoised("image", factors=0.1), RandFlipd("mask", prob=1.0), RandGaussianNoised("image", prob=1.0)]
    records = [{"value": 0.25}, {"value": 0.5}]
    samples = SeededCacheDataset(
        records, Compose([Named(load), *random]), cache_rate=cache_rate, num_workers=1, half=half, progress=False
    )
    first = [samples[i]["image"] for i in (0, 1, 0)]
    again = [samples[i]["image"] for i in (0, 1, 0)]
    for one, other in zip(first, again):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(first[0], first[2], rtol=0, atol=0)
    assert len(calls) == (2 if cache_rate else 6)


def test_metadata_of_cached_images_does_not_grow() -> None:
    image = MetaTensor(torch.rand(1, 4, 4))
    transform = Compose([Named(lambda data: dict(data)), RandFlipd("image", prob=1.0, spatial_axis=0)])
    samples = SeededCacheDataset([{"image": image}], transform, num_workers=1, half=False, progress=False)
    counts = [len(samples[0]["image"].applied_operations) for _ in range(3)]
    assert counts == [1, 1, 1]
    assert image.applied_operations == []


def test_a_bare_function_is_applied_whether_or_not_the_item_is_cached() -> None:
    def double(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "image": 2 * data["image"]}

    for transform in (Compose([double]), Compose([double, RandFlipd("image", prob=0.0)])):
        for rate in (0.0, 1.0):
            samples = SeededCacheDataset(
                [{"image": torch.ones(1, 2, 2)}], transform, cache_rate=rate, num_workers=1, progress=False
            )
            torch.testing.assert_close(torch.as_tensor(samples[0]["image"]), torch.full((1, 2, 2), 2.0))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_half_precision_rounds_once_and_spares_what_it_cannot_hold(rate: float) -> None:
    third, large = torch.full((1, 2), 1 / 3), torch.tensor([[70000.0, 1 / 3]])
    wide = torch.full((1, 2), 1 / 3, dtype=torch.float64)
    record = {
        "a": third,
        "large": large,
        "wide": wide,
        "index": torch.tensor([2049]),
        "nan": torch.tensor([float("nan")]),
    }
    identity = Compose([Named(lambda data: dict(data))])
    sample = SeededCacheDataset([record], identity, cache_rate=rate, num_workers=1, progress=False)[0]
    assert sample["a"].dtype == torch.float32
    torch.testing.assert_close(sample["a"], torch.full((1, 2), float(np.float16(1 / 3))), rtol=0, atol=0)
    torch.testing.assert_close(sample["large"], large, rtol=0, atol=0)
    torch.testing.assert_close(sample["wide"], wide, rtol=0, atol=0)
    assert sample["index"].item() == 2049
    assert torch.isnan(sample["nan"]).all()
    whole = SeededCacheDataset([record], identity, cache_rate=rate, num_workers=1, half=False, progress=False)[0]
    torch.testing.assert_close(whole["a"], third, rtol=0, atol=0)


def test_the_cache_holds_half_precision(datalist: Datalist) -> None:
    samples = dataset(datalist.records("training"))
    assert {item["image"].dtype for item in samples._cache} == {torch.float16}


def test_labels_of_unlabelled_items(datalist: Datalist) -> None:
    records = datalist.records("training")[:1] + datalist.records("unlabeled")[:1]
    assert [sample["label"] for sample in dataset(records)] == [0, -1]
    assert ["label" in sample for sample in dataset(records, unlabeled_value=None)] == [True, False]
    assert "label" not in records[1]  # the caller's records are left as they are


def test_images_with_and_without_columns_make_one_batch(tmp_path: Path) -> None:
    datalist = image_dataset(tmp_path, training=3)
    for number, columns in enumerate(({"age": 30}, {}, {"age": None})):
        datalist.splits["training"][number] = type(datalist.splits["training"][number])(
            f"training/0{number}.png", 0, columns=columns
        )
    loader = DataLoader(dataset(datalist.records("training")), batch_sampler=SeededBatchSampler(3, 3))
    assert next(iter(loader))["label"].tolist() == [0, 0, 0]


def test_empty_set() -> None:
    with pytest.raises(DataError, match=r"there is no image in this split. Name a dataset_dir whose datalist.json has"):
        SeededCacheDataset([], Compose([]))
    assert len(SeededCacheDataset([], Compose([]), allow_empty=True, progress=False)) == 0


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_an_unreadable_file_is_named(datalist: Datalist, rate: float) -> None:
    (datalist.root / "training/02.png").write_bytes(b"no image")

    def prepare_all() -> None:
        samples = dataset(datalist.records("training"), cache_rate=rate)
        for position in range(4):
            samples[position]

    with pytest.raises(
        DataError, match=r"^training/02\.png: cannot be prepared: .*`medssl check` lists the damaged files"
    ):
        prepare_all()


def test_the_error_of_a_random_transform_names_the_item_and_the_cause(datalist: Datalist) -> None:
    class Failing(RandFlipd):
        def __call__(self, data: Mapping[Any, Any], lazy: bool | None = None) -> dict[Any, Any]:
            raise ValueError("crop is larger than the image")

    transform = Compose([LoadImaged("image"), Failing("image", prob=1.0)])
    samples = dataset(datalist.records("training"), transform=transform)
    with pytest.raises(DataError, match=r"^training/01\.png: cannot be prepared: crop is larger than the image\. `med"):
        samples[1]


def test_our_own_error_keeps_its_place_and_advice() -> None:
    def refuse(data: dict[str, Any]) -> dict[str, Any]:
        raise DataError("is no image", where=data["image"], found="text", expected="PNG", advice="Convert it.")

    with pytest.raises(DataError, match=r"^x\.png: is no image \(found text, expected PNG\)\. Convert it\.$"):
        SeededCacheDataset([{"image": "x.png"}], Compose([Named(refuse)]), num_workers=1, progress=False)


def test_the_name_of_the_item_comes_through_a_worker_process(datalist: Datalist) -> None:
    (datalist.root / "training/02.png").unlink()
    samples = dataset(datalist.records("training"), cache_rate=0.0)
    with pytest.raises(DataError, match=r"training/02\.png: cannot be prepared"):
        list(DataLoader(samples, batch_sampler=SeededBatchSampler(4, 2), num_workers=1))


def test_samples_are_numbered_for_random_steps_of_the_batch(datalist: Datalist) -> None:
    """Each draw of an epoch has its own number, the same in every epoch and for any number of workers."""
    records = datalist.records("training")
    chain = Compose(
        [LoadImaged("image"), EnsureChannelFirstd("image"), ToUnitRanged("image"), Resized("image", (8, 8))]
    )
    numbered = dataset(records, transform=chain, index_key="index")
    assert [numbered[SampleKey(i, epoch)]["index"] for epoch in (0, 7) for i in (0, 3, -1)] == [0, 3, 3] * 2
    assert [numbered[SampleKey(2, 0, repeat)]["index"] for repeat in range(3)] == [2, 6, 10]
    assert "index" not in dataset(records, transform=chain)[0]
    for workers in (0, 1):
        sampler = SeededBatchSampler(len(records), 2, seed=0)
        loader = DataLoader(numbered, batch_sampler=sampler, num_workers=workers)
        batches = list(loader)
        assert sorted(int(i) for batch in batches for i in batch["index"]) == [0, 1, 2, 3]
    views = BatchedViews(mr_views(6), seed=1)
    made = {int(i): view for batch in batches for i, view in zip(batch["index"], views(batch, 2)["view1"])}
    alone = views({"image": numbered[3]["image"][None], "index": torch.tensor([3])}, 2)["view1"][0]
    torch.testing.assert_close(made[3], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("chain", "found"),
    [(Compose([]), "the key 'name' already"), (Compose([lambda item: [item, item]]), "found list")],
)
def test_samples_that_cannot_be_numbered(datalist: Datalist, chain: Compose, found: str) -> None:
    numbered = dataset([{**record, "name": "x"} for record in datalist.records("training")], transform=chain,
                       index_key="name")  # fmt: skip
    with pytest.raises(ConfigError, match=f"index_key: samples cannot be numbered .*{found}"):
        numbered[0]
