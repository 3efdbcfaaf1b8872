"""SupConLoss against loops over eq. 2, closed forms, invariances, MONAI's NT-Xent and the whole grid of edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.losses import ContrastiveLoss

from medssl_monai.losses import SupConLoss


def loops(features, labels, temperature):
    """Eq. 2 anchor by anchor and positive by positive, mean over anchors."""
    count, views, _ = features.shape
    names = range(count) if labels is None else [("own", n) if y < 0 else y for n, y in enumerate(labels.tolist())]
    items = [(names[n], features[n, v] / features[n, v].norm()) for n in range(count) for v in range(views)]
    total = 0.0
    for i, (label, z) in enumerate(items):
        others = [item for a, item in enumerate(items) if a != i]
        denominator = sum(torch.exp((z * other).sum() / temperature) for _, other in others)
        positives = [other for name, other in others if name == label]
        terms = [torch.log(torch.exp((z * p).sum() / temperature) / denominator) for p in positives]
        total = total - sum(terms) / len(positives)
    return total / len(items)


def draw(count, views=2, width=5, seed=0, dtype=torch.float64):
    return torch.randn(count, views, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("temperature", [0.07, 0.1, 0.5, 5.0])
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("labels", [None, [-1] * 5, [0, 1, 0, -1, -1], [2, 2, 2, 2, 2], [0, 1, 2, 3, 4]])
def test_value_and_gradient_are_those_of_loops_over_eq_2(labels, views, temperature):
    labels = None if labels is None else torch.tensor(labels)
    ours, theirs = (draw(5, views).requires_grad_() for _ in range(2))
    value, expected = SupConLoss(temperature)(ours, labels), loops(theirs, labels, temperature)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    features = draw(3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: SupConLoss(0.2)(f, torch.tensor([0, 0, -1])), features)


def test_without_labels_it_is_nt_xent():
    first, second = draw(8, 2, 16, dtype=torch.float32).unbind(1)
    expected = ContrastiveLoss(temperature=0.5)(first, second)
    features = torch.stack([first, second], 1)
    for labels in (None, torch.full((8,), -1), torch.arange(8)):
        torch.testing.assert_close(SupConLoss(0.5)(features, labels), expected)


@pytest.mark.parametrize("labels", [None, [0] * 6, [0, 0, 1, -1, -1, 2]])
@pytest.mark.parametrize("temperature", [0.005, 0.1, 5.0])
def test_identical_embeddings_give_log_2n_minus_1(labels, temperature):
    features = torch.ones(6, 2, 3, dtype=torch.float64)
    value = SupConLoss(temperature)(features, None if labels is None else torch.tensor(labels))
    assert value.item() == pytest.approx(math.log(11), rel=1e-12)


def test_orthogonal_pairs_have_a_closed_form():
    features = torch.eye(4, dtype=torch.float64)[:, None].repeat(1, 2, 1)
    expected = math.log(math.exp(1 / 0.3) + 6) - 1 / 0.3
    assert SupConLoss(0.3)(features).item() == pytest.approx(expected, rel=1e-12)


def test_an_unlabelled_sample_is_not_a_positive_of_another_unlabelled_one():
    features = draw(4)
    shared = SupConLoss()(features, torch.tensor([0, 1, 5, 5]))
    own = SupConLoss()(features, torch.tensor([0, 1, -1, -1]))
    assert shared.item() != pytest.approx(own.item())
    assert own.item() == pytest.approx(SupConLoss()(features, torch.tensor([0, 1, 2, 3])).item(), rel=1e-12)


batches = st.tuples(st.integers(2, 7), st.integers(2, 3), st.integers(0, 10_000))


@settings(max_examples=25, deadline=None)
@given(batches, st.lists(st.integers(-1, 2), min_size=7, max_size=7), st.sampled_from([0.05, 0.1, 1.0]))
def test_order_of_samples_order_of_views_and_scale_change_nothing(batch, labels, temperature):
    count, views, seed = batch
    features, labels = draw(count, views, seed=seed), torch.tensor(labels[:count])
    loss = SupConLoss(temperature)
    expected = loss(features, labels).item()
    maker = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=maker)
    assert loss(features[order], labels[order]).item() == pytest.approx(expected, rel=1e-9)
    turned = torch.stack([f[torch.randperm(views, generator=maker)] for f in features])
    assert loss(turned, labels).item() == pytest.approx(expected, rel=1e-9)
    scales = torch.exp(5 * torch.randn(count, views, 1, generator=maker, dtype=torch.float64))
    assert loss(features * scales, labels).item() == pytest.approx(expected, rel=1e-9)
    names = torch.where(labels >= 0, 7 - labels, labels)
    assert loss(features, names).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-17, 1e-6, 1e6, 1e30])
def test_scale_of_float32_embeddings_changes_nothing_beyond_its_squares_range(scale):
    features = draw(4, dtype=torch.float32)
    torch.testing.assert_close(SupConLoss()(features * scale), SupConLoss()(features), rtol=1e-5, atol=1e-6)


LABELS = {"none": None, "unlabelled": -1, "one class": 0, "mixed": "mixed"}
KINDS = ("random", "identical", "zero", "one zero row", "opposite", "huge", "tiny")


def edge(kind, count, dtype):
    features = draw(count, dtype=torch.float32)
    if kind == "identical":
        features = torch.ones_like(features)
    elif kind == "zero":
        features = torch.zeros_like(features)
    elif kind == "one zero row":
        features[0, 0] = 0
    elif kind == "opposite":
        features = features[:1] * torch.tensor([1.0, -1.0])[None, :, None].repeat(count, 1, 1)
    elif kind == "huge":
        features = features * 1e4
    elif kind == "tiny":
        features = features * 1e-4
    return features.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.1, 5.0])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_finite_on_the_grid_of_edges(kind, temperature, dtype):
    for count in (2, 5):
        for labels in LABELS.values():
            if labels is not None:
                labels = torch.arange(count) % 2 if labels == "mixed" else torch.full((count,), labels)
            features = edge(kind, count, dtype).requires_grad_()
            value = SupConLoss(temperature)(features, labels)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert math.isfinite(value.item())
            # A gradient of a float16 leaf is stored in float16: tiny embeddings have gradients beyond its range.
            if not (dtype == torch.float16 and kind == "tiny"):
                value.backward()
                assert features.grad.isfinite().all()


def test_a_zero_row_gets_no_gradient_and_the_others_do():
    features = edge("one zero row", 4, torch.float32).requires_grad_()
    SupConLoss()(features).backward()
    assert (features.grad[0, 0] == 0).all()
    assert (features.grad[1:].abs().sum(-1) > 0).all()


def test_not_a_number_stays_visible():
    features = draw(3)
    features[1, 0, 2] = math.nan
    assert SupConLoss()(features).isnan()


def test_autocast_changes_nothing():
    features = draw(6, dtype=torch.float32)
    expected = SupConLoss(0.01)(features, torch.tensor([0, 0, 1, -1, -1, 2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = SupConLoss(0.01)(features, torch.tensor([0, 0, 1, -1, -1, 2]))
    assert torch.equal(value, expected)


def test_half_precision_is_raised_before_anything_is_computed():
    features = draw(6).half()
    assert torch.equal(SupConLoss(0.01)(features), SupConLoss(0.01)(features.float()))


def test_no_tensor_of_all_pairs_times_the_width_is_made():
    count, width = 64, 256
    features = draw(count, width=width, dtype=torch.float32).requires_grad_()
    largest = 0

    def note(tensor):
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SupConLoss()(features)
    assert largest <= max((2 * count) ** 2, 2 * count * width)


def test_meta_tensors_give_a_plain_scalar():
    value = SupConLoss()(MetaTensor(draw(3)), MetaTensor(torch.tensor([0, 0, 1])))
    assert type(value) is torch.Tensor
    assert value.shape == ()


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.rand(4, 5), None, r"expected shape \(N, V, D\).*got \(4, 5\)"),
        (torch.rand(4, 2, 0), None, r"expected shape \(N, V, D\).*got \(4, 2, 0\)"),
        (torch.rand(4, 1, 5), None, r"expected at least 2 views of each sample, got 1"),
        (torch.rand(1, 2, 5), None, r"one pair has no negatives; .* at least 2 samples, got shape \(1, 2, 5\)"),
        (torch.ones(4, 2, 5, dtype=torch.long), None, r"expected a floating-point tensor, got torch.int64"),
        ([[1.0]], None, r"features: expected a tensor, got list"),
        (torch.rand(4, 2, 5), torch.zeros(3, dtype=torch.long), r"labels: expected shape \(4,\).*got \(3,\)"),
        (torch.rand(4, 2, 5), torch.zeros(4, 1, dtype=torch.long), r"labels: expected shape \(4,\).*got \(4, 1\)"),
        (torch.rand(4, 2, 5), torch.zeros(4), r"labels: expected integer class indices, got torch.float32"),
        (torch.rand(4, 2, 5), torch.zeros(4, dtype=torch.bool), r"expected integer class indices, got torch.bool"),
        (torch.rand(4, 2, 5), torch.tensor([0, 1, -2, 0]), r"from 0, or -1 for unlabelled, got -2"),
        (torch.rand(4, 2, 5), [0, 1, 1, 0], r"labels: expected a tensor, got list"),
    ],
)
def test_wrong_input_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        SupConLoss()(features, labels)


@pytest.mark.parametrize("temperature", [0, -0.1, math.nan, math.inf, True, "0.1", None])
def test_wrong_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature: expected a finite number above 0, got"):
        SupConLoss(temperature)


def test_repr_names_the_temperature():
    assert repr(SupConLoss(0.25)) == "SupConLoss(temperature=0.25)"
