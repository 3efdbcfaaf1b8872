"""Images of any data type in [0, 1]; channel counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import Image

from medssl_monai.transforms import MatchChannels, MatchChannelsd, ToUnitRange, ToUnitRanged


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[[0, 51, 255]]], np.uint8), [0.0, 0.2, 1.0]),
        (np.array([[[False, True, True]]]), [0.0, 1.0, 1.0]),
        (np.array([[[0.25, 0.5, 1.0]]], np.float16), [0.25, 0.5, 1.0]),
        (np.array([[[0.3, 0.3, 0.3]]], np.float64), [0.3, 0.3, 0.3]),
        (np.array([[[1000, 2000, 5000]]], np.uint16), [0.0, 0.25, 1.0]),
        (np.array([[[1000, 2000, 5000]]], ">u2"), [0.0, 0.25, 1.0]),
        (np.array([[[-1000, 0, 3000]]], np.int16), [0.0, 0.25, 1.0]),
        (np.array([[[-(2**31), 0, 2**31 - 1]]], np.int32), [0.0, 0.5, 1.0]),
        (np.array([[[0, 1, 1]]], np.int64), [0.0, 1.0, 1.0]),
        (np.array([[[0, 1, 4]]], np.uint32), [0.0, 0.25, 1.0]),
        (np.array([[[-0.5, 0.0, 0.5]]], np.float32), [0.0, 0.5, 1.0]),
        (np.array([[[0.0, 1.0, 2.0]]], np.float32), [0.0, 0.5, 1.0]),
        (np.array([[[-3e38, 0.0, 3e38]]], np.float32), [0.0, 0.5, 1.0]),
        (np.array([[[700, 700, 700]]], np.uint16), [0.0, 0.0, 0.0]),
        (np.array([[[-7.0, -7.0, -7.0]]], np.float32), [0.0, 0.0, 0.0]),
    ],
)
def test_to_unit_range_by_data_type(image, expected):
    before = image.copy()
    result = ToUnitRange()(image)
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0, 0], expected, atol=1e-6)
    np.testing.assert_array_equal(image, before)


DTYPES = [np.uint8, np.int16, np.uint16, np.int32, np.float32]


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(st.sampled_from(DTYPES), st.sampled_from([(1, 3, 4), (3, 2, 2, 2)])))
def test_result_is_always_in_range_and_keeps_the_order(image):
    assume(np.isfinite(image).all())
    result = ToUnitRange()(image)
    assert result.dtype == np.float32
    assert 0.0 <= result.min() <= result.max() <= 1.0
    order = np.argsort(image, axis=None, kind="stable")
    assert (np.diff(result.ravel()[order]) >= 0).all()


def test_containers_and_meta_are_kept():
    plain = ToUnitRange()(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert type(plain) is torch.Tensor
    source = MetaTensor(torch.tensor([[[0, 255]]], dtype=torch.uint8), meta={"filename_or_obj": "x.png"})
    result = ToUnitRange()(source)
    assert isinstance(result, MetaTensor)
    assert result.meta["filename_or_obj"] == "x.png"
    assert result.dtype == torch.float32
    result.meta["filename_or_obj"] = "y.png"
    assert source.meta["filename_or_obj"] == "x.png"
    assert torch.equal(result.affine, source.affine)


def test_to_unit_range_errors():
    broken = MetaTensor(torch.tensor([[[0.0, float("nan")]]]), meta={"filename_or_obj": "bad.tif"})
    with pytest.raises(ValueError, match=r"image in bad.tif holds NaN or infinite values; mend or remove the file"):
        ToUnitRange()(broken)
    with pytest.raises(ValueError, match="NaN or infinite"):
        ToUnitRange()(np.array([[[0.0, np.inf]]]))
    with pytest.raises(ValueError, match=r"empty image of shape \(1, 0, 4\)"):
        ToUnitRange()(np.zeros((1, 0, 4)))
    with pytest.raises(ValueError, match=r"at least one spatial axis, got shape \(4,\)"):
        ToUnitRange()(np.zeros(4))
    with pytest.raises(ValueError, match="got list"):
        ToUnitRange()([1, 2])
    with pytest.raises(ValueError, match="dtype complex128"):
        ToUnitRange()(np.zeros((1, 2, 2), complex))


def test_dictionary_forms():
    data = {"image": np.full((1, 2, 2), 255, np.uint8), "label": 3}
    result = MatchChannelsd("image", in_channels=3)(ToUnitRanged(["image"])(data))
    assert result["label"] == 3
    np.testing.assert_array_equal(result["image"], np.ones((3, 2, 2), np.float32))
    assert data["image"].dtype == np.uint8
    for transform in (ToUnitRanged("other", allow_missing_keys=True), MatchChannelsd("other", 3, True)):
        assert transform(data) == data
    for transform in (ToUnitRanged("other"), MatchChannelsd("other", 3)):
        with pytest.raises(KeyError, match="other"):
            transform(data)


def test_match_channels():
    image = torch.rand(1, 2, 3)
    repeated = MatchChannels(4)(image)
    assert repeated.shape == (4, 2, 3)
    assert all(torch.equal(channel, image[0]) for channel in repeated)
    repeated[0] = 0  # channels do not share memory
    assert repeated[1].sum() > 0
    colour = MetaTensor(torch.rand(3, 2, 3))
    assert MatchChannels(3)(colour) is colour
    assert MatchChannels(3)(np.zeros((1, 2, 2), np.uint8)).dtype == np.uint8


def test_match_channels_errors():
    image = MetaTensor(torch.rand(4, 2, 3), meta={"filename_or_obj": "scan.png"})
    with pytest.raises(ValueError, match=r"image in scan.png has 4 channels, expected 3 \(or 1.*set in_channels=4"):
        MatchChannels(3)(image)
    with pytest.raises(ValueError, match=r"the image has 3 channels, expected 1 .*set in_channels=3"):
        MatchChannels(1)(np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        MatchChannels(0)


@pytest.mark.filterwarnings("error")
def test_read_only_and_reversed_arrays():
    image = np.array([[[0, 51, 255]]], np.uint8)[..., ::-1]
    image.flags.writeable = False
    np.testing.assert_allclose(ToUnitRange()(image)[0, 0], [1.0, 0.2, 0.0])


@pytest.mark.real
def test_real_dermoscopy_bytes(real_data):
    path = next((real_data / "ham10000" / "images").glob("*.jpg"))
    image = LoadImage(image_only=True, dtype=None, ensure_channel_first=True)(path)
    result = MatchChannels(3)(ToUnitRange()(image))
    expected = np.asarray(Image.open(path), np.float64).transpose(2, 1, 0) / 255  # MONAI's reader puts width first
    np.testing.assert_allclose(result.as_tensor().numpy(), expected, atol=1e-6)
    assert result.meta["filename_or_obj"] == str(path)
