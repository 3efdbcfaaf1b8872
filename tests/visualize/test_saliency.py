"""Batched saliency against one image at a time, MONAI's VanillaGrad and a gradient known by hand.

In double precision: an activation within rounding of zero has its ReLU flip between two ways of computing one float32
convolution, and the gradient jumps there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet18
from monai.visualize import VanillaGrad
from torch import nn

from medssl_monai.visualize import grad_cam, last_feature_layer, saliency, saliency_panel


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    net = resnet18(spatial_dims=2, n_input_channels=3, num_classes=5)
    for module in net.modules():  # running statistics of their own, so that training mode would show
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    return net.double()


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_equals_one_image_at_a_time(network, images):
    batched = saliency(network, images)
    single = torch.cat([saliency(network, image[None]) for image in images])
    assert batched.shape == (6, 32, 32)
    torch.testing.assert_close(batched, single, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(saliency(network, images, batch_size=4), batched, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("targets", [None, [0, 1, 2, 3, 4, 0]])
def test_equals_monai(network, images, targets):
    ours = saliency(network, images, targets)
    network.eval()
    method = VanillaGrad(network)
    for i in range(6):
        gradient = method(images[i : i + 1].clone(), None if targets is None else torch.tensor([targets[i]]))
        torch.testing.assert_close(ours[i], gradient.abs().amax(dim=1)[0], atol=1e-12, rtol=1e-9)


class _Norms(nn.Module):
    """Batch norms of every kind there is, and what torch itself makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norms = nn.Sequential(
            nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, track_running_stats=False)
        )
        self.flat = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for values in (*module.buffers(), *module.parameters()):
                    if values.is_floating_point():
                        values.data.uniform_(0.5, 2)

    def forward(self, x):
        return self.head(self.flat(self.norms(torch.sigmoid(self.convolution(x))).square().mean(dim=(2, 3))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_batch_norms_of_every_kind(dtype):
    torch.manual_seed(3)
    network = _Norms().eval()
    for module in network.modules():  # mixed precision as torch allows it: norms in float32
        if not isinstance(module, nn.modules.batchnorm._BatchNorm) or dtype == torch.float64:
            module._apply(lambda values: values.to(dtype), recurse=False)
    images = torch.randn(5, 3, 6, 6).to(dtype)
    maps = saliency(network, images)
    pixels = images.clone().requires_grad_(True)
    scores = network(pixels)
    (expected,) = torch.autograd.grad(scores.amax(dim=1).sum(), pixels)
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 0.1}[dtype]
    torch.testing.assert_close(maps, expected.abs().amax(dim=1), rtol=tolerance, atol=tolerance / 10)


def test_batch_norms_keep_no_input(network, images):
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda values: kept.append(values.shape) or values, lambda v: v)
    with hooks:
        saliency(network, images)
    with_norms, kept[:] = len(kept), []
    with hooks:
        network.eval()(images.clone().requires_grad_(True))
    # torch's keep their input and four vectors each, ours the scale
    number = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert with_norms <= len(kept) - number


def test_compiled_networks_are_compiled_once(network, images):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(network.eval(), backend=backend)
    expected = saliency(network, images)
    with torch.no_grad():
        before = compiled(images)
    first = saliency(compiled, images)
    number = len(graphs)
    for _ in range(10):
        torch.testing.assert_close(saliency(compiled, images), first, atol=1e-12, rtol=1e-9)
    assert len(graphs) == number
    torch.testing.assert_close(first, expected, atol=1e-12, rtol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), before)


@pytest.mark.parametrize(("shape", "message"), [((2, 5, 4, 4), "running_mean"), ((2, 4, 4), "expected 4D input")])
def test_batch_norms_refuse_what_torch_refuses(shape, message):
    class Wrong(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](torch.zeros(shape))).flatten(1) + x.sum()

    with pytest.raises((RuntimeError, ValueError), match=message):
        saliency(Wrong(nn.BatchNorm2d(1 if len(shape) == 4 else 4), nn.Identity()), torch.rand(2, 3, 4, 4))


def test_gradient_of_a_linear_network_is_its_weight():
    net = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 2, bias=False))
    weight = net[1].weight.detach().reshape(2, 2, 3, 4)
    maps = saliency(net, torch.randn(5, 2, 3, 4), torch.tensor([0, 1, 1, 0, 1]))
    for i, target in enumerate([0, 1, 1, 0, 1]):
        torch.testing.assert_close(maps[i], weight[target].abs().amax(dim=0))


def test_modes_and_gradients_are_left_as_they_were(network, images):
    network.train()
    network.layer1.eval()  # a part frozen by its owner
    network.zero_grad(set_to_none=True)
    statistics = network.bn1.running_mean.clone()
    network.fc.weight.requires_grad_(False)
    before = [module.training for module in network.modules()]
    saliency(network, images)
    assert [name for name, parameter in network.named_parameters() if not parameter.requires_grad] == ["fc.weight"]
    network.fc.weight.requires_grad_(True)
    assert [module.training for module in network.modules()] == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not images.requires_grad
    torch.testing.assert_close(network.bn1.running_mean, statistics, rtol=0, atol=0)
    with pytest.raises(ValueError, match="targets reach"):
        saliency(network, images, [9] * 6)
    assert [module.training for module in network.modules()] == before


def _places(network):
    return [(value.data_ptr(), value.stride(), value.requires_grad) for value in network.parameters()]


def test_weights_lie_where_they_lay(network, images):
    before = _places(network)
    saliency(network, images)
    assert _places(network) == before
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    before, floats = _places(scripted), images.float()
    pixels = floats.clone().requires_grad_()
    scripted(pixels)[:, 1].sum().backward()
    torch.testing.assert_close(saliency(scripted, floats, [1] * 6), pixels.grad.abs().amax(dim=1))
    assert _places(scripted) == before


def test_threads_that_share_a_network(network, images):
    """The second would take what the first has set for a while for the network's own."""
    expected, before = saliency(network, images), _places(network)
    with ThreadPoolExecutor(4) as pool:
        maps = list(pool.map(lambda _: saliency(network, images, batch_size=3), range(12)))
    for found in maps:
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)
    assert _places(network) == before


class _Flat(nn.Module):
    """Insists on contiguous feature maps."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 8 * 8, 2)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).view(len(x), -1))


class _Standardised(nn.Conv2d):
    """Insists on contiguous filters."""

    def forward(self, x):
        weight = self.weight - self.weight.view(len(self.weight), -1).mean(dim=1).view(-1, 1, 1, 1)
        return nn.functional.conv2d(x, weight, self.bias)


class _Places(nn.Module):
    """A parameter of four dimensions that is no filter, and must be contiguous."""

    def __init__(self):
        super().__init__()
        self.patches, self.last = nn.Conv2d(3, 4, 2, stride=2), nn.Linear(4, 2)
        self.places = nn.Parameter(torch.randn(1, 4, 4, 4))

    def forward(self, x):
        return self.last((self.patches(x).flatten(2) + self.places.view(1, 4, 16)).relu().mean(dim=2))


@pytest.mark.parametrize(
    "make",
    [_Flat, lambda: nn.Sequential(_Standardised(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), _Places],
    ids=["features", "filters", "parameter"],
)
def test_networks_that_insist_on_contiguous_tensors(make):
    torch.manual_seed(0)
    net = make().double()
    before = _places(net)
    pixels = torch.rand(3, 3, 8, 8, dtype=torch.float64).requires_grad_()
    net(pixels)[:, 1].sum().backward()
    torch.testing.assert_close(saliency(net, pixels.detach(), [1] * 3), pixels.grad.abs().amax(dim=1))
    assert _places(net) == before
    layer = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    one = grad_cam(net, pixels.detach()[:1], layer, [1])
    torch.testing.assert_close(grad_cam(net, pixels.detach(), layer, [1] * 3)[:1], one)
    last_feature_layer(net, pixels.detach()[0])
    net.eval()
    broken = nn.Sequential(net, nn.Linear(3, 3).double())
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # another fault is not tried again
        saliency(broken, pixels.detach())


def test_a_thread_that_looks_for_the_layer_sees_its_own_pass(network, images):
    expected = last_feature_layer(network, images[0])
    assert expected is not None
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(saliency, network, images) for _ in range(6)]
        found = list(pool.map(lambda _: last_feature_layer(network, images[0]), range(30)))
        for other in others:
            other.result()
    assert set(found) == {expected}


def test_weights_made_in_inference_mode_are_left_alone():
    with torch.inference_mode():
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved for backward"):
        saliency(net, torch.rand(2, 1, 8, 8))
    assert net.training


def test_float32_and_volumes():
    net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    volumes = torch.randn(4, 1, 6, 7, 5)
    maps = saliency(net, volumes, [0, 1, 2, 0])
    assert maps.shape == (4, 6, 7, 5)
    assert maps.dtype == torch.float32
    for i, target in enumerate([0, 1, 2, 0]):
        one = volumes[i : i + 1].clone().requires_grad_()
        net(one)[0, target].backward()
        torch.testing.assert_close(maps[i], one.grad.abs()[0, 0])


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_inside_a_block_without_gradients(network, images, context):
    expected = saliency(network, images)
    with context():
        inside = saliency(network, images + 0)
    torch.testing.assert_close(inside, expected)
    assert not inside.requires_grad


def test_a_single_score_is_explained_itself():
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    maps = saliency(net, torch.randn(3, 1, 4, 4))
    torch.testing.assert_close(maps[0], net[1].weight.detach().abs().reshape(4, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x: saliency(net, x[0]), r"images have shape \(3, 32, 32\); expected \(N, C, H, W\)"),
        (lambda net, x: saliency(net, x[:0]), "with at least one image"),
        (lambda net, x: saliency(net, x, [0]), "expected one class index for each of 6 images"),
        (lambda net, x: saliency(net, x, [0.5] * 6), "dtype torch.float32; expected one class index"),
        (lambda net, x: saliency(net, x, [-1] * 6), "targets reach from -1 to -1; the network has classes 0 to 4"),
        (lambda net, x: saliency(net, x, batch_size=0), "batch_size is 0; expected at least 1"),
        (lambda net, x: saliency(net, (255 * x).byte()), "images have dtype torch.uint8; expected floating point"),
        (lambda net, x: saliency(nn.LazyConv2d(4, 3), x), "lazy parameters without values"),
        (lambda net, x: saliency(nn.Identity(), x), r"the network returned \(6, 3, 32, 32\) for 6 images"),
    ],
)
def test_errors(network, images, call, message):
    with pytest.raises(ValueError, match=message):
        call(network, images)


class TestPanel:
    def test_is_laid_out_as_in_the_paper(self):
        images, maps = torch.rand(4, 3, 8, 12), {"Supervised": torch.rand(4, 8, 12), "SRCL": np.random.rand(4, 8, 12)}  # noqa: NPY002
        figure = saliency_panel(images, maps, ["a", "b", "c", "d"])
        assert len(figure.axes) == 12
        assert [axes.get_title() for axes in figure.axes[:3]] == ["Input", "Supervised", "SRCL"]
        assert [figure.axes[3 * row].get_ylabel() for row in range(4)] == ["a", "b", "c", "d"]
        shown = figure.axes[3].images[0].get_array()
        np.testing.assert_allclose(shown, images[1].permute(1, 2, 0).numpy(), rtol=1e-6)
        np.testing.assert_allclose(figure.axes[4].images[0].get_array(), maps["Supervised"][1].numpy(), rtol=1e-6)
        assert figure.axes[4].images[0].get_clim() == pytest.approx((0, np.percentile(maps["Supervised"][1], 99)))

    def test_normalised_grey_and_byte_images_are_shown_in_their_range(self):
        normalised = torch.tensor([[[-2.0, 0.0], [1.0, 2.0]]])
        figure = saliency_panel(normalised, {"m": torch.zeros(1, 2, 2)})
        np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0, 0.5], [0.75, 1]])
        figure = saliency_panel(np.array([[[0, 255], [51, 102]]], np.uint8), {"m": np.zeros((1, 2, 2))})
        np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0, 1], [0.2, 0.4]])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((torch.rand(2, 3, 4, 4), {}), "no saliency maps to show"),
            (
                (torch.rand(2, 3, 4, 4), {"m": torch.rand(2, 4, 5)}),
                r"'m' have shape \(2, 4, 5\); the images need",
            ),
            ((torch.rand(2, 3, 4, 4), {"m": torch.rand(2, 4, 4)}, ["one"]), "1 titles for 2 images"),
            ((torch.rand(2, 2, 4, 4), {"m": torch.rand(2, 4, 4)}), r"images have shape \(2, 2, 4, 4\); expected"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            saliency_panel(*arguments)

    def test_the_caption_says_what_the_maps_are(self):
        maps = {"Saliency": torch.rand(1, 4, 4), "Grad-CAM": torch.rand(1, 4, 4)}
        figure = saliency_panel(torch.rand(1, 3, 4, 4), maps, caption="What it is")
        assert figure.get_supxlabel() == "What it is"
        assert figure.axes[2].get_title() == "Grad-CAM"
        assert "largest over channels" in saliency_panel(torch.rand(1, 3, 4, 4), maps).get_supxlabel()
