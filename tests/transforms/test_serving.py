"""Transforms of serving: the image as stored, calibrated scores, plain score vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from tiny_images import write_png

from medssl_monai.transforms import AsScoresd, DescribeInputd, ScaleLogitsd
from medssl_monai.transforms.serving import DESCRIPTION_FIELDS, DESCRIPTION_KEY, describe_image


def test_a_stored_image_is_described_before_anything_changes_it(tmp_path: Path) -> None:
    write_png(tmp_path / "x.png", 4, size=(14, 9))
    loading = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), DescribeInputd("image")])
    image = loading({"image": str(tmp_path / "x.png")})["image"]
    values = np.random.default_rng(4).integers(0, 256, (9, 14, 3), dtype=np.uint8).astype(np.float64)
    description = image.meta[DESCRIPTION_KEY]
    assert DESCRIPTION_FIELDS == ("channels", "width", "height", "mean", "std")
    assert description.dtype == torch.float64
    np.testing.assert_allclose(description.numpy(), [3, 14, 9, values.mean(), values.std()], rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float32])
def test_every_data_type_is_described_in_double_precision(dtype: torch.dtype) -> None:
    image = torch.tensor([[[0, 200], [100, 50]]], dtype=dtype)
    np.testing.assert_allclose(describe_image(image).numpy(), [1, 2, 2, 87.5, np.std([0, 200, 100, 50])], rtol=1e-12)


def test_values_that_are_not_finite_are_left_out() -> None:
    image = torch.tensor([[[1.0, float("nan")], [3.0, float("inf")]]])
    np.testing.assert_allclose(describe_image(image).numpy(), [1, 2, 2, 2.0, 1.0])
    nothing = describe_image(torch.full((1, 2, 3), float("nan")))
    assert nothing[:3].tolist() == [1, 2, 3]
    assert torch.isnan(nothing[3:]).all()


def test_a_volume_is_described_with_its_slices() -> None:
    """Wherever the slices lie: sizes are those that the network's preparation sees."""
    values = torch.arange(4 * 5 * 6.0).reshape(1, 4, 5, 6)
    expected = [4, 5, float(values.mean()), float(values.std(correction=0)), 6]
    assert describe_image(values)[1:].tolist() == pytest.approx(expected)
    sagittal = MetaTensor(values, affine=np.diag([3.0, 1.0, 1.0, 1.0]))
    assert describe_image(sagittal).tolist() == pytest.approx([1, 5, 6, *expected[2:4], 4])


def test_plain_arrays_become_images_with_metadata() -> None:
    data = {"image": np.ones((1, 4, 5), dtype=np.float32), "other": 1}
    out = DescribeInputd("image")(data)
    assert isinstance(out["image"], MetaTensor)
    assert out["image"].meta[DESCRIPTION_KEY].tolist() == [1, 4, 5, 1, 0]
    assert out["other"] == 1
    assert isinstance(data["image"], np.ndarray)
    assert DescribeInputd("image", allow_missing_keys=True)({"other": 1}) == {"other": 1}


def test_logits_are_divided_by_the_temperature() -> None:
    logits = torch.tensor([1.0, -2.0, 4.0])
    data = {"pred": logits}
    torch.testing.assert_close(ScaleLogitsd("pred", 4.0)(data)["pred"], torch.tensor([0.25, -0.5, 1.0]))
    torch.testing.assert_close(data["pred"], torch.tensor([1.0, -2.0, 4.0]))
    torch.testing.assert_close(ScaleLogitsd("pred")(data)["pred"], logits)
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=rf"temperature must be positive and finite, got {temperature}"):
            ScaleLogitsd("pred", temperature)


def test_scores_forget_the_image_s_grid() -> None:
    image = MetaTensor(torch.zeros(1, 4, 5), meta={"spatial_shape": (40, 50), "filename_or_obj": "x.png"})
    scores = MetaTensor(torch.tensor([0.25, 0.75], dtype=torch.float64, requires_grad=True), affine=2 * torch.eye(4))
    out = AsScoresd("pred")({"image": image, "pred": scores})
    assert isinstance(out["pred"], MetaTensor)
    assert (out["pred"].dtype, out["pred"].requires_grad) == (torch.float32, False)
    torch.testing.assert_close(out["pred"].as_tensor(), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(out["pred"].affine, torch.eye(4, dtype=torch.float64))
    assert "spatial_shape" not in out["image"].meta
    assert out["image"].meta["filename_or_obj"] == "x.png"
    assert AsScoresd("pred")({"pred": np.array([1.0, 0.0])})["pred"].tolist() == [1.0, 0.0]


def test_a_volume_is_refused_where_a_picture_is_wanted() -> None:
    volume = {"image": torch.zeros(1, 4, 5, 6)}
    assert DescribeInputd("image")(volume)["image"].shape == (1, 4, 5, 6)
    with pytest.raises(ValueError, match=r"image has 3 spatial dimensions, shape \(4, 5, 6\); this network takes 2"):
        DescribeInputd("image", spatial_dims=2)(volume)
