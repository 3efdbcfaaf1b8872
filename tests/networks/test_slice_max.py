"""SliceMaxClassifier against loops over draws and slices, compiled, chunked, and its errors."""

import io
import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from medssl_monai.core import draw_slices
from medssl_monai.handlers import EmbeddingHook
from medssl_monai.networks import SliceMaxClassifier


def small(start=0, **kwargs):
    torch.manual_seed(start)
    return SliceMaxClassifier(**{"backbone": "resnet18", "width": 0.125, **kwargs})


def volume(slices=24, count=2, channels=1, size=32, dtype=torch.float32):
    maker = torch.Generator().manual_seed(slices)
    return torch.rand(count, channels, size, size, slices, generator=maker, dtype=dtype)


def by_loops(net, x, draws):
    """Largest features (draws, N, F) and logits, slice by slice and case by case, in NumPy."""
    with torch.no_grad():
        encoded = np.stack([net.encoder(x[..., s]).numpy() for s in range(x.shape[-1])])  # (S, N, F)
    largest = np.empty((len(draws), x.shape[0], encoded.shape[-1]))
    for number, draw in enumerate(draws):
        for case in range(x.shape[0]):
            largest[number, case] = np.max([encoded[position, case] for position in draw], axis=0)
    weight, bias = (part.detach().numpy() for part in (net.classifier.weight, net.classifier.bias))
    return largest, largest @ weight.T + bias


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
@pytest.mark.parametrize("slices", [17, 24, 61])
def test_evaluation_averages_the_probabilities_of_the_draws(task, slices):
    net = small(num_classes=3, task=task, num_draws=5, seed=4).double().eval()
    x = volume(slices, dtype=torch.float64)
    draws = draw_slices(slices, 16, 5, seed=4).tolist()
    assert len({tuple(draw) for draw in draws}) > 1
    largest, logits = by_loops(net, x, draws)
    probabilities = softmax(logits, axis=-1) if task == "multiclass" else expit(logits)
    with torch.no_grad():
        found = net(x)
        served = found.softmax(-1) if task == "multiclass" else found.sigmoid()
    np.testing.assert_allclose(served, probabilities.mean(0), rtol=1e-9)
    np.testing.assert_allclose(net.features(x).detach(), largest.mean(0), rtol=1e-9)
    # the mean of probabilities is not the probability of the mean logit
    assert not np.allclose(found, logits.mean(0), rtol=1e-9)


@pytest.mark.parametrize("slices", [1, 9, 16])
def test_small_volumes_are_used_as_a_whole(slices):
    net, x = small(num_classes=2).eval(), volume(slices)
    largest, logits = by_loops(net, x, [range(slices)])
    np.testing.assert_allclose(net(x).detach(), logits[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.features(x).detach(), largest[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net.classify(net.features(x)), net(x))


def test_training_uses_the_slices_it_is_given_in_one_pass():
    net, x = small(num_slices=4, slice_chunk=1).train(), volume(6)
    seen = []
    net.encoder.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    logits = net(x)
    assert [tuple(part.shape) for part in seen] == [(12, 1, 32, 32)]
    assert torch.equal(seen[0].reshape(6, 2, 1, 32, 32), x.permute(4, 0, 1, 2, 3))
    logits.sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in net.parameters())


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_the_compiled_net_gives_the_same(task):
    net, stream = small(num_classes=3, task=task, slice_chunk=7, seed=11).eval(), io.BytesIO()
    torch.jit.save(torch.jit.script(net), stream)
    stream.seek(0)
    loaded = torch.jit.load(stream)
    for slices in (1, 7, 16, 17, 24, 45):
        x = volume(slices)
        torch.testing.assert_close(loaded(x), net(x))
        torch.testing.assert_close(loaded.features(x), net.features(x))
        torch.testing.assert_close(loaded.classify(net.features(x)), net.classify(net.features(x)))
    with pytest.raises(torch.jit.Error, match=r"expected shape \(N, 1, H, W, S\) with S slices, got \[2, 1, 32, 32\]"):
        loaded(volume()[..., 0])


@pytest.mark.parametrize("chunk", [1, 3, 16, 1000])
def test_chunks_bound_what_is_encoded_at_once_and_change_nothing(chunk):
    net, x = small(slice_chunk=chunk).eval(), volume(40)
    sizes = []
    net.encoder.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    found = net(x)
    needed = len(np.unique(draw_slices(40, 16, 8)))
    assert sum(sizes) == 2 * needed  # each once
    assert max(sizes) <= max(chunk, 2)  # a slice of each volume is the least
    torch.testing.assert_close(found, small(slice_chunk=10_000).eval()(x))


def test_it_is_a_function_of_its_input():
    net, x = small().eval(), volume(40)
    first = net(x)
    torch.manual_seed(99)
    assert torch.equal(net(x), first)
    torch.testing.assert_close(net(x[:1]), first[:1])  # and not of the batch
    assert not torch.allclose(small(seed=1).eval()(x), first, rtol=1e-6, atol=0)
    assert not torch.allclose(small(num_draws=1).eval()(x), first, rtol=1e-6, atol=0)


def test_extreme_logits_stay_finite():
    net, x = small(num_classes=2).eval(), volume(40)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(torch.tensor([300.0, -300.0]))
    torch.testing.assert_close(net(x), torch.tensor([[300.0, -300.0]] * 2))
    net = small(num_classes=2, task="multiclass").eval()
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.copy_(torch.tensor([300.0, -300.0]))
    torch.testing.assert_close(net(x), torch.tensor([[0.0, -600.0]] * 2))


def test_half_precision_averages_in_single():
    net, x = small(num_classes=2).eval(), volume(40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, net(x), rtol=0.05, atol=0.05)


def test_a_hook_finds_one_embedding_a_volume():
    net, x = small().eval(), volume(40)
    hook = EmbeddingHook(net, "pooled")
    hook.start()
    net(x)
    taken = hook.take(2)
    hook.stop()
    torch.testing.assert_close(taken, net.features(x))


def test_a_trace_holds_for_its_number_of_slices_and_warns():
    net, x = small(slice_chunk=1000).eval(), volume(20, count=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        traced = torch.jit.trace(net, x, check_trace=False)
    assert any(issubclass(entry.category, torch.jit.TracerWarning) for entry in caught)
    torch.testing.assert_close(traced(x + 0.1), net(x + 0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, r"num_classes: expected at least 1, got 0"),
        ({"num_slices": 0}, r"num_slices: expected at least 1, got 0"),
        ({"num_draws": 0}, r"num_draws: expected at least 1, got 0"),
        ({"slice_chunk": 0}, r"slice_chunk: expected at least 1, got 0"),
        ({"task": "multi"}, r"task: unknown task 'multi'. Did you mean 'multiclass'\?|Did you mean 'multilabel'\?"),
        ({"task": "binary", "num_classes": 2}, r"num_classes: expected 1 for a binary task, got 2"),
        ({"task": "multiclass"}, r"num_classes: expected 2 or more for a multiclass task, got 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_wrong_volumes_are_refused():
    with pytest.raises(ValueError, match=r"expected shape \(N, 1, H, W, S\) with S slices, got \[2, 1, 32, 32, 0\]"):
        small().eval()(volume()[..., :0])
    with pytest.raises(ValueError, match=r"expected shape \(N, 1, H, W\) for in_channels=1, got"):
        small().eval()(volume(channels=3))
