"""The losses of two views against loops over pairs in float64, closed forms, invariances and a grid of edges."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.losses import ContrastiveLoss

from medssl_monai.losses import (
    BinaryContrastiveLoss,
    ComboContrastiveLoss,
    DCLLoss,
    DCLWLoss,
    DySTreSSLoss,
    EuclideanInfoNCELoss,
    MIOLoss,
    NTXentLoss,
    SupConLoss,
    _pairs,
    contrastive_loss,
)


def draw(count, width=4, seed=0, dtype=torch.float64):
    pair = torch.randn(2, count, width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return pair[0], pair[1]


# ---- the equations, pair by pair ----------------------------------------------------------------------------------


class Batch:
    """The 2N embeddings in a row, their cosines and distances, and who is whose positive."""

    def __init__(self, z1, z2):
        self.raw = [*z1, *z2]
        self.unit = [z / z.norm() if z.detach().norm() > 0 else z * 0 for z in self.raw]
        self.count = len(self.raw)

    def cosine(self, i, j):
        return (self.unit[i] * self.unit[j]).sum()

    def partner(self, i):
        return (i + self.count // 2) % self.count

    def others(self, i):
        return [j for j in range(self.count) if j != i]

    def negatives(self, i):
        return [j for j in range(self.count) if j not in (i, self.partner(i))]

    def positive_pairs(self):
        return [(i, self.partner(i)) for i in range(self.count)]

    def negative_pairs(self):
        return [(i, j) for i in range(self.count) for j in self.negatives(i)]


def sigma(x):
    return 1 / (1 + torch.exp(-x))


def mean(terms):
    return sum(terms) / len(terms)


def info_nce(batch, logit):
    return mean(
        [
            -logit(i, batch.partner(i)) + torch.log(sum(torch.exp(logit(i, a)) for a in batch.others(i)))
            for i in range(batch.count)
        ]
    )


def nt_xent(z1, z2, t=0.1):
    batch = Batch(z1, z2)
    return info_nce(batch, lambda i, j: batch.cosine(i, j) / t)


def dcl(z1, z2, t=0.1, weights=None):
    batch = Batch(z1, z2)
    weights = [1.0] * batch.count if weights is None else [*weights, *weights]
    return mean(
        [
            -weights[i] * batch.cosine(i, batch.partner(i)) / t
            + torch.log(sum(torch.exp(batch.cosine(i, a) / t) for a in batch.negatives(i)))
            for i in range(batch.count)
        ]
    )


def dclw(z1, z2, t=0.1, s=0.5, detach=False):
    batch = Batch(z1, z2)
    likeness = [torch.exp(batch.cosine(i, batch.partner(i)) / s) for i in range(batch.count // 2)]
    weights = [2 - e / mean(likeness) for e in likeness]
    return dcl(z1, z2, t, [w.detach() if detach else w for w in weights])


def binary(z1, z2, t=0.25, positive=None, negative=None):
    """Eq. 4.14, or with other divisors of the two sums."""
    batch = Batch(z1, z2)
    all_pairs = batch.count**2
    return -sum(torch.log(sigma(batch.cosine(*p) / t)) for p in batch.positive_pairs()) / (positive or all_pairs) - sum(
        torch.log(1 - sigma(batch.cosine(*p) / t)) for p in batch.negative_pairs()
    ) / (negative or all_pairs)


def euclidean(z1, z2, t=0.33, normalize=True):
    batch = Batch(z1, z2)
    z = batch.unit if normalize else batch.raw
    return info_nce(batch, lambda i, j: -((z[i] - z[j]) ** 2).sum() / t)


def combo(z1, z2, t=0.25, tc=0.33, average="expectations"):
    m = 2 * len(z1)
    divisors = (m, m * (m - 2)) if average == "expectations" else (m * m, m * m)
    return binary(z1, z2, t, *divisors) + euclidean(z1, z2, tc)


def mio(z1, z2, version=3, t=0.2):
    batch = Batch(z1, z2)
    positives = [batch.cosine(*p) / t for p in batch.positive_pairs()]
    negatives = [batch.cosine(*p) / t for p in batch.negative_pairs()]
    if version == 1:
        return -mean([torch.log(sigma(p)) for p in positives]) - mean([torch.log(1 - sigma(n)) for n in negatives])
    if version == 2:
        return -mean(positives) + mean([torch.log(1 + torch.exp(n)) for n in negatives])
    return -mean(positives) + mean([torch.exp(n) for n in negatives])


def tau(c, low, high, profile, shift, scale):
    """Eq. 6.16, the linear and the exponential profile, or algorithm 6.1 line by line."""
    if shift is not None:
        if (shift <= 0 and c <= -shift) or (shift >= 0 and c >= -shift):
            return low + (high - low) / 2 * (1 + torch.cos(math.pi / scale * (shift + c)))
        return torch.full_like(c, high)
    if profile == "cosine":
        return low + 0.5 * (high - low) * (1 + torch.cos(math.pi * (1 + c)))
    size = c if c >= 0 else -c
    return low + (high - low) * (size if profile == "linear" else (torch.exp(size) - 1) / (math.e - 1))


def dystress(z1, z2, low=0.1, high=0.2, profile="cosine", shift=None, scale=None, detach=True):
    batch = Batch(z1, z2)

    def logit(i, j):
        c = batch.cosine(i, j)
        t = tau(c, low, high, profile, shift, scale)
        return c / (t.detach() if detach else t)

    return info_nce(batch, logit)


CASES = {
    "nt_xent": (NTXentLoss(), nt_xent),
    "nt_xent 0.5": (NTXentLoss(0.5), lambda a, b: nt_xent(a, b, 0.5)),
    "nt_xent 0.01": (NTXentLoss(0.01), lambda a, b: nt_xent(a, b, 0.01)),
    "nt_xent by logarithms": (NTXentLoss(0.003), lambda a, b: nt_xent(a, b, 0.003)),
    "dcl": (DCLLoss(), dcl),
    "dcl 5": (DCLLoss(5.0), lambda a, b: dcl(a, b, 5.0)),
    "dcl by logarithms": (DCLLoss(0.003), lambda a, b: dcl(a, b, 0.003)),
    "dclw": (DCLWLoss(), dclw),
    "dclw 0.2 0.3": (DCLWLoss(0.2, sigma=0.3), lambda a, b: dclw(a, b, 0.2, 0.3)),
    "dclw detached": (DCLWLoss(detach_weights=True), lambda a, b: dclw(a, b, detach=True)),
    "binary": (BinaryContrastiveLoss(), binary),
    "binary 1": (BinaryContrastiveLoss(1.0), lambda a, b: binary(a, b, 1.0)),
    "euclidean": (EuclideanInfoNCELoss(), euclidean),
    "euclidean 0.05": (EuclideanInfoNCELoss(0.05), lambda a, b: euclidean(a, b, 0.05)),
    "euclidean raw": (EuclideanInfoNCELoss(normalize=False), lambda a, b: euclidean(a, b, 0.33, False)),
    "combo": (ComboContrastiveLoss(), combo),
    "combo 0.5 0.1": (ComboContrastiveLoss(0.5, 0.1), lambda a, b: combo(a, b, 0.5, 0.1)),
    "combo pairs": (ComboContrastiveLoss(average="pairs"), lambda a, b: combo(a, b, average="pairs")),
    "mio 1": (MIOLoss(1), lambda a, b: mio(a, b, 1)),
    "mio 2": (MIOLoss(2), lambda a, b: mio(a, b, 2)),
    "mio 3": (MIOLoss(), mio),
    "mio 3 0.05": (MIOLoss(3, 0.05), lambda a, b: mio(a, b, 3, 0.05)),
    "mio 3 by logarithms": (MIOLoss(3, 0.003), lambda a, b: mio(a, b, 3, 0.003)),
    "dystress": (DySTreSSLoss(), dystress),
    "dystress differentiated": (
        DySTreSSLoss(detach_temperature=False),
        lambda a, b: dystress(a, b, detach=False),
    ),
    "dystress by logarithms": (DySTreSSLoss(0.003, 0.2), lambda a, b: dystress(a, b, 0.003, 0.2)),
    "dystress constant": (DySTreSSLoss(0.1, 0.1), lambda a, b: nt_xent(a, b, 0.1)),
}
for _profile, _shift, _scale in [
    ("linear", None, None),
    ("exponential", None, None),
    ("cosine", -0.4, 0.7),
    ("cosine", 0.2, 0.6),
    ("cosine", 0.0, 0.5),
]:
    for _detach in (True, False):
        CASES[f"dystress {_profile} {_shift} {_detach}"] = (
            DySTreSSLoss(0.07, 0.3, _profile, _shift, _scale, _detach),
            lambda a, b, p=_profile, s=_shift, k=_scale, d=_detach: dystress(a, b, 0.07, 0.3, p, s, k, d),
        )

each_case = pytest.mark.parametrize("name", CASES)


def value_and_gradients(function, z1, z2):
    leaves = [z.clone().requires_grad_() for z in (z1, z2)]
    value = function(*leaves)
    value.backward()
    return value.detach(), torch.stack([leaf.grad for leaf in leaves])


@each_case
def test_value_and_gradients_are_those_of_loops_over_pairs(name):
    loss, loops = CASES[name]
    for count in (2, 5):
        z1, z2 = draw(count, seed=count)
        z1, z2 = 3 * z1, z2 / 2
        value, gradients = value_and_gradients(loss, z1, z2)
        expected, theirs = value_and_gradients(loops, z1, z2)
        assert value.dtype == torch.float64
        assert value.shape == ()
        assert value.item() == pytest.approx(expected.item(), rel=1e-9)
        torch.testing.assert_close(gradients, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


#: not differentiable by finite differences: constants that are none, a jump of algorithm 6.1, values of 1e100
EXACT = [n for n in CASES if "logarithms" not in n and ("dystress" not in n or "False" in n or "differentiated" in n)]


@pytest.mark.parametrize("name", [n for n in EXACT if n not in ("dclw detached", "mio 3 0.05")])
def test_gradcheck(name):
    leaves = [z.requires_grad_() for z in draw(3, 3, seed=2)]
    assert torch.autograd.gradcheck(CASES[name][0], leaves)


@each_case
def test_a_view_without_gradient_gets_none(name):
    z1, z2 = draw(4)
    expected = value_and_gradients(CASES[name][0], z1, z2)[1][0]
    leaf = z1.clone().requires_grad_()
    CASES[name][0](leaf, z2).backward()
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-12, atol=0)
    assert not CASES[name][0](z1, z2).requires_grad
    with torch.no_grad():
        assert not CASES[name][0](leaf, z2).requires_grad


# ---- blocks and chunks --------------------------------------------------------------------------------------------


def with_chunk(loss, chunk_size):
    other = copy.deepcopy(loss)
    other.chunk_size = chunk_size
    return other


@each_case
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 13])
def test_chunks_change_nothing(name, chunk_size):
    z1, z2 = draw(7)
    loss = CASES[name][0]
    value, gradients = value_and_gradients(loss, z1, z2)
    chunked, theirs = value_and_gradients(with_chunk(loss, chunk_size), z1, z2)
    assert chunked.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(theirs, gradients, rtol=1e-9, atol=1e-11 * gradients.abs().max().item())


@each_case
@pytest.mark.parametrize("rows", [3, 8])
def test_blocks_of_the_whole_matrix_change_nothing(name, rows, monkeypatch):
    z1, z2 = draw(7)
    value, gradients = value_and_gradients(CASES[name][0], z1, z2)
    monkeypatch.setattr(_pairs, "_BLOCK_ROWS", rows)
    blocked, theirs = value_and_gradients(CASES[name][0], z1, z2)
    assert blocked.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(theirs, gradients, rtol=1e-9, atol=1e-11 * gradients.abs().max().item())


@pytest.mark.parametrize("name", ["nt_xent", "binary", "combo", "mio 3", "dystress"])
def test_chunks_in_float32_of_a_batch_of_several_blocks(name):
    z1, z2 = draw(301, 32, dtype=torch.float32)
    loss = CASES[name][0]
    value, gradients = value_and_gradients(loss, z1, z2)
    chunked, theirs = value_and_gradients(with_chunk(loss, 100), z1, z2)
    torch.testing.assert_close(chunked, value, rtol=1e-6, atol=0)
    torch.testing.assert_close(theirs, gradients, rtol=1e-5, atol=1e-6 * gradients.abs().max().item())


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Number of elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("name", ["nt_xent", "dcl", "binary", "combo", "mio 3", "dystress", "euclidean raw"])
def test_no_tensor_is_larger_than_the_chunk_of_the_matrix(name):
    count, width, chunk_size = 100, 8, 10
    z1, z2 = draw(count, width)
    for chunk, most in ((chunk_size, max(chunk_size, width) * 2 * count), (None, (2 * count) ** 2)):
        with Largest() as largest:
            value_and_gradients(with_chunk(CASES[name][0], chunk), z1, z2)
        assert 0 < largest.elements <= most


# ---- closed forms and relations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.005, 0.1, 5.0])
def test_identical_embeddings_have_closed_forms(temperature):
    z = torch.ones(6, 3, dtype=torch.float64)
    t = temperature
    assert NTXentLoss(t)(z, z).item() == pytest.approx(math.log(11), rel=1e-12)
    assert EuclideanInfoNCELoss(t)(z, z).item() == pytest.approx(math.log(11), rel=1e-12)
    assert DCLLoss(t)(z, z).item() == pytest.approx(math.log(10), rel=1e-12)
    assert DCLWLoss(t)(z, z).item() == pytest.approx(math.log(10), rel=1e-12)
    assert DySTreSSLoss(t, 2 * t)(z, z).item() == pytest.approx(math.log(11), rel=1e-12)
    assert MIOLoss(3, t)(z, z).item() == pytest.approx(math.exp(1 / t) - 1 / t, rel=1e-11)
    softplus = 1 / t + math.log1p(math.exp(-1 / t))
    assert MIOLoss(2, t)(z, z).item() == pytest.approx(softplus - 1 / t, rel=1e-9, abs=1e-13)
    assert MIOLoss(1, t)(z, z).item() == pytest.approx(2 * softplus - 1 / t, rel=1e-12)
    expected = ((144 - 24) * softplus + 12 * (softplus - 1 / t)) / 144
    assert BinaryContrastiveLoss(t)(z, z).item() == pytest.approx(expected, rel=1e-12)


def test_orthogonal_pairs_have_closed_forms():
    z = torch.eye(4, dtype=torch.float64)
    assert NTXentLoss(0.3)(z, z).item() == pytest.approx(math.log(math.exp(1 / 0.3) + 6) - 1 / 0.3, rel=1e-12)
    assert MIOLoss(3, 0.5)(z, z).item() == pytest.approx(1 - 2, rel=1e-12)
    expected = (48 * math.log(2) + 8 * math.log1p(math.exp(-4))) / 64
    assert BinaryContrastiveLoss(0.25)(z, z).item() == pytest.approx(expected, rel=1e-12)
    # every negative has the lowest temperature, the positives the highest
    assert DySTreSSLoss()(z, z).item() == pytest.approx(math.log(math.exp(5) + 6) - 5, rel=1e-12)


def test_nt_xent_is_monais_and_supcon_without_labels():
    z1, z2 = draw(8, 16, dtype=torch.float32)
    torch.testing.assert_close(NTXentLoss(0.5)(z1, z2), ContrastiveLoss(temperature=0.5)(z1, z2))
    torch.testing.assert_close(NTXentLoss(0.1)(z1, z2), SupConLoss(0.1)(torch.stack([z1, z2], 1)))


@pytest.mark.parametrize("temperature", [0.005, 0.33, 5.0])
def test_euclidean_info_nce_is_nt_xent_at_half_the_temperature_on_unit_vectors(temperature):
    unit = [torch.nn.functional.normalize(z) for z in draw(6)]
    expected, gradients = value_and_gradients(NTXentLoss(temperature / 2), *unit)
    value, theirs = value_and_gradients(EuclideanInfoNCELoss(temperature), *unit)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(theirs, gradients, rtol=1e-9, atol=1e-10)
    raw = EuclideanInfoNCELoss(temperature, normalize=False)(*unit)
    assert raw.item() == pytest.approx(expected.item(), rel=1e-9)


def test_raw_distances_keep_their_precision_far_from_the_origin():
    z1, z2 = draw(5, dtype=torch.float32)
    loss = EuclideanInfoNCELoss(normalize=False)
    torch.testing.assert_close(loss(z1 + 1000, z2 + 1000), loss(z1, z2), rtol=1e-3, atol=1e-3)


def test_mio_versions_differ_as_eq_5_17_says():
    z1, z2 = draw(5)
    cosine = torch.nn.functional.cosine_similarity(z1, z2)
    repulsion = torch.log1p(torch.exp(cosine / 0.2)).mean()
    assert (MIOLoss(1)(z1, z2) - MIOLoss(2)(z1, z2)).item() == pytest.approx(repulsion.item(), rel=1e-9)
    assert MIOLoss(3)(z1, z2) > MIOLoss(2)(z1, z2)  # eq. 5.19


def test_weights_of_dclw_lower_the_pull_of_pairs_already_alike():
    z1, z2 = draw(4)
    z2[0] = z1[0] + 0.01 * z2[0]
    plain = value_and_gradients(DCLLoss(), z1, z2)[0]
    weighted = value_and_gradients(DCLWLoss(), z1, z2)[0]
    assert weighted > plain


# ---- invariances --------------------------------------------------------------------------------------------------

LOSSES = {name: CASES[name][0] for name in ("nt_xent", "dcl", "dclw", "binary", "combo", "mio 1", "mio 2", "mio 3")}
LOSSES |= {"euclidean": CASES["euclidean"][0], "dystress": CASES["dystress"][0]}
LOSSES |= {"shifted": DySTreSSLoss(0.07, 0.2, "cosine", -0.4, 0.7)}
each_loss = pytest.mark.parametrize("name", LOSSES)


@each_loss
@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 9), seed=st.integers(0, 10_000))
def test_order_of_samples_order_of_views_and_scale_change_nothing(name, count, seed):
    loss, (z1, z2) = LOSSES[name], draw(count, seed=seed)
    expected = pytest.approx(loss(z1, z2).item(), rel=1e-9)
    maker = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=maker)
    assert loss(z1[order], z2[order]).item() == expected
    assert loss(z2, z1).item() == expected
    swapped = torch.rand(count, 1, generator=maker) < 0.5
    assert loss(torch.where(swapped, z2, z1), torch.where(swapped, z1, z2)).item() == expected
    scales = torch.exp(5 * torch.randn(2, count, 1, generator=maker, dtype=torch.float64))
    assert loss(z1 * scales[0], z2 * scales[1]).item() == expected
    turn = torch.linalg.qr(torch.randn(4, 4, generator=maker, dtype=torch.float64))[0]
    assert loss(z1 @ turn, z2 @ turn).item() == expected


@each_loss
def test_pairing_matters(name):
    z1, z2 = draw(5)
    assert LOSSES[name](z1, z2.roll(1, 0)).item() != pytest.approx(LOSSES[name](z1, z2).item(), rel=1e-5)


@each_loss
def test_gradients_are_tangent_and_shrink_with_the_scale(name):
    z1, z2 = draw(5)
    gradients = value_and_gradients(LOSSES[name], z1, z2)[1]
    assert (gradients * torch.stack([z1, z2])).sum(-1).abs().max() < 1e-12
    scaled = value_and_gradients(LOSSES[name], 4 * z1, 4 * z2)[1]
    torch.testing.assert_close(scaled * 4, gradients)


# ---- precision ----------------------------------------------------------------------------------------------------

KINDS = ("random", "identical", "zero", "one zero row", "opposite", "huge", "tiny")
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def at(name, temperature):
    high = 2 * temperature
    return {
        "nt_xent": lambda: NTXentLoss(temperature),
        "dcl": lambda: DCLLoss(temperature),
        "dclw": lambda: DCLWLoss(temperature, sigma=temperature),
        "binary": lambda: BinaryContrastiveLoss(temperature),
        "euclidean": lambda: EuclideanInfoNCELoss(temperature),
        "combo": lambda: ComboContrastiveLoss(temperature, temperature),
        "mio 1": lambda: MIOLoss(1, temperature),
        "mio 2": lambda: MIOLoss(2, temperature),
        "mio 3": lambda: MIOLoss(3, temperature),
        "dystress": lambda: DySTreSSLoss(temperature, high),
        "shifted": lambda: DySTreSSLoss(temperature, high, "cosine", -0.4, 0.7, detach_temperature=False),
    }[name]()


def edge(kind, count, dtype):
    z1, z2 = draw(count, dtype=torch.float32)
    if kind == "identical":
        z1, z2 = torch.ones_like(z1), torch.ones_like(z2)
    elif kind == "zero":
        z1, z2 = torch.zeros_like(z1), torch.zeros_like(z2)
    elif kind == "one zero row":
        z1[0] = 0
    elif kind == "opposite":
        z1, z2 = z1[:1].repeat(count, 1), -z1[:1].repeat(count, 1)
    elif kind in ("huge", "tiny"):
        z1, z2 = (z * (1e4 if kind == "huge" else 1e-4) for z in (z1, z2))
    return z1.to(dtype), z2.to(dtype)


@each_loss
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.005, 0.01, 0.1, 5.0])
def test_value_and_gradients_are_finite_on_the_grid_of_edges(name, temperature, dtype):
    loss = at(name, temperature)
    for kind in KINDS:
        for count in (2, 5):
            z1, z2 = edge(kind, count, dtype)
            value, gradients = value_and_gradients(loss, z1, z2)
            assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert not gradients.isnan().any(), kind
            # Version 3 grows like exp(1 / t); a gradient of a float16 leaf is stored in float16.
            if name == "mio 3" and temperature <= 0.01:
                exact = loss(z1.double(), z2.double())
                assert math.isfinite(value) == (exact.item() < torch.finfo(value.dtype).max), kind
            else:
                assert math.isfinite(value), kind
                if not (dtype == torch.float16 and kind in ("tiny", "opposite")):
                    assert gradients.isfinite().all(), kind


@each_loss
@pytest.mark.parametrize("temperature", [0.02, 0.1, 5.0])
def test_float32_is_float64_to_its_precision(name, temperature):
    z1, z2 = draw(40, 16, dtype=torch.float32)
    loss = at(name, temperature)
    value, gradients = value_and_gradients(loss, z1, z2)
    expected, theirs = value_and_gradients(loss, z1.double(), z2.double())
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(gradients.double(), theirs, rtol=1e-3, atol=3e-5 * theirs.abs().max().item())


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_does_not_lower_the_precision(name, dtype):
    z1, z2 = draw(6, dtype=torch.float32)
    expected, gradients = value_and_gradients(LOSSES[name], z1, z2)
    with torch.autocast("cpu", dtype=dtype):
        value, theirs = value_and_gradients(LOSSES[name], z1, z2)
    assert torch.equal(value, expected)
    assert torch.equal(theirs, gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_mio_3_beyond_the_range_is_infinite_or_right(dtype):
    temperature = 0.005 if dtype == torch.float32 else 0.0012
    z1, z2 = (z.to(dtype) for z in draw(4))
    loss = MIOLoss(3, temperature)
    z1[1] = z1[0]  # two samples alike: cosine 1, and exp(1 / t) is beyond the range
    value, gradients = value_and_gradients(loss, z1, z2)
    assert value.item() == math.inf
    assert not gradients.isnan().any()
    z1, z2 = torch.eye(4, 4, dtype=dtype), torch.eye(4, 4, dtype=dtype)
    z1[0, 1] = 0.3  # a cosine of 0.287: large, but in range
    z1 *= torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=dtype)
    value, gradients = value_and_gradients(loss, z1, z2)
    count = 4 * 16 - 16
    cosine = 0.3 / math.sqrt(1.09)
    pairs = 4 * math.exp(cosine / temperature) + (count - 4)
    expected = pairs / count - (3 + 1 / math.sqrt(1.09)) / 4 / temperature
    assert value.item() == pytest.approx(expected, rel=1e-4 if dtype == torch.float32 else 1e-9)
    theirs = value_and_gradients(lambda a, b: mio(a, b, 3, temperature), z1.double(), z2.double())[1]
    close = 1e-3 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(gradients.double(), theirs, rtol=close, atol=1e-6 * float(theirs.abs().max()) * close)


def test_mio_3_beyond_the_range_with_no_weight_has_no_gradient():
    z1, z2 = (torch.ones(3, 2).requires_grad_() for _ in range(2))
    z = torch.tensor([[1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    (0.0 * MIOLoss(3, 0.005)(z1 * z, z2 * z)).backward()
    assert torch.equal(z1.grad, torch.zeros(3, 2))


@each_loss
@pytest.mark.parametrize("scale", [1e-17, 1e-6, 1e6, 1e30])
def test_scale_of_float32_embeddings_changes_nothing_beyond_its_squares_range(name, scale):
    z1, z2 = draw(4, dtype=torch.float32)
    torch.testing.assert_close(LOSSES[name](z1 * scale, z2 * scale), LOSSES[name](z1, z2), rtol=1e-5, atol=1e-5)


@each_loss
def test_a_zero_row_has_cosine_0_and_gets_no_gradient(name):
    z1, z2 = draw(4)
    z1[0] = 0
    loss = LOSSES[name]
    value, gradients = value_and_gradients(loss, z1, z2)
    if name in CASES:
        assert value.item() == pytest.approx(CASES[name][1](z1, z2).item(), rel=1e-9)
    assert torch.equal(gradients[0, 0], torch.zeros(4, dtype=torch.float64))
    assert gradients[1].abs().amax(dim=1).min() > 0


@each_loss
def test_not_a_number_stays_visible(name):
    z1, z2 = draw(4)
    z1[1, 2] = math.nan
    assert math.isnan(LOSSES[name](z1, z2))


# ---- use ----------------------------------------------------------------------------------------------------------


@each_loss
def test_gradients_are_scaled_and_added_as_any(name):
    z1, z2 = draw(4)
    gradients = value_and_gradients(LOSSES[name], z1, z2)[1]
    twice = value_and_gradients(lambda a, b: 1.5 * LOSSES[name](a, b) + 0.5 * LOSSES[name](a, b), z1, z2)[1]
    torch.testing.assert_close(twice, 2 * gradients)
    joint = torch.cat([z1, z2], dim=1).requires_grad_()
    LOSSES[name](joint[:, :4], joint[:, 4:]).backward()
    torch.testing.assert_close(joint.grad, torch.cat([*gradients], dim=1))


def test_second_derivatives_are_refused():
    leaves = [z.requires_grad_() for z in draw(3)]
    with pytest.raises(RuntimeError, match="can be differentiated once only; call backward without create_graph"):
        torch.autograd.grad(NTXentLoss()(*leaves), leaves, create_graph=True)


@each_loss
def test_metadata_of_monai_tensors_is_left_behind(name):
    z1, z2 = draw(4)
    value = LOSSES[name](MetaTensor(z1), MetaTensor(z2))
    assert type(value) is torch.Tensor
    assert torch.equal(value, LOSSES[name](z1, z2))


@each_loss
def test_copies_and_pickles(name):
    z1, z2 = draw(4)
    LOSSES[name](z1, z2)
    again = pickle.loads(pickle.dumps(LOSSES[name]))
    assert torch.equal(again(z1, z2), LOSSES[name](z1, z2))
    assert not list(LOSSES[name].parameters())


@each_loss
def test_mixed_precision_of_the_views_is_raised_to_float32(name):
    z1, z2 = draw(4, dtype=torch.float32)
    value = LOSSES[name](z1.bfloat16(), z2)
    assert value.dtype == torch.float32
    assert torch.equal(value, LOSSES[name](z1.bfloat16().float(), z2))


@each_loss
@pytest.mark.parametrize(
    ("z1", "z2", "message"),
    [
        (torch.ones(1, 4), torch.ones(1, 4), r"one pair has no negatives; expected at least 2 .* got shape \(1, 4\)"),
        (torch.ones(3, 4), torch.ones(2, 4), r"expected two views of one shape, got \(3, 4\) and \(2, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 5), r"expected two views of one shape, got \(3, 4\) and \(3, 5\)"),
        (torch.ones(3), torch.ones(3), r"z1: expected shape \(N, D\) = \(samples, embedding\), got \(3,\)"),
        (torch.ones(3, 2, 2), torch.ones(3, 2, 2), r"z1: expected shape \(N, D\).*got \(3, 2, 2\)"),
        (torch.ones(0, 4), torch.ones(0, 4), r"z1: expected shape \(N, D\).*got \(0, 4\)"),
        (torch.ones(3, 0), torch.ones(3, 0), r"z1: expected shape \(N, D\).*got \(3, 0\)"),
        (torch.ones(3, 4).int(), torch.ones(3, 4), "z1: expected a floating-point tensor, got torch.int32"),
        (torch.ones(3, 4), [[1.0]], "z2: expected a tensor, got list"),
        (torch.ones(3, 4), torch.ones(3, 4).double(), "expected one dtype, got torch.float32 and torch.float64"),
    ],
)  # fmt: skip
def test_unusable_views_are_refused(name, z1, z2, message):
    with pytest.raises(ValueError, match=message):
        LOSSES[name](z1, z2)


@pytest.mark.parametrize("value", [0, -0.1, math.inf, math.nan, "0.1", None, True])
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (NTXentLoss, ["temperature"]),
        (DCLLoss, ["temperature"]),
        (DCLWLoss, ["temperature", "sigma"]),
        (BinaryContrastiveLoss, ["temperature"]),
        (EuclideanInfoNCELoss, ["temperature"]),
        (ComboContrastiveLoss, ["temperature", "contrastive_temperature"]),
        (MIOLoss, ["temperature"]),
        (DySTreSSLoss, ["tau_min", "tau_max"]),
    ],
)
def test_temperatures_are_finite_numbers_above_0(kind, names, value):
    for name in names:
        with pytest.raises(ValueError, match=f"{name}: expected a finite number above 0, got"):
            kind(**{name: value})


@pytest.mark.parametrize("value", [0, -3, 2.0, "8", True])
def test_chunks_are_whole_numbers_above_0(value):
    for name in ("nt_xent", "dclw", "binary", "euclidean", "combo", "mio_v2", "dystress"):
        with pytest.raises(ValueError, match="chunk_size: expected a whole number above 0, or None, got"):
            contrastive_loss(name, chunk_size=value)


@pytest.mark.parametrize("version", [0, 4, "3", None, True, 3.0, 1.0, [1]])
def test_versions_of_mio_are_1_2_and_3(version):
    with pytest.raises(ValueError, match="version: expected the whole number 1, 2 or 3, got"):
        MIOLoss(version)


@pytest.mark.parametrize("value", ["false", 0, 1.0, None])
def test_switches_are_true_or_false(value):
    for kind, name in [
        *((kind, "gather_distributed") for kind in (NTXentLoss, DCLWLoss, ComboContrastiveLoss, MIOLoss, DySTreSSLoss)),
        (DCLWLoss, "detach_weights"), (EuclideanInfoNCELoss, "normalize"), (DySTreSSLoss, "detach_temperature"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: expected true or false, got"):
            kind(**{name: value})


def test_averages_of_combo_are_two():
    with pytest.raises(ValueError, match="average: expected 'expectations' or 'pairs', got 'mean'"):
        ComboContrastiveLoss(average="mean")


@pytest.mark.parametrize("name", CASES)
def test_print_shows_the_hyper_parameters(name):
    shown = repr(CASES[name][0])
    assert "temperature=" in shown or "tau_min=" in shown
    assert "0.33" in repr(EuclideanInfoNCELoss())
    assert "contrastive_temperature=0.33, average='expectations'" in repr(ComboContrastiveLoss())
