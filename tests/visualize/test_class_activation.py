"""Grad-CAM for batches against MONAI's one image at a time and against the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet121, resnet18
from monai.visualize import GradCAM
from torch import nn

from medssl_monai.networks import SRCLNet
from medssl_monai.visualize import grad_cam, last_feature_layer


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = resnet18(spatial_dims=2, n_input_channels=3, num_classes=5)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 40, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("targets", [None, [0, 1, 2, 3, 4, 0]])
@pytest.mark.parametrize("layer", ["layer3", "layer4"])
def test_equals_monai_one_image_at_a_time(network, images, targets, layer):
    ours = grad_cam(network, images, layer, targets)
    assert ours.shape == (6, 40, 32)
    method = GradCAM(network, layer, postprocessing=lambda x: x)
    for i in range(6):
        single = method(images[i : i + 1].clone(), None if targets is None else targets[i])
        torch.testing.assert_close(ours[i], single[0, 0].detach(), atol=1e-12, rtol=1e-9)
    assert float(ours.max()) > 0
    torch.testing.assert_close(grad_cam(network, images, layer, targets, batch_size=4), ours, atol=1e-12, rtol=1e-9)


def test_a_batch_of_monai_mixes_the_classes(network, images):
    """Why its batches are not used: the score of an image is the sum over all the classes of the batch."""
    targets = torch.tensor([0, 1, 2, 3, 4, 0])
    batch = GradCAM(network, "layer4", postprocessing=lambda x: x)(images.clone(), targets)[:, 0].detach()
    assert not torch.allclose(batch, grad_cam(network, images, "layer4", targets), rtol=1e-2)


def test_equals_the_formula():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Flatten(), nn.Linear(3 * 4 * 5, 2)).double()
    images = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    maps = grad_cam(net, images, "0", [1, 0])
    features = net[0](images).detach().numpy()
    weight = net[2].weight.detach().numpy().reshape(2, 3, 4, 5)
    for i, target in enumerate([1, 0]):
        alpha = [weight[target, k].sum() / 20 for k in range(3)]  # the score is linear in the features
        expected = np.maximum(sum(alpha[k] * features[i, k] for k in range(3)), 0)
        np.testing.assert_allclose(maps[i].numpy(), expected, atol=1e-12)


def test_works_before_layers_that_work_in_place():
    torch.manual_seed(2)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    inplace = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), *head)
    plain = nn.Sequential(inplace[0], nn.ReLU(), *head)
    images = torch.randn(3, 1, 6, 6)
    torch.testing.assert_close(grad_cam(inplace, images, "0", [0, 1, 2]), grad_cam(plain, images, "0", [0, 1, 2]))


def test_volumes():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    volumes = torch.randn(3, 1, 4, 6, 5)
    maps = grad_cam(net, volumes, "1")
    assert maps.shape == (3, 4, 6, 5)
    method = GradCAM(net.eval(), "1", postprocessing=lambda x: x)
    for i in range(3):
        torch.testing.assert_close(maps[i], method(volumes[i : i + 1])[0, 0].detach(), atol=1e-6, rtol=1e-4)


def test_the_network_is_left_as_it_was(network, images):
    net = network
    net.train()
    net.layer1.eval()
    net.zero_grad(set_to_none=True)
    net.fc.bias.requires_grad_(False)
    modes = [module.training for module in net.modules()]
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()]
    statistics = net.bn1.running_mean.clone()

    def unchanged() -> bool:
        frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
        return (
            [module.training for module in net.modules()] == modes
            and [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()] == hooks
            and all(parameter.grad is None for parameter in net.parameters())
            and frozen == ["fc.bias"]
            and torch.equal(net.bn1.running_mean, statistics)
        )

    with torch.inference_mode():
        maps = grad_cam(net, images, "layer4")
    assert not maps.requires_grad
    assert unchanged()
    with pytest.raises(ValueError, match="targets reach from 9 to 9; the network has classes 0 to 4"):
        grad_cam(net, images, "layer4", [9] * 6)
    assert unchanged()
    last_feature_layer(net, images[0])
    assert unchanged()
    net.fc.bias.requires_grad_(True)
    net.eval()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.unused = nn.Conv2d(1, 1, 3)
        self.side = nn.Conv2d(1, 1, 3)
        self.fc = nn.Linear(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.side(x)
        return self.fc(self.conv(self.conv(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("absent", "the network has no layer 'absent'; known: conv, unused, side, fc"),
        ("", "the network has no layer ''"),
        ("conv", "layer 'conv' was used 2 times in a forward pass; expected once"),
        ("unused", "layer 'unused' was used 0 times"),
        ("side", "the scores do not depend on layer 'side'"),
        ("fc", r"layer 'fc' gives \(2, 2\); expected a feature map of 4 dimensions, one for each of 2 images"),
    ],
)
def test_errors_of_layers(layer, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(Twice(), torch.randn(2, 1, 8, 8), layer)


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.zeros(3, 32, 32), None, r"images have shape \(3, 32, 32\); expected \(N, C, H, W\)"),
        (torch.zeros(2, 3, 32, 32), [0], "expected one class index for each of 2 images"),
        (torch.zeros(2, 3, 32, 32), [-1, 0], "targets reach from -1 to 0"),
    ],
)
def test_errors_of_images(network, images, targets, message):
    with pytest.raises(ValueError, match=message):
        grad_cam(network, images.double(), "layer4", targets)


class TestLastFeatureLayer:
    @pytest.mark.parametrize("backbone", ["densenet121", "resnet18", "efficientnet_lite0"])
    def test_is_the_documented_one_of_our_encoders(self, backbone):
        net = SRCLNet(backbone, width=0.125)
        image = torch.rand(3, 128, 128)
        assert last_feature_layer(net, image) == ("encoder.body", (4, 4))
        assert net.encoder.feature_map(image[None]).shape[2:] == (4, 4)
        maps = grad_cam(net, image[None], "encoder.body")
        assert maps.shape == (1, 128, 128)

    def test_is_an_earlier_stage_for_small_images(self):
        name, size = last_feature_layer(SRCLNet("resnet18", width=0.125), torch.rand(3, 64, 64))
        assert (name, size) == ("encoder.body.layer3", (4, 4))
        assert last_feature_layer(SRCLNet("resnet18", width=0.125), torch.rand(3, 64, 64), min_size=2)[1] == (2, 2)

    def test_is_the_one_monai_names(self, network):
        assert last_feature_layer(network, torch.rand(3, 64, 64, dtype=torch.float64)) == ("layer4", (4, 4))
        dense = DenseNet121(spatial_dims=2, in_channels=1, out_channels=3)
        assert last_feature_layer(dense, torch.rand(1, 128, 128)) == ("class_layers.relu", (4, 4))

    def test_is_none_where_no_map_is_fine_enough(self):
        net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=4), nn.Flatten(), nn.Linear(8, 2))
        assert last_feature_layer(net, torch.rand(1, 8, 8)) is None
        assert last_feature_layer(net, torch.rand(1, 8, 8), min_size=2) == ("0", (2, 2))
