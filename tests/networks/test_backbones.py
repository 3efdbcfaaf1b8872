"""Backbones: sizes of the published nets, normalisation inside, export, and errors that say what was expected."""

import io
import math

import pytest
import torch
from published_keys import LAYOUTS

from medssl_monai.core import ConfigError
from medssl_monai.networks import BACKBONES, Backbone, build_backbone

NAMES = ["densenet121", "efficientnet_lite0", "resnet18", "resnet50"]
FEATURES = {"densenet121": 1024, "efficientnet_lite0": 1280, "resnet18": 512, "resnet50": 2048}


def small(name, **kwargs):
    torch.manual_seed(0)
    return build_backbone(name, width=0.125, **kwargs).eval()


def full_size(name):
    with torch.device("meta"):  # shapes only: nothing is allocated
        return build_backbone(name)


def images(count=2, channels=3, height=64, width=64):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_the_registry_knows_the_four():
    assert BACKBONES.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_width_1_has_the_published_parameters(name):
    published = [(own, shape) for _, own, shape in LAYOUTS[name]() if own]
    backbone = full_size(name)
    assert {key: tuple(value.shape) for key, value in backbone.body.state_dict().items()} == dict(published)
    assert backbone.num_features == FEATURES[name]


@pytest.mark.parametrize("name", NAMES)
def test_feature_map_and_its_pooling(name):
    backbone = small(name)
    x = images(height=96)
    features = backbone.feature_map(x)
    assert features.shape == (2, backbone.num_features, 3, 2)
    assert (features >= 0).all()  # after the last activation
    torch.testing.assert_close(backbone(x), features.flatten(2).mean(-1))


@pytest.mark.parametrize("name", NAMES)
def test_small_nets_are_the_same_graph(name):
    kinds = [[type(part) for part in net.modules()] for net in (small(name), full_size(name))]
    assert kinds[0] == kinds[1]
    assert small(name).num_features < FEATURES[name]


def entering(backbone, x):
    """What reaches the first layer."""
    seen = []
    handle = backbone.body.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    backbone(x)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("name", ["densenet121", "resnet18", "resnet50"])
def test_imagenet_statistics_are_taken_off_inside(name):
    x = images()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (x.movedim(1, -1) - mean) / std
    torch.testing.assert_close(entering(small(name), x), expected.movedim(-1, 1))


def test_efficientnet_lite_takes_127_from_0_to_255_and_divides_by_128():
    x = images()
    torch.testing.assert_close(entering(small("efficientnet_lite0"), x), (x * 255 - 127) / 128)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_get_the_mean_of_the_rgb_statistics(channels):
    x = images(channels=channels)
    expected = (x - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3)
    torch.testing.assert_close(entering(small("resnet18", in_channels=channels), x), expected)


def test_the_statistics_are_not_part_of_the_state_dict():
    assert all(key.startswith("body.") for key in small("resnet18").state_dict())


def test_lite_activates_by_relu6_everywhere():
    kinds = {type(part).__name__ for part in small("efficientnet_lite0").modules()}
    assert "ReLU6" in kinds
    assert not [kind for kind in kinds if "wish" in kind]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    backbone = small(name).train()
    backbone(images(4)).square().sum().backward()
    assert [key for key, value in backbone.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_it_can_be_scripted_saved_and_loaded_for_every_size_of_image():
    backbone, stream = small("resnet18"), io.BytesIO()  # the others: inside SRCLNet
    torch.jit.save(torch.jit.script(backbone), stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    for x in (images(), images(3, height=96)):
        torch.testing.assert_close(loaded(x), backbone(x))
    with pytest.raises(torch.jit.Error, match=r"expected shape \(N, 3, H, W\) for in_channels=3, got \[2, 1, 64, 64\]"):
        loaded(images(channels=1))


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    for name in NAMES:
        assert isinstance(small(name), Backbone)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 1, 64, 64), r"expected shape \(N, 3, H, W\) for in_channels=3, got \[2, 1, 64, 64\]"),
        (torch.rand(3, 64, 64), r"expected shape \(N, 3, H, W\) for in_channels=3, got \[3, 64, 64\]"),
        (torch.ones(2, 3, 64, 64, dtype=torch.uint8), r"expected floating-point values in \[0, 1\], got torch.uint8"),
    ],
)
def test_wrong_images_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        small("resnet18")(x)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet5O'. Did you mean 'resnet50'\?"):
        build_backbone("resnet5O")


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf, "1", True])
def test_wrong_widths_are_refused(width):
    with pytest.raises(ValueError, match=r"width: expected a finite number above 0, got"):
        build_backbone("resnet18", width=width)


@pytest.mark.parametrize("channels", [0, -3, 1.0, True])
def test_wrong_in_channels_are_refused(channels):
    with pytest.raises(ValueError, match=r"in_channels: expected an integer of at least 1, got"):
        build_backbone("resnet18", in_channels=channels)


def test_repr_says_what_it_is():
    text = "'resnet18', in_channels=3, width=0.125, num_features=64"
    assert text in repr(small("resnet18"))
