"""Episodes of labelled scans against loops over organs and slices."""

from __future__ import annotations

import pytest
import torch
from labelled_scans import ORGANS, RANGES, SIZE, SLICES, preparing, write_dataset

from medssl_monai.core import DataError
from medssl_monai.data import load_datalist
from medssl_monai.data.labelled_episodes import LabelledEpisodes, labelled_scan
from medssl_monai.data.sampling import SampleKey


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    datalist = load_datalist(write_dataset(tmp_path_factory.mktemp("scans")))
    prepare = preparing()
    return [prepare(record) for record in datalist.records("training")]


def test_one_episode_for_each_organ_and_slice(scans):
    episodes = LabelledEpisodes(scans, list(ORGANS))
    expected = []
    for scan in scans:
        for value in ORGANS:
            for place in range(SLICES):
                mask = scan["label"][0, ..., place] == value
                if mask.any():
                    expected.append((scan["image"][..., place], mask))
    assert len(episodes) == len(expected) == sum(last - first + 1 for of in RANGES for first, last in of)
    for number, (image, mask) in enumerate(expected):
        item = episodes[number]
        assert sorted(item) == ["image", "index", "mask"]
        assert item["index"] == number
        assert type(item["image"]) is type(item["mask"]) is torch.Tensor
        assert item["image"].shape == item["mask"].shape == (1, SIZE, SIZE)
        assert item["image"].dtype == item["mask"].dtype == torch.float32
        assert torch.equal(item["image"], torch.as_tensor(image).as_subclass(torch.Tensor))
        assert torch.equal(item["mask"][0].bool(), mask.as_subclass(torch.Tensor))


def test_numbers_are_those_of_the_other_datasets(scans):
    episodes = LabelledEpisodes(scans, list(ORGANS), index_key="number")
    again = episodes[SampleKey(4, epoch=3, repeat=2)]
    assert again["number"] == 4 + 2 * len(episodes)
    assert torch.equal(again["mask"], episodes[4]["mask"])
    assert episodes[-1]["number"] == len(episodes) - 1
    with pytest.raises(IndexError):
        episodes[len(episodes)]


def test_small_masks_are_left_out(scans):
    least = max(int((scans[0]["label"][..., place] == 3).sum()) for place in range(SLICES))
    episodes = LabelledEpisodes(scans[:1], [3], min_pixels=least)
    assert 0 < len(episodes) < len(LabelledEpisodes(scans[:1], [3]))
    assert all(episodes[number]["mask"].sum() == least for number in range(len(episodes)))
    with pytest.raises(DataError, match=rf"no labelled scan shows an organ on {least + 1} pixels of a slice \(found "
                                        r"nothing of value 3\).*a smaller min_pixels"):  # fmt: skip
        LabelledEpisodes(scans[:1], [3], min_pixels=least + 1)


def test_organs_are_numbered_in_their_order(scans):
    image, organs = labelled_scan(scans[0], [7, 3])
    assert image.shape == (1, SIZE, SIZE, SLICES)
    assert torch.equal(organs == 1, scans[0]["label"][0] == 7)
    assert torch.equal(organs == 2, scans[0]["label"][0] == 3)
    flat = labelled_scan({**scans[0], "label": scans[0]["label"][0]}, [3])[1]  # 7 is background then
    assert torch.equal(flat, (scans[0]["label"][0] == 3).long())


def test_errors(scans):
    with pytest.raises(DataError, match=r"scan0.nii.gz: the scan has no mask \(expected a label"):
        labelled_scan({**scans[0], "label": None}, [3])
    with pytest.raises(DataError, match=r"scan0.nii.gz: image and mask do not lie on one grid "
                                        r"\(found \(1, 48, 48, 16\), \(48, 48, 15\)"):  # fmt: skip
        labelled_scan({**scans[0], "label": scans[0]["label"][..., :15]}, [3])
    with pytest.raises(DataError, match="there is no labelled scan to take episodes from"):
        LabelledEpisodes([], [3])
    with pytest.raises(DataError, match=r"on 1 pixel of a slice \(found nothing of value 4, 5\)"):
        LabelledEpisodes(scans, [3, 4, 5])
    with pytest.raises(ValueError, match="min_pixels: expected an integer of at least 1, got 0"):
        LabelledEpisodes(scans, [3], min_pixels=0)
