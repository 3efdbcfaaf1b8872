"""Slices left out, kept and drawn, against counts made by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose

from medssl_monai.core import seed_transform
from medssl_monai.data.seeding import TransformSeeder
from medssl_monai.transforms import DrawEpisode, DrawEpisoded, DropSlicesd, EpisodeSlicesd


def superpixels():
    """Five slices (5, 8, 8): pieces of 16, 8 and 4 pixels; one of 4; none; two of 32; three of 10."""
    labels = np.zeros((5, 8, 8), np.int16)
    labels[0, :2], labels[0, 2, :], labels[0, 3, :4] = 1, 2, 3
    labels[1, 7, :4] = 1
    labels[3, :4], labels[3, 4:] = 1, 2
    labels[4].flat[:10], labels[4].flat[10:20], labels[4].flat[20:30] = 3, 1, 2
    return labels


def scan():
    return np.random.default_rng(0).random((5, 8, 8)).astype(np.float32)


def test_a_draw_is_a_slice_and_one_of_its_superpixels():
    image, labels = scan(), superpixels()
    draw = DrawEpisode(min_pixels=4)
    draw.set_random_state(3)
    for _ in range(50):
        slice_, mask = draw(image, labels)
        assert slice_.shape == mask.shape == (1, 8, 8)
        assert slice_.dtype == mask.dtype == np.float32
        position = next(s for s in range(5) if np.array_equal(slice_[0], image[s]))
        number = set(labels[position][mask[0] == 1])
        assert len(number) == 1
        np.testing.assert_array_equal(mask[0], labels[position] == number.pop())
        assert mask.sum() >= 4
    again, same = draw(image, labels, randomize=False)
    np.testing.assert_array_equal(again, slice_)
    np.testing.assert_array_equal(same, mask)
    again[...] = -1
    assert image.min() >= 0  # a copy


@pytest.mark.parametrize(
    ("min_pixels", "chances"),
    [
        (1, {(0, 1): 1 / 12, (0, 2): 1 / 12, (0, 3): 1 / 12, (1, 1): 1 / 4, (3, 1): 1 / 8, (3, 2): 1 / 8,
             (4, 1): 1 / 12, (4, 2): 1 / 12, (4, 3): 1 / 12}),
        (9, {(0, 1): 1 / 3, (3, 1): 1 / 6, (3, 2): 1 / 6, (4, 1): 1 / 9, (4, 2): 1 / 9, (4, 3): 1 / 9}),
        (17, {(3, 1): 1 / 2, (3, 2): 1 / 2}),
    ],
)  # fmt: skip
def test_slices_are_as_likely_and_so_are_their_superpixels(min_pixels, chances):
    draw, labels, trials = DrawEpisode(min_pixels), superpixels(), 6000
    draw.set_random_state(1)
    found: Counter = Counter()
    for _ in range(trials):
        draw.randomize(labels)
        found[draw.position, draw.superpixel] += 1
    assert set(found) == set(chances)
    for drawn, chance in chances.items():
        assert abs(found[drawn] / trials - chance) < 4 * np.sqrt(chance * (1 - chance) / trials)


def test_dictionary_form_takes_the_same_slice_of_all_keys():
    image, labels = torch.from_numpy(scan()), torch.from_numpy(superpixels())
    data = {"image": image.half(), "other": image * 2, "superpixels": labels, "name": "a"}
    transform = DrawEpisoded(["image", "other"], min_pixels=4)
    seed_transform(transform, 5)
    found = transform(data)
    assert set(found) == {"image", "other", "mask", "name"}
    assert all(found[key].dtype == torch.float32 for key in ("image", "other", "mask"))
    assert all(found[key].shape == (1, 8, 8) for key in ("image", "other", "mask"))
    torch.testing.assert_close(found["other"], 2 * found["image"], atol=1e-3, rtol=1e-3)
    assert set(data) == {"image", "other", "superpixels", "name"}
    seed_transform(transform, 5)
    assert torch.equal(transform(data)["mask"], found["mask"])
    drawn = set()
    for part in range(40):
        seed_transform(transform, 5, part)
        drawn.add(transform(data)["mask"].numpy().tobytes())
    assert len(drawn) >= 7
    # seeded in place as by set_random_state
    chain = Compose([transform])
    TransformSeeder(chain)("a", 1)
    first = chain(data)
    seed_transform(chain, "a", 1)
    assert torch.equal(chain(data)["mask"], first["mask"])


def test_errors_of_draws():
    with pytest.raises(ValueError, match="DrawEpisode: min_pixels must be a positive integer, got 0"):
        DrawEpisode(0)
    with pytest.raises(ValueError, match="min_pixels must be a positive integer, got True"):
        DrawEpisoded("image", min_pixels=True)
    with pytest.raises(
        ValueError, match="no slice has a superpixel of 33 pixels or more, the largest has 32; lower min"
    ):
        DrawEpisode(33)(scan(), superpixels())
    named = MetaTensor(torch.from_numpy(scan()), meta={"filename_or_obj": "scan.nii"})
    with pytest.raises(ValueError, match=r"of 1 pixels or more, the largest has 0;.* in scan\.nii"):
        DrawEpisode(1)(named, torch.zeros(5, 8, 8, dtype=torch.int16))
    with pytest.raises(
        ValueError, match=r"integer superpixels of its shape, got \(5, 8, 8\) and torch.int16 of \(4, 8"
    ):
        DrawEpisode()(scan(), superpixels()[:4])
    with pytest.raises(ValueError, match=r"got \(5, 8, 8\) and torch.float32 of \(5, 8, 8\)"):
        DrawEpisode()(scan(), superpixels().astype(np.float32))


def test_kept_slices_come_first_and_compact():
    image, labels = scan(), superpixels().astype(np.int32)
    as_read = {"image": np.moveaxis(image, 0, -1)[None], "superpixels": np.moveaxis(labels, 0, -1)[None], "name": "a"}
    affine = torch.diag(torch.tensor([1.0, 2, 3, 1]))
    tensors = {
        key: MetaTensor(torch.from_numpy(v.copy()), affine=affine) for key, v in as_read.items() if key != "name"
    }
    for data in (as_read, tensors):
        found = EpisodeSlicesd("image")(data)
        assert type(found["image"]) is type(found["superpixels"]) is torch.Tensor
        assert found["image"].dtype == torch.float16
        assert found["superpixels"].dtype == torch.int16
        assert found["image"].is_contiguous()
        assert found["superpixels"].is_contiguous()
        np.testing.assert_allclose(found["image"], image[[0, 1, 3, 4]], atol=2**-12)
        np.testing.assert_array_equal(found["superpixels"], labels[[0, 1, 3, 4]])
    as_read["superpixels"] = as_read["superpixels"].copy()
    as_read["superpixels"][0, 0, 0, 0] = 40000
    assert EpisodeSlicesd("image")(as_read)["superpixels"].dtype == torch.int32


def test_errors_of_kept_slices():
    empty = MetaTensor(torch.zeros(1, 8, 8, 5, dtype=torch.int32), meta={"filename_or_obj": "scan.nii"})
    with pytest.raises(
        ValueError, match=r"no slice has a superpixel in scan\.nii: nothing is brighter than the thresh"
    ):
        EpisodeSlicesd("image")({"image": torch.zeros(1, 8, 8, 5), "superpixels": empty})
    with pytest.raises(
        ValueError, match=r"'image' has slices first the shape \(4, 8, 8\), its superpixels have \(5, 8"
    ):
        EpisodeSlicesd("image")({"image": torch.zeros(1, 8, 8, 4), "superpixels": empty + 1})
    with pytest.raises(ValueError, match=r"EpisodeSlicesd needs \(1, H, W, S\), got shape \(2, 8, 8, 4\)"):
        EpisodeSlicesd("image")({"image": torch.zeros(2, 8, 8, 4), "superpixels": empty + 1})


def masked(kind):
    """Slices 0 to 5; organ 1 in slices 1 and 2, organ 4 in 4, organ 2 in 2 and 5."""
    mask = np.zeros((1, 4, 3, 6), kind)
    mask[0, 1, 1, [1, 2]], mask[0, 2, 2, 4], mask[0, 0, 0, [2, 5]] = 1, 4, 2
    image = np.arange(4 * 3 * 6, dtype=np.float32).reshape(1, 4, 3, 6)
    return image, mask


@pytest.mark.parametrize(
    ("values", "left"), [([1], [0, 3, 4, 5]), ([1, 4], [0, 3, 5]), ((2,), [0, 1, 3, 4]), ([3], range(6))]
)
@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_slices_that_show_an_organ_are_left_out(values, left, kind):
    image, mask = masked(kind)
    drop = DropSlicesd(["image", "twice"], "label", values)
    found = drop({"image": image, "twice": np.repeat(image, 2, axis=0), "label": mask, "name": "a"})
    assert set(found) == {"image", "twice", "name"}
    np.testing.assert_array_equal(found["image"], image[..., list(left)])
    np.testing.assert_array_equal(found["twice"][1:], image[..., list(left)])
    tensor = DropSlicesd("image", "label", values)({"image": MetaTensor(torch.from_numpy(image)), "label": mask})[
        "image"
    ]
    assert type(tensor) is torch.Tensor  # no affine fits slices with gaps
    np.testing.assert_array_equal(tensor, found["image"])


def test_without_a_mask_nothing_is_left_out():
    image, _ = masked(np.uint8)
    assert DropSlicesd("image", "label", [1])({"image": image})["image"] is image


def test_errors_of_dropping():
    image, mask = masked(np.uint8)
    for values in ([], [0], [1.5], "1", [True]):
        with pytest.raises(ValueError, match="values must be positive integers of the mask"):
            DropSlicesd("image", "label", values)
    everywhere = MetaTensor(torch.ones(1, 4, 3, 6), meta={"filename_or_obj": "mask.nii"})
    with pytest.raises(
        ValueError, match=r"every slice shows one of the organs 1, 2 in mask\.nii, so that none is left"
    ):
        DropSlicesd("image", "label", [1, 2])({"image": image, "label": everywhere})
    with pytest.raises(ValueError, match=r"'image' has shape \(1, 4, 3, 5\), expected the grid \(4, 3, 6\) of 'label'"):
        DropSlicesd("image", "label", [1])({"image": image[..., :5], "label": mask})
    with pytest.raises(ValueError, match=r"DropSlicesd needs an image of shape \(C, H, W, S\), got shape \(4, 3, 6\)"):
        DropSlicesd("image", "label", [1])({"image": image, "label": mask[0]})
