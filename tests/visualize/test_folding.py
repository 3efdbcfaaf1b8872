"""Folding must be invisible: the same maps, the same network afterwards, and no folding where it would be wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from medssl_monai.networks import SRCLNet
from medssl_monai.visualize import folding, grad_cam, saliency
from medssl_monai.visualize.folding import with_folding

IMAGES = 16


def with_statistics(network: nn.Module) -> nn.Module:
    """Random statistics and affine parameters: those of a fresh layer are nearly the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                (module.weight, 0.7, 1.3), (module.bias, -0.2, 0.2),
            ):  # fmt: skip
                tensor.data.uniform_(low, high, generator=generator)
    return network.double().eval()


def head(*layers: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))


def images(dims: int = 2, size: int = 32, channels: int = 3) -> Tensor:
    return torch.rand(IMAGES, channels, *[size] * dims, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def plain_saliency(network: nn.Module, pictures: Tensor) -> Tensor:
    """By the definition, one image at a time."""
    maps = []
    for picture in pictures:
        one = picture[None].clone().requires_grad_(True)
        network(one).max().backward()
        assert one.grad is not None
        maps.append(one.grad.abs().amax(dim=1)[0])
    network.zero_grad()
    return torch.stack(maps)


def pairs(network: nn.Module, pictures: Tensor) -> int:
    """How many normalisations a call folds away."""
    folding._known.pop(network, None)
    inside: list[int] = []
    with torch.no_grad():
        with_folding(
            network,
            pictures,
            lambda: inside.append(sum("forward" in vars(m) for m in network.modules() if isinstance(m, nn.Conv2d))),
        )
    return inside[0]


class TwiceUsed(nn.Module):
    """The convolution's own output is wanted too, so that it must not be normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        scores: Tensor = self.head((torch.relu(self.norm(y)) + y).mean(dim=(2, 3)))
        return scores


class Changing(nn.Module):
    """Its layers follow one another in another order once ``turned``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.head, self.turned = nn.BatchNorm2d(3), nn.Linear(3, 3), False

    def forward(self, x: Tensor) -> Tensor:
        layers = (self.second, self.norm, self.first) if self.turned else (self.first, self.second, self.norm)
        layers = (self.first, self.norm, self.second) if self.turned else layers
        for layer in layers:
            x = layer(x)
        scores: Tensor = self.head(torch.relu(x).mean(dim=(2, 3)))
        return scores


class TestWhatIsFolded:
    @pytest.mark.parametrize(
        ("backbone", "expected"),
        [
            ("resnet18", 20),  # every convolution: 1 + 16 and 3 shortcuts
            ("densenet121", 59),  # the stem's and the bottleneck's in each of 58 layers; others follow a concatenation
            ("efficientnet_lite0", 49),
        ],
    )
    def test_the_number_of_pairs(self, backbone: str, expected: int) -> None:
        network = with_statistics(SRCLNet(backbone, width=0.125))
        assert pairs(network, images()) == expected

    @pytest.mark.parametrize("backbone", ["resnet18", "densenet121", "efficientnet_lite0"])
    def test_the_maps_are_those_of_single_images(self, backbone: str) -> None:
        network = with_statistics(SRCLNet(backbone, width=0.125))
        torch.testing.assert_close(
            saliency(network, images()), plain_saliency(network, images()), rtol=1e-8, atol=1e-10
        )

    def test_volumes(self) -> None:
        network = with_statistics(
            ResNet("basic", [1, 1, 1, 1], [2, 2, 4, 4], spatial_dims=3, n_input_channels=1, num_classes=3)
        )
        pictures = images(dims=3, size=8, channels=1)
        torch.testing.assert_close(saliency(network, pictures), plain_saliency(network, pictures))
        assert any(folding._known[network])

    def test_class_activation_maps_do_not_change(self) -> None:
        network = with_statistics(SRCLNet("resnet18", width=0.125))
        for layer in ("encoder.body.layer3", "encoder.body.layer3.0.conv2", "encoder.body.layer3.0.bn2"):
            whole = grad_cam(network, images(), layer)
            halves = torch.cat([grad_cam(network, part, layer) for part in images().split(8)])  # too few to fold
            assert float(whole.max()) > 0
            torch.testing.assert_close(whole, halves)


class TestWhatIsNotFolded:
    def test_a_convolution_whose_output_is_used_twice(self) -> None:
        network = with_statistics(TwiceUsed())
        assert pairs(network, images()) == 0
        torch.testing.assert_close(saliency(network, images()), plain_saliency(network, images()))

    def test_few_images(self) -> None:
        network = with_statistics(SRCLNet("resnet18", width=0.125))
        assert pairs(network, images()[: folding.MIN_IMAGES - 1]) == 0

    def test_a_layer_with_hooks(self) -> None:
        network = with_statistics(SRCLNet("resnet18", width=0.125))
        seen: list[tuple[Tensor, Tensor]] = []
        convolution = network.get_submodule("encoder.body.conv1")
        convolution.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        assert pairs(network, images()) == 19
        saliency(network, images())
        given, found = seen[-1]
        torch.testing.assert_close(found, nn.functional.conv2d(given, convolution.weight, stride=2, padding=3))

    def test_a_weight_that_is_made_anew(self) -> None:
        network = with_statistics(head(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), channels=4))
        assert pairs(network, images()) == 0

    def test_shared_layers(self) -> None:
        convolution, norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        network = with_statistics(head(convolution, norm, nn.ReLU(), convolution, norm, channels=3))
        assert pairs(network, images()) == 0
        torch.testing.assert_close(saliency(network, images()), plain_saliency(network, images()))

    def test_layers_that_change_their_order(self, caplog: pytest.LogCaptureFixture) -> None:
        network = with_statistics(Changing())
        saliency(network, images())
        assert len(folding._known[network]) == 1
        network.turned = True  # type: ignore[assignment]
        with caplog.at_level("DEBUG"):
            torch.testing.assert_close(saliency(network, images()), plain_saliency(network, images()))
        assert "without folding" in caplog.text


class TestTheNetworkAfterwards:
    def test_nothing_is_left_behind(self) -> None:
        network = with_statistics(SRCLNet("resnet18", width=0.125))
        before = copy.deepcopy(network.state_dict())
        saliency(network, images())
        assert not any("forward" in vars(module) for module in network.modules())
        for name, value in network.state_dict().items():
            assert torch.equal(value, before[name]), name
        with pytest.raises(ValueError, match="targets reach from 9"):
            saliency(network, images(), [9] * IMAGES)
        assert not any("forward" in vars(module) for module in network.modules())

    def test_weights_are_folded_anew(self) -> None:
        network = with_statistics(SRCLNet("resnet18", width=0.125))
        first = saliency(network, images())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.data.mul_(1.1)
        second = saliency(network, images())
        assert not torch.allclose(first, second)
        torch.testing.assert_close(second, plain_saliency(network, images()), rtol=1e-8, atol=1e-10)

    def test_a_network_that_was_rebuilt(self) -> None:
        network = with_statistics(head(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), channels=4))
        saliency(network, images())
        network[1] = nn.Identity()
        torch.testing.assert_close(saliency(network, images()), plain_saliency(network, images()))
