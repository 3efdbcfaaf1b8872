"""Prototype heads and the segmenter as TorchScript: one program for every number and size, equal to the module."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch

from medssl_monai.networks import ALPNetHead, CoWProHead, CoWProNet, CoWProSegmenter, DenseEncoder, PANetHead

SIZE, SLICES, ORGANS = 48, 14, 2
HEADS = {
    "as trained": lambda: CoWProHead(pool=2),
    "nearest third": lambda: CoWProHead(pool=1, top_fraction=0.3),
    "renormalised": lambda: CoWProHead(pool=2, renormalize_aggregate=True),
    "both": lambda: CoWProHead(pool=1, top_fraction=0.3, renormalize_aggregate=True),
    "dynamic": lambda: CoWProHead(pool=2, threshold="dynamic"),
    "literal": lambda: ALPNetHead(pool_features=False),
    "alpnet": lambda: ALPNetHead(pool=2, temperature=0.2, scale=7.0),
    "panet": lambda: PANetHead(scale=10.0),
}


def segmenter(head=None, **kwargs):
    torch.manual_seed(0)
    encoder = DenseEncoder("resnet18", in_channels=1, width=0.0625, num_features=6, stages=3)
    return CoWProSegmenter(encoder, head or CoWProHead(pool=2), ORGANS, slice_chunk=4, **kwargs).eval()


def scan(seed=0, shift=0):
    """A body off the centre in most of the slices; two organs in quadrants of their own, in some of these."""
    maker = torch.Generator().manual_seed(seed)
    volume = 0.02 * torch.rand(1, SIZE, SIZE, SLICES, generator=maker)
    label = torch.zeros(SIZE, SIZE, SLICES, dtype=torch.long)
    volume[:, 2 + shift : 34 + shift, 8:40, 1:13] += 0.4
    label[4 + shift : 16 + shift, 10:22, 3:9] = 1
    label[20 + shift : 32 + shift, 24:38, 5:11] = 2
    volume[0][label > 0] += 0.2 * label[label > 0]
    return volume, label


def written(head=None, **kwargs):
    net = segmenter(head, **kwargs)
    net.remember(*([one] for one in scan()))
    return net


def exported(net):
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(net), stream)
    stream.seek(0)
    return torch.jit.load(stream)


def inputs():
    """Volumes and slices of several numbers and sizes, the first of them again at the end."""
    query = torch.stack([scan(1, 6)[0], scan(2, 0)[0]])
    slices = query[0].permute(3, 0, 1, 2)
    return {
        "one volume": query[:1],
        "two volumes": query,
        "few slices": query[:1, ..., 4:9],
        "one slice deep": query[:1, ..., 5:6],
        "another grid": query[:, :, :40, :45],
        "a volume of air": torch.zeros(1, 1, SIZE, SIZE, 3),
        "slices": slices[3:8],
        "one slice": slices[6:7],
        "again": query[:1],
    }


def episode(channels=6, grid=8, size=64):
    """Features and masks; one slice without the organ, one with nothing else."""
    maker = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 4, channels, grid, grid, generator=maker)
    mask = torch.zeros(4, 1, size, size)
    mask[0, :, 5:35, 8:47], mask[1, :, 9:60, 2:40], mask[3] = 1, 1, 1
    return support, mask, query


class TestSegmenter:
    @pytest.mark.parametrize("prior", [None, "hard", "soft"])
    @pytest.mark.parametrize("head", HEADS)
    def test_equals_the_module(self, head, prior):
        net = written(HEADS[head](), quadrant_prior=prior)
        script = exported(net)
        with torch.no_grad():
            for name, x in inputs().items():
                expected = net(x)
                torch.testing.assert_close(script(x), expected, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
                if name not in ("a volume of air", "one slice deep"):  # that one lies at the body's end: background
                    organs = expected[:, 1:]
                    assert (organs > -2 * net.head.scale).any()
                    assert len(organs.unique()) > 100

    def test_the_settings_are_in_the_program(self):
        """Equality above would say nothing if all settings gave the same."""
        x = inputs()["one volume"]
        with torch.no_grad():
            found = [exported(written(HEADS[head]()))(x) for head in HEADS]
            found += [exported(written(quadrant_prior=prior))(x) for prior in ("hard", "soft")]
        for number, one in enumerate(found):
            assert not any(torch.allclose(one, other, atol=1e-3) for other in found[:number])

    def test_an_organ_that_no_support_shows(self):
        volume, label = scan()
        net = segmenter()
        net.remember([volume], [torch.where(label == 1, 0, label)], require_all=False)
        script = exported(net)
        with torch.no_grad():
            for x in inputs().values():
                found = script(x)
                assert (found[:, 1] == -40).all()
                torch.testing.assert_close(found, net(x), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("prior", [None, "hard", "soft"])
    def test_an_empty_bank_gives_background(self, prior):
        net = segmenter(quadrant_prior=prior)
        script = exported(net)
        for x in inputs().values():
            with pytest.warns(UserWarning, match=r"the bank of prototypes is empty.*all is background"):
                expected = net(x)
            with pytest.warns(UserWarning, match=r"the bank of prototypes is empty.*all is background"):
                found = script(x)
            assert torch.equal(found, expected)
            assert (found.argmax(dim=1) == 0).all()

    def test_other_types(self):
        x = inputs()["two volumes"]
        with torch.no_grad():
            double = written().double()
            torch.testing.assert_close(exported(double)(x.double()), double(x.double()), rtol=0, atol=1e-9)
            half = written().bfloat16()
            expected = half(x.bfloat16())
            assert expected.dtype == torch.bfloat16
            torch.testing.assert_close(exported(half)(x.bfloat16()), expected)

    @pytest.mark.parametrize("head", ["as trained", "both"])
    def test_a_callers_autocast_leaves_the_comparison_in_float32(self, head):
        net = written(HEADS[head]())
        script, x = exported(net), inputs()["one volume"]
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            for _ in range(3):  # the program is specialised at its first calls
                found, expected = script(x), net(x)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
        with torch.no_grad():
            torch.testing.assert_close(script(x), net(x), rtol=0, atol=1e-5)

    def test_errors(self):
        net = written()
        script = exported(net)
        message = r"expected volumes \(N, C, H, W, S\) or slices \(N, C, H, W\), got shape \[1, 48, 48\]"
        with pytest.raises(torch.jit.Error, match=message):
            script(torch.zeros(1, 48, 48))
        with pytest.raises(ValueError, match=message):
            net(torch.zeros(1, 48, 48))
        with pytest.raises(torch.jit.Error, match=r"images: expected shape \(N, 1, H, W\) for in_channels=1, got"):
            script(inputs()["slices"].repeat(1, 3, 1, 1))

    def test_a_process_without_this_package(self, tmp_path):
        net = written(quadrant_prior="soft")
        torch.jit.save(torch.jit.script(net), tmp_path / "model.ts")
        queries = [x.contiguous() for x in inputs().values()]
        with torch.no_grad():
            torch.save({"inputs": queries, "expected": [net(x) for x in queries]}, tmp_path / "case.pt")
        program = "\n".join([
            "import sys", "sys.modules['medssl_monai'] = sys.modules['monai'] = None  # importing them is an error",
            "import torch", "script, case = torch.jit.load('model.ts'), torch.load('case.pt', weights_only=True)",
            "for x, y in zip(case['inputs'], case['expected'], strict=True):",
            "    torch.testing.assert_close(script(x), y, rtol=0, atol=1e-5)",
            "try:", "    import medssl_monai", "except ImportError:", "    print('equal, without the package')",
        ])  # fmt: skip
        result = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert result.returncode == 0, result.stderr
        assert result.stdout == "equal, without the package\n"


class TestHeads:
    @pytest.mark.parametrize("name", HEADS)
    def test_equals_the_module(self, name):
        head = HEADS[name]()
        script, (support, mask, query) = exported(head), episode()
        expected = head(support, mask, query)
        assert (expected[2, 1] == -head.scale).all()
        for part in (slice(0, 4), slice(1, 2), slice(0, 4)):
            torch.testing.assert_close(
                script(support[part], mask[part], query[part]), expected[part], rtol=0, atol=1e-5
            )
        small = [one[..., :5, :7] for one in (support, query)]
        found = script(small[0], mask[..., :40, :56], small[1])
        torch.testing.assert_close(found, head(small[0], mask[..., :40, :56], small[1]), rtol=0, atol=1e-5)
        rounded = (support.bfloat16(), mask, query.bfloat16())
        torch.testing.assert_close(script(*rounded), head(*rounded), rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(script(support, mask, query), expected, rtol=0, atol=1e-4)

    def test_gradients(self):
        support, mask, query = episode()
        given = [(support.clone().requires_grad_(), query.clone().requires_grad_()) for _ in range(2)]
        head = CoWProHead(pool=2, renormalize_aggregate=True)
        for one, (of_support, of_query) in zip((head, torch.jit.script(head)), given):
            one(of_support, mask, of_query)[:, 1].square().sum().backward()
        for eager, scripted in zip(*given):
            assert eager.grad.abs().sum() > 0
            torch.testing.assert_close(scripted.grad, eager.grad, rtol=1e-4, atol=1e-4)

    def test_errors(self):
        support, mask, query = episode()
        script = torch.jit.script(CoWProHead())
        with pytest.raises(torch.jit.Error, match=r"support mask: expected \(4, 1, H, W\), got shape \[4, 64, 64\]"):
            script(support, mask[:, 0], query)
        message = r"query_features: expected the support's shape \[4, 6, 8, 8\], got \[4, 5, 8, 8\]"
        with pytest.raises(torch.jit.Error, match=message):
            script(support, mask, query[:, :5])

    def test_the_head_of_a_net_in_training_is_left_as_it_is(self):
        """The cyclic branch has its own threshold: scripting a segmenter with the same parts changes nothing."""
        net = segmenter(CoWProHead(pool=2, threshold="dynamic"))
        trained = CoWProNet(net.encoder, net.head).eval()
        images, mask = inputs()["slices"], episode()[1][:1, :, :SIZE, :SIZE].repeat(5, 1, 1, 1)
        before = trained.episode(images, mask, images.flip(2))
        torch.jit.script(net)
        after = trained.episode(images, mask, images.flip(2))
        assert before.cyclic.any()
        for one, other in zip(before, after):
            assert torch.equal(one, other)
