"""Published layouts: key maps against lists written down by rule, and the graph against a functional forward."""

import pytest
import torch
import torch.nn.functional as F
from published_keys import LAYOUTS

from medssl_monai.networks import build_backbone, load_backbone_weights


def published(layout, seed=0):
    """Random but well-scaled weights under the published names."""
    maker = torch.Generator().manual_seed(seed)
    state = {}
    for name, _, shape in LAYOUTS[layout]():
        value = torch.randn(shape, generator=maker)
        if name.endswith("num_batches_tracked"):
            value = torch.randint(1, 10_000, (), generator=maker)
        elif name.endswith("running_var"):
            value = 0.5 + value.abs()
        elif len(shape) == 4:
            value = value * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith("weight") and len(shape) == 1:
            value = 1 + 0.1 * value
        else:
            value = 0.1 * value
        state[name] = value
    return state


class Published:
    """The published graphs as plain function calls on the published names."""

    def __init__(self, state):
        self.state = state

    def conv(self, x, name, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.state[f"{name}.weight"], None, stride, padding, 1, groups)

    def norm(self, x, name, eps=1e-5):
        parts = [self.state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=eps)

    def densenet121(self, x, dot):
        x = self.norm(self.conv(x, "features.conv0", 2, 3), "features.norm0").relu()
        x = F.max_pool2d(x, 3, 2, 1)
        for block, layers in enumerate((6, 12, 24, 16), start=1):
            for layer in range(1, layers + 1):
                name = f"features.denseblock{block}.denselayer{layer}"
                y = self.conv(self.norm(x, f"{name}.norm{dot}1").relu(), f"{name}.conv{dot}1")
                y = self.conv(self.norm(y, f"{name}.norm{dot}2").relu(), f"{name}.conv{dot}2", 1, 1)
                x = torch.cat([x, y], 1)
            if block < 4:
                name = f"features.transition{block}"
                x = F.avg_pool2d(self.conv(self.norm(x, f"{name}.norm").relu(), f"{name}.conv"), 2)
        return self.norm(x, "features.norm5").relu()

    def resnet(self, x, layers, convolutions):
        x = F.max_pool2d(self.norm(self.conv(x, "conv1", 2, 3), "bn1").relu(), 3, 2, 1)
        strided = 1 if len(convolutions) == 2 else 2  # in bottlenecks the 3 x 3 in the middle carries the stride
        for stage, blocks in enumerate(layers, start=1):
            for block in range(blocks):
                name, y = f"layer{stage}.{block}", x
                stride = 2 if stage > 1 and block == 0 else 1
                for number, padding in enumerate(convolutions, start=1):
                    y = self.conv(y, f"{name}.conv{number}", stride if number == strided else 1, padding)
                    y = self.norm(y, f"{name}.bn{number}")
                    y = y.relu() if number < len(convolutions) else y
                if f"{name}.downsample.0.weight" in self.state:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
                x = (x + y).relu()
        return x

    def same(self, x, name, stride=1, groups=1):
        """TensorFlow's SAME padding: the odd pixel goes to the right and the bottom."""
        kernel = self.state[f"{name}.weight"].shape[-1]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (x.shape[3], x.shape[2])]
        x = F.pad(x, [pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2])
        return self.conv(x, name, stride, groups=groups)

    def efficientnet_lite0(self, x):
        x = F.relu6(self.norm(self.same(x, "_conv_stem", 2), "_bn0", 1e-3))
        number = 0
        for repeats, stride in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
            for repeat in range(repeats):
                name, y = f"_blocks.{number}", x
                if f"{name}._expand_conv.weight" in self.state:
                    y = F.relu6(self.norm(self.same(y, f"{name}._expand_conv"), f"{name}._bn0", 1e-3))
                y = self.same(y, f"{name}._depthwise_conv", stride if repeat == 0 else 1, groups=y.shape[1])
                y = F.relu6(self.norm(y, f"{name}._bn1", 1e-3))
                y = self.norm(self.same(y, f"{name}._project_conv"), f"{name}._bn2", 1e-3)
                x = x + y if repeat > 0 else y
                number += 1
        return F.relu6(self.norm(self.same(x, "_conv_head"), "_bn1", 1e-3))


FORWARD = {
    "densenet121": lambda graph, x: graph.densenet121(x, ""),
    "densenet121 of 2017": lambda graph, x: graph.densenet121(x, "."),
    "resnet18": lambda graph, x: graph.resnet(x, (2, 2, 2, 2), (1, 1)),
    "resnet50": lambda graph, x: graph.resnet(x, (3, 4, 6, 3), (0, 1, 0)),
    "resnet101": lambda graph, x: graph.resnet(x, (3, 4, 23, 3), (0, 1, 0)),
    "efficientnet_lite0": lambda graph, x: graph.efficientnet_lite0(x),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_key_lands_where_the_rule_says_and_the_graph_is_the_published_one(layout, tmp_path):
    state = published(layout)
    torch.save(state, tmp_path / "published.pth")
    backbone = build_backbone(layout.split()[0]).eval()
    report = load_backbone_weights(backbone, tmp_path / "published.pth")

    loaded = backbone.body.state_dict()
    places = {own: name for name, own, _ in LAYOUTS[layout]() if own}
    for own, name in places.items():
        assert torch.equal(loaded[own], state[name]), own
    assert set(report.matched) == set(places)
    assert set(report.kept) == set(loaded) - set(places)
    assert all(key.endswith("num_batches_tracked") for key in report.kept)
    assert report.missing == ()
    assert report.renamed == {name: own for own, name in places.items() if name != own}
    assert set(report.skipped) == {name for name, own, _ in LAYOUTS[layout]() if not own}
    assert set(report.skipped.values()) == {"classification head"}

    x = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = FORWARD[layout](Published(state), (x - backbone.mean) / backbone.std)
        torch.testing.assert_close(backbone.feature_map(x), expected, rtol=1e-3, atol=1e-4)
        assert expected.std() > 1e-3


def small_published(layout):
    """A small backbone and its weights under the published names."""
    torch.manual_seed(0)
    backbone = build_backbone(layout.split()[0], width=0.125)
    values = backbone.body.state_dict()
    return backbone, {name: values[own].clone() for name, own, _ in LAYOUTS[layout]() if own}


@pytest.mark.parametrize(
    "prefix", ["module.", "module.pre.", "backbone.", "encoder.", "model.", "module.encoder.body.", "net.features."]
)
@pytest.mark.parametrize("layout", ["densenet121 of 2017", "resnet18", "efficientnet_lite0"])
def test_prefixes_of_wrappers_are_taken_off(layout, prefix, tmp_path):
    plain, state = small_published(layout)
    torch.save({"state_dict": {f"{prefix}{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pth")
    fresh = build_backbone(plain.name, width=0.125)
    report = load_backbone_weights(fresh, tmp_path / "wrapped.pth")
    assert report.complete
    assert len(report.matched) == len(state)
    ours, theirs = fresh.body.state_dict(), plain.body.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in report.matched)


@pytest.mark.parametrize(
    ("layout", "stem"), [("resnet18", "conv1.weight"), ("efficientnet_lite0", "_conv_stem.weight")]
)
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_stem_for_other_channels_gives_what_equal_channels_gave(layout, stem, channels, tmp_path):
    _, state = small_published(layout)
    torch.save(state, tmp_path / "rgb.pth")
    backbone = build_backbone(layout, in_channels=channels, width=0.125)
    report = load_backbone_weights(backbone, tmp_path / "rgb.pth")
    expected = f"each of {channels} channels gets the sum over 3 channels / {channels}"
    assert report.adapted == {stem: expected}
    assert expected in str(report)
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    rgb = F.conv2d(grey.expand(-1, 3, -1, -1), state[stem])
    own = F.conv2d(grey.expand(-1, channels, -1, -1), backbone.body.state_dict()[stem])
    torch.testing.assert_close(own, rgb, rtol=1e-4, atol=1e-5)
