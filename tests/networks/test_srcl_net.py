"""SRCLNet: its parts, its export with every backbone, and its errors."""

import io
import warnings

import pytest
import torch
from monai.networks import convert_to_torchscript
from torch import nn

from medssl_monai.core import ConfigError
from medssl_monai.networks import Backbone, SRCLNet

NAMES = ["densenet121", "efficientnet_lite0", "resnet18", "resnet50"]


def small(name="resnet18", **kwargs):
    torch.manual_seed(0)
    return SRCLNet(name, width=0.125, **kwargs)


def images(count=2, channels=3):
    return torch.rand(count, channels, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_default_is_the_papers_net():
    net = SRCLNet()
    assert net.encoder.name == "densenet121"
    assert isinstance(net.encoder, Backbone)
    kinds = [type(layer) for layer in net.projector]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert [layer.weight.shape for layer in net.projector[::2]] == [(100, 1024), (50, 100), (25, 50)]
    assert net.classifier.weight.shape == (7, 1024)
    assert net.dropout.p == 0.2


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_classifier_on_the_pooled_feature(name):
    net, x = small(name, in_channels=1, num_classes=4).eval(), images(channels=1)
    features = net.features(x)
    torch.testing.assert_close(features, net.encoder(x))
    assert net(x).shape == (2, 4)
    torch.testing.assert_close(net(x), features @ net.classifier.weight.T + net.classifier.bias)


def test_projection_is_three_layers_with_relu_between():
    net = small().eval()
    value = features = net.features(images())
    for number in (0, 2, 4):
        layer = net.projector[number]
        value = value @ layer.weight.T + layer.bias
        value = value.clamp(min=0) if number < 4 else value
    assert value.shape == (2, 25)
    torch.testing.assert_close(net.project(features), value)


def test_dropout_acts_on_the_pooled_feature_in_training_only():
    net, x = small(dropout=0.5), images(8)
    net.encoder.eval()  # batch statistics aside
    pooled = net.encoder(x)
    dropped = net.features(x)
    kept = dropped != 0
    assert 0.3 < kept[pooled > 0].float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * pooled[kept])
    net.eval()
    assert torch.equal(net.features(x), net.features(x))


@pytest.mark.parametrize("name", NAMES)
def test_scripting_keeps_every_part(name):
    net, x, stream = small(name).eval(), images(), io.BytesIO()
    torch.jit.save(torch.jit.script(net), stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    torch.testing.assert_close(loaded(x), net(x))
    features = loaded.features(x)
    torch.testing.assert_close(features, net.features(x))
    torch.testing.assert_close(loaded.project(features), net.project(features))
    torch.testing.assert_close(loaded.classify(features), net.classify(features))


@pytest.mark.parametrize("name", NAMES)
def test_tracing_holds_for_other_sizes_of_batch_and_image(name):
    net = small(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(net, images())
    other = torch.rand(3, 3, 96, 128)
    torch.testing.assert_close(traced(other), net(other))


def test_monais_export_verifies_it():
    convert_to_torchscript(small().eval(), inputs=[images()], verify=True)


def test_the_scripted_net_still_says_what_it_expects():
    scripted = torch.jit.script(small().eval())
    with pytest.raises(torch.jit.Error, match=r"expected shape \(N, 3, H, W\) for in_channels=3, got \[2, 1, 64, 64\]"):
        scripted(images(channels=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"num_classes: expected at least 1, got 0"),
        ({"projection": ()}, r"projection: expected the widths of one or more layers, got \(\)"),
        ({"projection": (100, 0)}, r"projection: expected the widths of one or more layers, got \(100, 0\)"),
        ({"dropout": 1.0}, r"dropout: expected a probability in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"dropout: expected a probability in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_wrong_images_and_backbones_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(N, 3, H, W\) for in_channels=3, got \[2, 4, 64, 64\]"):
        small()(images(channels=4))
    with pytest.raises(ConfigError, match=r"unknown backbone 'densenet12'. Did you mean 'densenet121'\?"):
        small("densenet12")
