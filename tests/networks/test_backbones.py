"""Backbones: sizes of the published nets, normalisation inside, export, and errors that say what was expected."""

import io
import math

import pytest
import torch
from published_keys import LAYOUTS

from medssl_monai.core import CheckpointError, ConfigError
from medssl_monai.networks import BACKBONES, Backbone, build_backbone, load_backbone_weights, stem_for

NAMES = ["densenet121", "efficientnet_lite0", "resnet101", "resnet18", "resnet50"]
FEATURES = {"densenet121": 1024, "efficientnet_lite0": 1280, "resnet101": 2048, "resnet18": 512, "resnet50": 2048}


def small(name, **kwargs):
    torch.manual_seed(0)
    return build_backbone(name, width=0.125, **kwargs).eval()


def full_size(name):
    with torch.device("meta"):  # shapes only: nothing is allocated
        return build_backbone(name)


def images(count=2, channels=3, height=64, width=64):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))


def test_the_registry_knows_the_five():
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


@pytest.mark.parametrize("name", ["densenet121", "resnet18", "resnet50", "resnet101"])
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


# --- the stem for small images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_the_cifar_stem_is_3_by_3_without_stride_or_pooling(name):
    backbone = small(name, stem="cifar", in_channels=1)
    conv = backbone.body.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    x = images(channels=1, height=28, width=32)
    stem = backbone.body.bn1(conv((x - backbone.mean) / backbone.std)).relu()
    assert stem.shape[2:] == (28, 32)
    expected = stem
    for layer in (backbone.body.layer1, backbone.body.layer2, backbone.body.layer3, backbone.body.layer4):
        expected = layer(expected)
    torch.testing.assert_close(backbone.feature_map(x), expected)
    assert expected.shape[2:] == (4, 4)  # an eighth of the image


def test_the_stem_changes_no_name_and_one_shape():
    shapes = [
        {key: tuple(value.shape) for key, value in small("resnet18", stem=stem).state_dict().items()}
        for stem in ("imagenet", "cifar")
    ]
    assert list(shapes[0]) == list(shapes[1])
    assert {key for key in shapes[0] if shapes[0][key] != shapes[1][key]} == {"body.conv1.weight"}
    assert (shapes[0]["body.conv1.weight"], shapes[1]["body.conv1.weight"]) == ((8, 3, 7, 7), (8, 3, 3, 3))


def test_the_cifar_stem_can_be_scripted():
    backbone = small("resnet18", stem="cifar")
    x = images(height=28, width=28)
    torch.testing.assert_close(torch.jit.script(backbone)(x), backbone(x))
    assert "width=0.125, stem='cifar', num_features=64" in repr(backbone)


def test_published_weights_do_not_fit_the_cifar_stem_and_the_message_says_why(tmp_path):
    torch.save(small("resnet18").body.state_dict(), tmp_path / "published.pth")
    with pytest.raises(
        CheckpointError,
        match=r"keys of Backbone \(resnet18, width=0.125, stem=cifar\).*"
        r"conv1.weight: shape \(8, 3, 7, 7\), expected \(8, 3, 3, 3\).*another width or stem",
    ):
        load_backbone_weights(small("resnet18", stem="cifar"), tmp_path / "published.pth")


def test_the_stem_for_a_size():
    assert [stem_for(size) for size in (28, 63, 64, 224)] == ["cifar", "cifar", "imagenet", "imagenet"]
    assert stem_for(28, "resnet50") == "cifar"
    assert stem_for(28, "densenet121") == "imagenet"  # it has no other
    for name in NAMES:
        build_backbone(name, width=0.125, stem=stem_for(28, name))


def test_wrong_stems_are_refused():
    with pytest.raises(ConfigError, match=r"stem: unknown stem 'cifar10'. Did you mean 'cifar'\?"):
        build_backbone("resnet18", stem="cifar10")
    with pytest.raises(ConfigError, match=r"stem: densenet121 has no stem for small images \(found cifar, expected"):
        build_backbone("densenet121", stem="cifar")
