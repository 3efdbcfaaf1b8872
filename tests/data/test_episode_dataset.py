"""Scans to episodes: the whole chain on small scans made on the fly, its store, its keys, its errors."""

from __future__ import annotations

import inspect
import logging
import os
import time

import nibabel
import numpy as np
import pytest
import torch
from skimage.segmentation import felzenszwalb

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import SampleKey, episode_dataset
from medssl_monai.data.episodes import organ_values, preparation, prepare_scan
from medssl_monai.transforms import EpisodeViews, body_mask

SETTINGS = {"image_size": 64, "field_of_view": 128.0, "slice_spacing": None, "progress": False}
ORGANS = {1: "liver", 2: "kidney", 5: "spleen"}


def write_scan(path, seed=0, slices=6, masked=None):
    """A body with blocks of several intensities in it; ``masked``: organ value to the slices that show it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64 - 0.5
    body = (x / 0.42) ** 2 + (y / 0.36) ** 2 < 1
    volume = np.zeros((64, 64, slices))
    for s in range(slices):
        volume[..., s] = 300 * body
        for _ in range(3):
            i, j = rng.integers(18, 36, 2)
            volume[i : i + 10, j : j + 10, s] = rng.integers(400, 1000)
    volume = (volume + rng.normal(0, 6, volume.shape)).clip(0)
    affine = np.diag([2.0, 2, 6, 1])
    nibabel.save(nibabel.Nifti1Image(volume.round().astype(np.int16), affine), path)
    if masked is not None:
        mask = np.zeros(volume.shape, np.uint8)
        for value, shown in masked.items():
            mask[20:24, 20:24, shown] = value
        nibabel.save(nibabel.Nifti1Image(mask, affine), path.with_name(path.name.replace("scan", "mask")))
    return str(path)


@pytest.fixture
def records(tmp_path):
    found = []
    for n, masked in enumerate(({1: [0, 1], 5: [3]}, {2: [2]}, None)):
        record = {
            "image": write_scan(tmp_path / f"scan{n}.nii.gz", n, masked=masked),
            "name": f"scan{n}",
            "subject": "s",
        }
        if masked is not None:
            record["label"] = str(tmp_path / f"mask{n}.nii.gz")
        found.append(record)
    return found


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*.volume")}


def test_samples_are_slices_with_a_superpixel(records, tmp_path):
    dataset = episode_dataset(records, tmp_path / "cache", seed=4, **SETTINGS)
    assert len(dataset) == 3
    assert "label" not in dataset.data[0]
    for index, record in enumerate(records):
        stored = nibabel.load(record["image"]).get_fdata()
        low, high = stored.min(), np.percentile(stored, 99.5)
        scaled = ((stored - low) / (high - low)).clip(0, 1).astype(np.float32)
        for epoch in range(4):
            sample = dataset[SampleKey(index, epoch)]
            assert set(sample) == {"image", "mask", "index"}
            assert sample["index"] == index
            image, mask = sample["image"], sample["mask"]
            assert image.dtype == mask.dtype == torch.float32
            assert image.shape == mask.shape == (1, 64, 64)
            error = np.abs(np.moveaxis(scaled, -1, 0) - image.numpy()).max(axis=(1, 2))
            position = int(error.argmin())
            assert error[position] < 2**-11
            # one of the regions that scikit-image finds there, within the body
            regions = felzenszwalb(scaled[..., position].astype(float), scale=0.001, sigma=1, min_size=25) + 1
            inside = np.where(body_mask(scaled[..., position], 0.05), regions, 0)
            number = np.unique(inside[mask[0].numpy() == 1])
            assert len(number) == 1
            np.testing.assert_array_equal(mask[0], inside == number[0])
            assert mask.sum() >= 6  # 100 of 256 x 256


def test_samples_depend_on_seed_epoch_and_number_alone(records, tmp_path):
    first = episode_dataset(records, tmp_path / "cache", seed=4, **SETTINGS)
    second = episode_dataset(records, tmp_path / "cache", seed=4, **SETTINGS)
    keys = [SampleKey(index, epoch, repeat) for index in range(3) for epoch in range(3) for repeat in range(2)]
    samples = [first[key] for key in keys]
    for key, sample in reversed(list(zip(keys, samples))):
        again = second[key]
        assert all(torch.equal(again[name], sample[name]) for name in ("image", "mask"))
    assert len({sample["mask"].numpy().tobytes() for sample in samples}) > 12
    other = episode_dataset(records, tmp_path / "cache", seed=5, **SETTINGS)
    assert any(not torch.equal(other[key]["mask"], sample["mask"]) for key, sample in zip(keys, samples))
    # and go to the views as they are
    batch = [first[SampleKey(i, 0)] for i in range(3)]
    images, masks = (torch.stack([sample[name] for sample in batch]) for name in ("image", "mask"))
    query, query_mask = EpisodeViews(4)(images, masks, torch.tensor([sample["index"] for sample in batch]), 0)
    assert query.shape == query_mask.shape == (3, 1, 64, 64)
    assert (query_mask.sum((1, 2, 3)) > 0).all()


def test_the_store_is_found_again_by_what_changes_it(records, tmp_path, monkeypatch, caplog):
    cache = tmp_path / "cache"
    unlabelled = [{"image": record["image"], "name": record["name"]} for record in records]
    episode_dataset(records, cache, **SETTINGS)
    once = files(cache)
    assert len(once) == 3
    # what is drawn, in which order, from where and with which mask changes nothing of it
    monkeypatch.chdir(tmp_path)
    relative = [{**record, "image": os.path.relpath(record["image"])} for record in reversed(unlabelled)]
    with caplog.at_level(logging.INFO):
        episode_dataset(relative, "cache", seed=9, min_pixels=40, index_key=None, **SETTINGS)
    assert "prepared 0 of 3 items" in caplog.text
    assert files(cache) == once
    for change in (
        {"settings": {"min_size": 30}},
        {"body_threshold": 0.1},
        {"clip_percentile": 99.0},
        {"method": "slic", "settings": {"n_segments": 20}},
        {"exclude": [2]},
        {"image_size": 48},
        {"modality": "ct"},
    ):
        before = len(files(cache))
        episode_dataset(records, cache, **{**SETTINGS, **change})
        assert len(files(cache)) == before + 3, change
    before = files(cache)  # what is the default anyway makes nothing anew
    episode_dataset(records, cache, **SETTINGS, settings={"scale": 0.001, "min_size": 25}, body_threshold=0.05)
    assert files(cache) == before


def test_slices_of_organs_to_be_tested_are_left_out(records, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = episode_dataset(
            records, tmp_path / "cache", exclude=["liver", 5], organs=ORGANS, **SETTINGS, min_pixels=1
        )
    assert "1 of 3 scans have no mask to exclude slices by: they are kept whole" in caplog.text
    for index, left in enumerate(([2, 4, 5], range(6), range(6))):
        stored = np.moveaxis(nibabel.load(records[index]["image"]).get_fdata(), -1, 0)
        scaled = ((stored - stored.min()) / (np.percentile(stored, 99.5) - stored.min())).clip(0, 1)
        drawn = set()
        for epoch in range(60):
            image = dataset[SampleKey(index, epoch)]["image"].numpy()
            drawn.add(int(np.abs(scaled - image).max(axis=(1, 2)).argmin()))
        assert drawn == set(left)


def test_a_prepared_scan_is_described(records, tmp_path):
    settings = {**SETTINGS, "data": records[:1], "cache_dir": tmp_path / "cache", "exclude": [1]}
    found = prepare_scan(settings)
    assert found.path.is_file()
    assert found.size == found.path.stat().st_size
    assert found.slices == 4
    dataset = episode_dataset(**settings)
    item = dataset._mapped(0).item
    assert found.superpixels == sum(len(np.unique(labels)) - 1 for labels in item["superpixels"].numpy())
    # 2 bytes of each kind a pixel
    assert 0 <= found.size - 4 * 64 * 64 * 4 < 5000
    stamp = found.path.stat().st_mtime_ns
    assert prepare_scan(settings) == found
    assert found.path.stat().st_mtime_ns == stamp


def test_stage_and_preparation_take_the_same_settings():
    """Every setting of the deterministic part reaches it: same names, same defaults."""
    outer, inner = (inspect.signature(function).parameters for function in (episode_dataset, preparation))
    assert all(outer[name].default == inner[name].default for name in inner)


def test_organs_by_name_and_value():
    assert organ_values(["spleen", "liver", 1], ORGANS) == (1, 5)
    assert organ_values([3, 2]) == (2, 3)
    assert organ_values([], ORGANS) == ()
    with pytest.raises(ConfigError, match=r"exclude: .*no such organ \(found livr\)\. Did you mean 'liver'\?"):
        organ_values(["livr"], ORGANS)
    with pytest.raises(ConfigError, match=r"no such organ \(found 3\)"):
        organ_values([3], ORGANS)
    with pytest.raises(ConfigError, match=r"no such organ \(found liver\)\. Name organs as `labels`"):
        organ_values(["liver"])
    with pytest.raises(ConfigError, match=r"organs must be given as a list \(found liver, expected \[liver\]\)"):
        organ_values("liver", ORGANS)
    with pytest.raises(ConfigError, match="no such organ"):
        organ_values([True])


def test_errors(records, tmp_path):
    cache = tmp_path / "cache"
    for arguments, message in (
        ({"modality": "pet"}, "episode_dataset: scan_transforms: modality must be one of mr, ct; got 'pet'"),
        ({"settings": {"minsize": 4}}, "felzenszwalb has no setting 'minsize'"),
        ({"min_pixels": 0}, "DrawEpisode: min_pixels must be a positive integer, got 0"),
        ({"field_of_view": 0}, "field_of_view must be a positive number of mm, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            episode_dataset(records, cache, **{**SETTINGS, **arguments})
    with pytest.raises(DataError, match="there is no image in this split"):
        episode_dataset([], cache, **SETTINGS)
    with pytest.raises(DataError, match=r"knee: episodes are drawn from single scans.*\(found sagittal, axial\)"):
        episode_dataset([{"image": {"sagittal": "a", "axial": "b"}, "name": "knee"}], cache, **SETTINGS)
    with pytest.raises(DataError, match=r"scan0: cannot be prepared: no slice has a superpixel in .*scan0\.nii\.gz"):
        episode_dataset(records[:1], cache, body_threshold=1.0, **SETTINGS)
    write_scan(tmp_path / "scan0.nii.gz", masked={7: [0, 1, 2, 4, 5], 5: [3]})
    with pytest.raises(DataError, match=r"scan0: cannot be prepared: every slice shows one of the organs 1, 5, 7"):
        episode_dataset(records[:1], cache, exclude=[1, 5, 7], **SETTINGS)
    with pytest.raises(DataError, match=r"scan2: .*no slice has a superpixel of 4000 pixels or more"):
        episode_dataset(records[2:], cache, min_pixels=4000, **SETTINGS)[0]


@pytest.mark.real
def test_an_item_is_read_in_a_millisecond(real_data, tmp_path):
    record = {"image": str(real_data / "chaos_t2spir" / "image_21.nii.gz"), "name": "21"}
    dataset = episode_dataset([record], tmp_path, progress=False)
    slices = dataset._mapped(0).item["image"].shape[0]
    assert 25 <= slices <= 50
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.volume"))
    assert size < slices * 256 * 256 * 4 + 5000
    seconds = []
    for epoch in range(60):
        start = time.process_time()
        dataset[SampleKey(0, epoch)]
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 1e-3
