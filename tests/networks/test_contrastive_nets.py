"""ContrastiveNet and ImageClassifier: their parts, their export, how they begin, and their errors."""

import io

import pytest
import torch
from torch import nn

from medssl_monai.core import ConfigError
from medssl_monai.networks import (
    Backbone,
    ContrastiveNet,
    ImageClassifier,
    SliceMaxClassifier,
    SRCLNet,
    initialize_encoder,
    load_state,
)

SMALL = {"backbone": "resnet18", "width": 0.125}


def images(count=3, channels=1, size=64):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def contrastive(seed=0, **kwargs):
    torch.manual_seed(seed)
    return ContrastiveNet(**{**SMALL, **kwargs})


def classifier(seed=0, **kwargs):
    torch.manual_seed(seed)
    return ImageClassifier(**{**SMALL, **kwargs})


def linear(layer, x):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


# --- ContrastiveNet --------------------------------------------------------------------------------------------------


def test_the_default_is_the_thesis_net():
    with torch.device("meta"):
        net = ContrastiveNet()
    assert (net.encoder.name, net.encoder.in_channels, net.encoder.stem) == ("resnet50", 1, "imagenet")
    assert isinstance(net.encoder, Backbone)
    assert [type(layer) for layer in net.projector] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(layer.weight.shape) for layer in net.projector[::2]] == [(2048, 2048), (512, 2048)]


def test_embeddings_are_the_projected_features():
    net, x = contrastive(projection_dim=20, hidden_dim=7).eval(), images()
    features = net.features(x)
    torch.testing.assert_close(features, net.encoder(x))
    expected = linear(net.projector[2], linear(net.projector[0], features).clamp(min=0))
    assert expected.shape == (3, 20)
    torch.testing.assert_close(net.project(features), expected)
    torch.testing.assert_close(net(x), expected)


def test_batch_norm_stands_behind_both_linear_layers():
    net, x = contrastive(batch_norm=True, projection_dim=10, hidden_dim=6).train(), images(8)
    assert [type(part) for part in net.projector] == [
        nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d
    ]  # fmt: skip
    assert [layer.bias for layer in (net.projector[0], net.projector[3])] == [None, None]

    def normalised(value):
        return (value - value.mean(0)) / (value.var(0, unbiased=False) + 1e-5).sqrt()

    features = net.features(x).detach()
    hidden = normalised(linear(net.projector[0], features)).clamp(min=0)
    torch.testing.assert_close(
        net.project(features), normalised(linear(net.projector[3], hidden)), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        net.project(features[:1])


@pytest.mark.parametrize(
    "arguments", [{}, {"batch_norm": True}, {"stem": "cifar", "in_channels": 3}, {"backbone": "densenet121"}]
)
def test_it_can_be_scripted_saved_and_traced(arguments):
    net, stream = contrastive(**arguments).eval(), io.BytesIO()
    x = images(channels=arguments.get("in_channels", 1))
    torch.jit.save(torch.jit.script(net), stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    torch.testing.assert_close(loaded(x), net(x))
    torch.testing.assert_close(loaded.features(x), net.features(x))
    torch.testing.assert_close(loaded.project(net.features(x)), net(x))
    other = images(2, arguments.get("in_channels", 1), 96)
    torch.testing.assert_close(torch.jit.trace(net, x)(other), net(other))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_parameter_learns(batch_norm):
    net = contrastive(batch_norm=batch_norm).train()
    (net(images(6)) * torch.rand(6, 512)).sum().backward()
    assert [key for key, value in net.named_parameters() if value.grad is None or not value.grad.any()] == []


# --- ImageClassifier -------------------------------------------------------------------------------------------------


def test_the_classifier_is_one_layer_on_the_pooled_feature():
    net, x = classifier(num_classes=4, stem="cifar").eval(), images(channels=3, size=28)
    features = net.features(x)
    torch.testing.assert_close(features, net.encoder(x))
    assert net.encoder.stem == "cifar"
    assert net(x).shape == (3, 4)
    torch.testing.assert_close(net(x), linear(net.classifier, features))
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(x), net(x))
    torch.testing.assert_close(scripted.features(x), features)
    torch.testing.assert_close(scripted.classify(features), net(x))


def test_dropout_acts_in_training_only():
    net, x = classifier(dropout=0.5), images(8, 3)
    net.encoder.eval()
    pooled, dropped = net.encoder(x), net.features(x)
    kept = dropped != 0
    assert 0.3 < kept[pooled > 0].float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], 2 * pooled[kept])
    assert torch.equal(net.eval().features(x), pooled)


def test_srcl_is_this_classifier_with_a_projector():
    """Its weights from before it shared the code fit: the same keys, and the same random start."""
    torch.manual_seed(0)
    net = SRCLNet("resnet18", width=0.125, num_classes=2)
    base = classifier(num_classes=2)
    keys = [*base.state_dict(), *(f"projector.{n}.{part}" for n in (0, 2, 4) for part in ("weight", "bias"))]
    assert list(net.state_dict()) == keys
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in base.state_dict().items())


# --- how they begin --------------------------------------------------------------------------------------------------


def make(kind, seed):
    torch.manual_seed(seed)
    return {"contrastive": ContrastiveNet, "classifier": ImageClassifier, "slices": SliceMaxClassifier}[kind](
        **SMALL, in_channels=1
    )


@pytest.mark.parametrize("kind", ["contrastive", "classifier", "slices"])
def test_each_net_begins_with_a_pretrained_encoder_or_published_weights(kind, tmp_path):
    source = contrastive(seed=5)
    torch.save(source.encoder.state_dict(), tmp_path / "pretrain.pt")
    net = make(kind, 6)
    head = {key: value.clone() for key, value in net.state_dict().items() if not key.startswith("encoder.")}
    assert initialize_encoder(net, pretrained=tmp_path / "pretrain.pt") is net
    for key, value in source.encoder.state_dict().items():
        assert torch.equal(net.encoder.state_dict()[key], value)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in head.items())

    rgb = contrastive(seed=7, in_channels=3).encoder.body.state_dict()
    torch.save({**rgb, "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}, tmp_path / "published.pth")
    net = initialize_encoder(make(kind, 8), backbone_weights=tmp_path / "published.pth")
    torch.testing.assert_close(net.encoder.body.conv1.weight, rgb["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(net.encoder.body.layer4[1].conv2.weight, rgb["layer4.1.conv2.weight"])


def test_the_classifier_takes_the_encoder_out_of_a_whole_contrastive_net():
    source, net = contrastive(seed=5), classifier(in_channels=1, seed=6)
    report = load_state(net.encoder, source.state_dict(), prefix="encoder.")
    assert len(report.matched) == len(source.encoder.state_dict())
    torch.testing.assert_close(net.eval().features(images()), source.eval().features(images()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: contrastive(projection_dim=0), r"projection_dim: expected at least 1, got 0"),
        (lambda: contrastive(hidden_dim=0), r"hidden_dim: expected at least 1, got 0"),
        (lambda: classifier(num_classes=0), r"num_classes: expected at least 1, got 0"),
        (lambda: classifier(dropout=1.0), r"dropout: expected a probability in \[0, 1\), got 1.0"),
        (lambda: contrastive()(images(channels=3)), r"expected shape \(N, 1, H, W\) for in_channels=1, got \[3, 3"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_unknown_backbones_and_stems_are_refused():
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet81'. Did you mean 'resnet18'\?"):
        contrastive(backbone="resnet81")
    with pytest.raises(ConfigError, match=r"stem: unknown stem 'cifra'. Did you mean 'cifar'\?"):
        classifier(stem="cifra")
