"""Dilated ResNets: the strided net's values at every second place, the published keys, and the errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medssl_monai.core import ConfigError
from medssl_monai.networks import DenseEncoder, build_backbone, initialize_encoder, load_backbone_weights


def small(name="resnet50", seed=0, **kwargs):
    """A backbone whose normalisation has statistics of its own, so that it does something in evaluation mode."""
    torch.manual_seed(seed)
    net = build_backbone(name, width=0.0625, **kwargs)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net.double().eval()


def published(path, source, prefix="", **others):
    """A file with the keys of a net under a prefix, and others beside."""
    torch.save({f"{prefix}{key}": value for key, value in source.body.state_dict().items()} | others, path)
    return path


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("output_stride", "finer"), [(8, 4), (16, 2)])
def test_equals_the_strided_net_where_that_has_values(name, output_stride, finer):
    strided, dense = small(name), small(name, output_stride=output_stride)
    assert dense.num_features == strided.num_features
    dense.load_state_dict(strided.state_dict())
    x = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = strided.feature_map(x), dense.feature_map(x)
    assert fine.shape[2:] == (96 // output_stride, 64 // output_stride)
    torch.testing.assert_close(fine[:, :, ::finer, ::finer], coarse, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_three_stages_are_the_first_three(tmp_path, name):
    whole, short = small(name), small(name, output_stride=16, stages=3)
    report = load_backbone_weights(short, published(tmp_path / "whole.pth", whole))
    assert all(key.startswith("layer4.") for key in report.skipped)
    x = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    expected = nn.Sequential(*list(whole.body)[:-1])((x - whole.mean) / whole.std)
    torch.testing.assert_close(short.feature_map(x), expected)
    assert short.num_features == whole.num_features // 2
    assert small(name, output_stride=8, stages=3).feature_map(x).shape[2:] == (8, 8)


def test_weights_of_deeplab_load_whole(tmp_path):
    """COCO's checkpoint: the encoder under ``backbone.``, with two heads."""
    heads = {"classifier.4.weight": torch.zeros(21, 256, 1, 1), "aux_classifier.0.weight": torch.zeros(256, 1024, 3, 3)}
    source, target = small(seed=1), small(seed=2, output_stride=8)
    report = load_backbone_weights(target, published(tmp_path / "coco.pth", source, "backbone.", **heads))
    assert report.complete
    assert set(report.skipped) == set(heads)
    for key, value in source.body.state_dict().items():
        torch.testing.assert_close(target.body.state_dict()[key], value)


class TestDenseEncoder:
    def test_grid_and_channels_are_the_thesis_s(self):
        net = DenseEncoder("resnet101", width=0.0625).eval()
        assert net(torch.rand(1, 3, 256, 256)).shape == (1, 256, 32, 32)
        assert net.reduce.bias is None

    @pytest.mark.parametrize(("backbone", "stages"), [("resnet18", 4), ("resnet50", 3), ("resnet18", 3)])
    def test_one_channel_and_light_variants(self, backbone, stages):
        net = DenseEncoder(backbone, in_channels=1, width=0.125, num_features=16, stages=stages).eval()
        x = torch.rand(2, 1, 64, 48)
        assert net(x).shape == (2, 16, 8, 6)
        torch.testing.assert_close(torch.jit.script(net)(x), net(x))
        net(x).sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())

    def test_grey_images_are_copied_to_three_channels(self):
        torch.manual_seed(0)
        net = DenseEncoder("resnet18", 3, width=0.125, num_features=8, stages=3).double().eval()
        x = torch.rand(2, 1, 32, 32, dtype=torch.float64)
        torch.testing.assert_close(net(x), net(torch.cat([x, x, x], dim=1)))
        torch.testing.assert_close(torch.jit.script(net)(x), net(x))
        with pytest.raises(ValueError, match=r"expected shape \(N, 3, H, W\) for in_channels=3"):
            net(torch.cat([x, x], dim=1))

    def test_starts_from_a_file(self, tmp_path):
        source = small("resnet18").float()
        path = published(tmp_path / "imagenet.pth", source)
        net = initialize_encoder(DenseEncoder("resnet18", width=0.0625), backbone_weights=path)
        torch.testing.assert_close(net.encoder.body.conv1.weight, source.body.conv1.weight)

    def test_errors(self):
        with pytest.raises(ConfigError, match="densenet121 with the stem imagenet has one output stride"):
            DenseEncoder("densenet121")
        with pytest.raises(ConfigError, match=r"no such feature map .*found 8, 2, expected 32, 16 or 8 with 4 stages"):
            DenseEncoder("resnet18", stages=2)
        with pytest.raises(ConfigError, match="resnet18 with the stem cifar has one output stride"):
            build_backbone("resnet18", stem="cifar", output_stride=8)
        with pytest.raises(ConfigError, match="no such feature map"):
            build_backbone("resnet18", stages=3)
        for value in (1, True, 2.5):
            with pytest.raises(ValueError, match=f"num_features: expected an integer of at least 2, got {value}"):
                DenseEncoder("resnet18", num_features=value)
        with pytest.raises(ValueError, match=r"images: expected shape \(N, 1, H, W\)"):
            DenseEncoder("resnet18", in_channels=1, width=0.0625)(torch.rand(1, 3, 32, 32))
