"""Contrastive pre-training on two views: by hand, by micro-batches against one graph, with a queue, resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from tiny_training import EpochLoader, Recorder, TinyNet, assert_state, batch, copy_state, tiny_net
from torch import Tensor, nn

from medssl_monai.core import ConfigError, generator, permutation, seed_torch
from medssl_monai.engines import ContrastiveTrainer, LabelEfficientTrainer, MoCoTrainer, SupConTrainer
from medssl_monai.engines.micro_batches import split_batch
from medssl_monai.handlers import EMATeacher, FeatureQueue, NonFiniteError, RunCheckpoint
from medssl_monai.losses import SupConLoss

LABELS = tuple([0, 1, -1] * 4)  # 12 samples


def pair_loss(z1: Tensor, z2: Tensor) -> Tensor:
    """NT-Xent, as SupCon without labels."""
    loss: Tensor = SupConLoss(0.3)(torch.stack([z1, z2], dim=1))
    return loss


def nt_xent_by_loops(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    z = torch.cat([z1, z2])
    z = z / z.norm(dim=1, keepdim=True)
    n, total = len(z1), torch.zeros((), dtype=z.dtype)
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        denominator = sum((z[i] @ z[j] / temperature).exp() for j in range(2 * n) if j != i)
        total = total - ((z[i] @ z[partner] / temperature).exp() / denominator).log() / (2 * n)
    return total


def trainer(
    network: nn.Module, data: Any, cls: type[LabelEfficientTrainer] = ContrastiveTrainer, **options: Any
) -> tuple[Any, Recorder]:
    recorder = Recorder()
    if cls is not MoCoTrainer:
        options = {"loss": SupConLoss(0.3) if cls is SupConTrainer else pair_loss, **options}
    settings: dict[str, Any] = {
        "device": "cpu", "max_epochs": 1, "optimizer": torch.optim.SGD(network.parameters(), lr=0.2),
        "train_handlers": [recorder], **options,
    }  # fmt: skip
    return cls(network=network, train_data_loader=data, **settings), recorder


def test_one_step_by_hand() -> None:
    data, network, twin = batch(2), tiny_net(), tiny_net()
    z1, z2 = twin.projector(twin.encoder(torch.cat([data["view1"], data["view2"]]))).chunk(2)
    loss = nt_xent_by_loops(z1, z2, 0.3)
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.grad is not None:
                parameter -= 0.2 * parameter.grad
    engine, recorder = trainer(network, [data])
    engine.run()
    assert recorder.rows == [pytest.approx({"contrastive": loss.item(), "loss": loss.item()}, rel=1e-10)]
    assert_state(network, copy_state(twin), rtol=1e-10, atol=1e-12)


class TestViews:
    def test_are_made_on_the_device_of_the_batch_and_the_epoch(self) -> None:
        calls: list[tuple[list[str], int]] = []
        views = EpochLoader()

        def make(given: dict[str, Any], epoch: int) -> dict[str, Any]:
            calls.append((sorted(given), epoch))
            assert torch.is_grad_enabled()
            step = int(given["image"][0, 0, 0, 0])
            return {**given, **{key: views.batches(epoch)[step][key] for key in ("view1", "view2")}}

        images = [{"image": torch.full((4, 2, 2, 2), float(step)).double(), "name": list("abcd")} for step in range(3)]
        network, twin = tiny_net(), tiny_net()
        engine, recorder = trainer(network, images, views=make, max_epochs=2)
        engine.run()
        other, expected = trainer(twin, EpochLoader(), max_epochs=2)
        other.run()
        assert calls == [(["image", "name"], epoch) for epoch in (0, 0, 0, 1, 1, 1)]
        assert recorder.rows == expected.rows
        assert_state(network, copy_state(twin))
        assert engine.measure_step(images[0]) > 0
        assert calls[-1] == (["image", "name"], 1)

    def test_images_get_their_channels_last(self) -> None:
        seen: list[bool] = []
        data = batch(0)

        class Net(TinyNet):
            def features(self, x: Tensor) -> Tensor:
                seen.append(x.is_contiguous(memory_format=torch.channels_last))
                return super().features(x)

        trainer(Net(), [{"image": data["view1"]}], views=lambda given, _: {**given, **data})[0].run()
        assert seen == [True]

    def test_missing_ones_are_an_error_that_says_what_to_do(self) -> None:
        data = {"image": torch.zeros(2, 2, 2, 2), "view1": torch.zeros(2, 2, 2, 2)}
        with pytest.raises(
            ConfigError,
            match=r"^train::preprocessing: the batches have no view2 \(found image, view1, expected view1 and "
            r"view2\)\. Make them in the preprocessing with medssl_monai\.transforms\.TwoViewsd, or give the trainer "
            r"`views`\.$",
        ):
            trainer(tiny_net(), [data])[0].run()
        with pytest.raises(ConfigError, match=r"^views: the batches have no view1 and no view2 \(found image,"):
            trainer(tiny_net(), [data], views=lambda given, _: {"image": given["image"]})[0].run()


class TestMicroBatches:
    @pytest.mark.parametrize(
        ("count", "size", "sizes"), [(12, 5, [4, 4, 4]), (7, 3, [3, 2, 2]), (4, 9, [4]), (3, 1, [1] * 3)]
    )
    def test_parts_are_as_equal_as_can_be(self, count: int, size: int, sizes: list[int]) -> None:
        data = {"a": torch.arange(count), "b": torch.arange(count) * 10, "name": list(range(count))}
        parts = split_batch(data, ("a", "b"), size)
        assert [len(part["a"]) for part in parts] == sizes
        assert torch.cat([part["a"] for part in parts]).tolist() == list(range(count))
        assert all(torch.equal(part["b"], part["a"] * 10) and part.keys() == {"a", "b"} for part in parts)

    @pytest.mark.parametrize("cls", [ContrastiveTrainer, SupConTrainer])
    @pytest.mark.parametrize("size", [1, 2, 5, 11, 12, 40])
    def test_trajectory_of_one_pass(self, cls: type[LabelEfficientTrainer], size: int) -> None:
        def run(micro: int | None) -> tuple[list[dict[str, float]], nn.Module]:
            network = tiny_net(batch_norm=False)
            engine, recorder = trainer(
                network, EpochLoader(labels=LABELS), cls, micro_batch_size=micro, max_epochs=2, max_grad_norm=0.5,
                optimizer=torch.optim.Adam(network.parameters(), lr=0.02),
            )  # fmt: skip
            engine.run()
            return recorder.rows, network

        rows, network = run(size)
        expected, twin = run(None)
        assert len(rows) == 6
        assert abs(rows[0]["loss"] - rows[-1]["loss"]) > 0.01
        for row, other in zip(rows, expected):
            assert row == pytest.approx(other, rel=1e-10)
        assert_state(network, copy_state(twin), rtol=1e-9, atol=1e-11)

    def test_gradients_in_single_precision(self) -> None:
        gradients: list[dict[str, Tensor]] = []
        for size in (None, 3):
            network = tiny_net(batch_norm=False, dtype=torch.float32)
            data = [batch(1, LABELS, torch.float32)]
            engine, _ = trainer(network, data, micro_batch_size=size)
            engine.run()
            gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys() == {
            "encoder.1.weight", "encoder.1.bias", "projector.weight", "projector.bias"
        }  # fmt: skip
        for name, value in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], value, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_statistics_and_random_numbers_are_those_of_one_graph_over_all_parts(self, dropout: float) -> None:
        """The two passes against one graph that is kept over all the parts: same draws, each buffer changed once."""
        data, size, steps = [batch(seed, LABELS) for seed in range(3)], 5, 3
        network, twin = tiny_net(dropout=dropout), tiny_net(dropout=dropout)
        recorded: list[float] = []
        for step, given in enumerate(data, start=1):
            seed_torch(4, "step", 1, step)
            z1, z2 = [], []
            for start in range(0, 12, 4):
                both = torch.cat([given["view1"][start : start + 4], given["view2"][start : start + 4]])
                first, second = twin.project(twin.features(both)).chunk(2)
                z1.append(first)
                z2.append(second)
            loss = nt_xent_by_loops(torch.cat(z1), torch.cat(z2), 0.3)
            twin.zero_grad()
            loss.backward()
            recorded.append(loss.item())
            with torch.no_grad():
                for parameter in twin.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.2 * parameter.grad
        engine, recorder = trainer(network, data, micro_batch_size=size, seed=4)
        engine.run()
        assert [row["loss"] for row in recorder.rows] == pytest.approx(recorded, rel=1e-10)
        assert_state(network, copy_state(twin), rtol=1e-9, atol=1e-11)
        assert network.encoder[2].num_batches_tracked == steps * 3
        if dropout:  # the draws matter: one pass over the whole batch has others
            plain, other = trainer(tiny_net(dropout=dropout), data, seed=4)
            plain.run()
            assert other.rows[0]["loss"] != pytest.approx(recorded[0], rel=1e-3)

    def test_a_batch_of_one_part_takes_one_pass(self) -> None:
        network = tiny_net(dropout=0.5)
        passes: list[bool] = []
        network.encoder.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        trainer(network, [batch(0, LABELS)], micro_batch_size=12)[0].run()
        assert passes == [True]
        passes.clear()
        trainer(network, [batch(0, LABELS)], micro_batch_size=6)[0].run()
        assert passes == [False, False, True, True]

    def test_keeps_what_one_part_needs(self) -> None:
        """Bytes that autograd holds at once for the backward passes."""

        class Held:
            now = peak = 0

            def __init__(self, tensor: Tensor) -> None:
                self.tensor, self.size = tensor, tensor.numel() * tensor.element_size()
                Held.now += self.size
                Held.peak = max(Held.peak, Held.now)

            def __del__(self) -> None:
                Held.now -= self.size

        class Wide(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.Sequential(nn.Flatten(), nn.Linear(8, 4000), nn.Tanh(), nn.Linear(4000, 4))

            def features(self, x: Tensor) -> Tensor:
                return self.layers(x)

            def project(self, x: Tensor) -> Tensor:
                return x

        def peak(count: int, size: int | None) -> int:
            network, data = Wide(), batch(0, tuple([-1] * count), torch.float32)
            engine, _ = trainer(network, [data], micro_batch_size=size)
            Held.peak = 0
            with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
                engine.run()
            return Held.peak

        whole, part, cached = peak(64, None), peak(8, None), peak(64, 8)
        assert whole > 4 * part
        assert cached < 1.3 * part

    @pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
    def test_mixed_precision(self, amp_dtype: str) -> None:
        """Weights cast without graph in the first pass must not be used again in the second: all get a gradient."""

        def run(size: int | None) -> tuple[nn.Module, list[torch.dtype], Any]:
            network = tiny_net(batch_norm=False, dtype=torch.float32)
            seen: list[torch.dtype] = []
            network.projector.register_forward_hook(lambda *args: seen.append(args[2].dtype))
            engine, _ = trainer(
                network, [batch(s, LABELS, torch.float32) for s in range(4)], micro_batch_size=size, amp=True,
                amp_dtype=amp_dtype, max_grad_norm=1.0,
            )  # fmt: skip
            engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=256.0, enabled=amp_dtype == "float16")
            engine.run()
            return network, seen, engine

        network, seen, engine = run(4)
        twin, _, _ = run(None)
        start = copy_state(tiny_net(batch_norm=False, dtype=torch.float32))
        assert set(seen) == {getattr(torch, amp_dtype)}
        assert engine.grad_scaler.get_scale() == (256.0 if amp_dtype == "float16" else 1.0)
        for name in ("encoder.1.weight", "encoder.1.bias", "projector.weight", "projector.bias"):
            moved = network.state_dict()[name] - start[name]
            expected = twin.state_dict()[name] - start[name]
            assert expected.norm() > 0
            assert (moved - expected).norm() < 0.05 * expected.norm() + 1e-4, name

    def test_an_overflow_of_float16_skips_the_step(self) -> None:
        network = tiny_net(batch_norm=False, dtype=torch.float32)
        before = copy_state(network)
        data = [batch(0, LABELS, torch.float32)]
        engine, _ = trainer(network, data, micro_batch_size=4, amp=True, amp_dtype="float16")
        engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        engine.run()
        assert_state(network, before)
        assert engine.grad_scaler.get_scale() == 2.0**39

    def test_guards_stop_before_the_step(self) -> None:
        for what, message in (("input", "contrastive = nan"), ("gradient", "gradient norm = (inf|nan)")):
            network, data = tiny_net(batch_norm=False), batch(0, LABELS)
            before = copy_state(network)
            engine, _ = trainer(network, [data], micro_batch_size=5)
            if what == "input":
                data["view2"][3] = math.nan
            else:
                network.encoder[1].weight.register_hook(lambda gradient: gradient * math.inf)
            with pytest.raises(NonFiniteError, match=message):
                engine.run()
            assert_state(network, before)

    def test_measuring_leaves_no_trace(self) -> None:
        network = tiny_net(dropout=0.5)
        engine, _ = trainer(network, [batch(0, LABELS)], micro_batch_size=5)
        engine.run()
        before, random_state = copy_state(network), torch.get_rng_state()
        assert engine.measure_step(batch(3, LABELS)) > 0
        assert_state(network, before)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(p.grad is None for p in network.parameters())

    def test_size_is_checked(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r"^micro_batch_size: samples of a micro-batch \(found 0, expected 1 or more, or null for one pass\)",
        ):
            trainer(tiny_net(), [], micro_batch_size=0)


def moco(network: nn.Module, data: Any, queue: FeatureQueue | None = None, **options: Any) -> tuple[Any, Recorder]:
    teacher = EMATeacher(network, decay=0.9, average_buffers=False, ramp=False)
    return trainer(
        network, data, MoCoTrainer, momentum_encoder=teacher,
        queue=FeatureQueue(10, 4).double() if queue is None else queue, **options,
    )  # fmt: skip


class TestMoCo:
    def by_hand(self, network: Any, teacher: Any, data: list[dict[str, Any]]) -> tuple[list[float], list[Tensor]]:
        """Algorithm 1 with loops; a list as the queue."""
        queue: list[Tensor] = []
        losses = []
        for given in data:
            queries = network.projector(network.encoder(given["view1"]))
            with torch.no_grad():
                keys = teacher.projector(teacher.encoder(given["view2"]))
                keys = torch.stack([key / key.norm() for key in keys])
            loss = torch.zeros((), dtype=torch.float64)
            for query, key in zip(queries, keys):
                unit = query / query.norm()
                own = (unit @ key / 0.2).exp()
                others = sum(((unit @ other / 0.2).exp() for other in queue), torch.zeros((), dtype=torch.float64))
                loss = loss - (own / (own + others)).log() / len(queries)
            network.zero_grad()
            loss.backward()
            losses.append(loss.item())
            with torch.no_grad():
                for parameter in network.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.2 * parameter.grad
                for mine, theirs in zip(teacher.parameters(), network.parameters()):
                    mine.copy_(0.9 * mine + 0.1 * theirs)
            queue = [*queue, *keys][-10:]
        return losses, queue

    def test_steps_by_hand(self) -> None:
        data = [batch(seed) for seed in range(5)]  # 20 keys into a queue of 10
        network, twin, twin_teacher = tiny_net(), tiny_net(), tiny_net()
        losses, kept = self.by_hand(twin, twin_teacher, data)
        engine, recorder = moco(network, data)
        engine.run()
        assert [row["contrastive"] for row in recorder.rows] == pytest.approx(losses, rel=1e-9, abs=1e-12)
        assert losses[0] == 0.0
        assert min(losses[1:]) > 0.5
        assert_state(network, copy_state(twin), rtol=1e-9, atol=1e-11)
        assert_state(engine.momentum_encoder.module, copy_state(twin_teacher), rtol=1e-9, atol=1e-11)
        rows = engine.queue.rows()
        assert rows.shape == (10, 4)
        order = rows.numpy()[np.lexsort(rows.numpy().T)]
        expected = torch.stack(kept).numpy()
        np.testing.assert_allclose(order, expected[np.lexsort(expected.T)], rtol=1e-9, atol=1e-11)

    def test_keys_go_through_in_other_groups_than_queries(self) -> None:
        data, network, twin = batch(0, LABELS), tiny_net(), tiny_net()
        engine, _ = moco(
            network, [data], batch_norm_group=4, seed=6, optimizer=torch.optim.SGD(network.parameters(), 0.0)
        )
        engine.run()
        twin.train()
        order = permutation(12, 6, "keys", 1, 1, 0)
        assert order.tolist() != list(range(12))
        expected = torch.zeros(12, 4, dtype=torch.float64)
        with torch.no_grad():
            for start in range(0, 12, 4):
                members = order[start : start + 4]
                keys = twin.projector(twin.encoder(data["view2"][torch.from_numpy(members)]))
                for position, key in zip(members, keys):
                    expected[position] = key / key.norm()
        queue = engine.queue
        # 12 keys in a queue of 10: the last ten, from the pointer on
        found = {tuple(np.round(row, 9)) for row in queue.rows().numpy()}
        assert found == {tuple(np.round(row, 9)) for row in expected.numpy()[2:]}
        assert_state(engine.momentum_encoder.module, copy_state(twin), rtol=1e-9, atol=1e-11)  # its own statistics
        assert network.encoder[2].num_batches_tracked == 3
        mean = [data["view1"][start : start + 4].flatten(1) for start in range(0, 12, 4)]
        running = torch.zeros(5, dtype=torch.float64)
        for part in mean:  # queries in their own order
            running = 0.9 * running + 0.1 * tiny_net().encoder[1](part).mean(dim=0)
        torch.testing.assert_close(network.encoder[2].running_mean, running.detach(), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize(
        ("batch_norm", "group", "passes"), [(True, 4, 3), (True, None, 1), (False, 4, 1), (True, 32, 1)]
    )
    def test_groups_only_where_there_is_something_to_share(
        self, batch_norm: bool, group: int | None, passes: int
    ) -> None:
        network = tiny_net(batch_norm=batch_norm)
        engine, _ = moco(network, [batch(0, LABELS)], batch_norm_group=group)
        counts = {"network": 0, "keys": 0}
        for name, module in (("network", network), ("keys", engine.momentum_encoder.module)):
            module.encoder.register_forward_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
        engine.run()
        assert counts == {"network": passes, "keys": passes}

    def test_the_momentum_encoder_starts_from_the_network_as_it_is(self) -> None:
        network = tiny_net()
        engine, _ = moco(network, [batch(0)])
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1.0)  # published weights, loaded after the copy was made
        start = copy_state(network)
        engine.run()
        for name, value in engine.momentum_encoder.module.named_parameters():
            torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * network.state_dict()[name])

    def test_measuring_leaves_no_trace(self) -> None:
        network = tiny_net(dropout=0.5)
        engine, _ = moco(network, [batch(0), batch(1)])
        engine.measure_step(batch(9))
        assert engine.queue.filled == engine.momentum_encoder.updates == 0
        engine.run()
        module, queue = engine.momentum_encoder.module, engine.queue
        before = [copy_state(entry) for entry in (network, module, queue)]
        assert engine.measure_step(batch(3)) > 0
        for entry, state in zip((network, module, queue), before):
            assert_state(entry, state)
        assert engine.momentum_encoder.updates == 2

    def test_what_is_given_is_checked(self) -> None:
        with pytest.raises(
            ConfigError,
            match=r"^batch_norm_group: samples that share BatchNorm statistics \(found 1, expected 2 or more, or null",
        ):
            moco(tiny_net(), [], batch_norm_group=1)
        with pytest.raises(
            ConfigError, match=r"^queue: the queue has columns that MoCo does not fill \(found features, labels, exp"
        ):
            moco(tiny_net(), [], FeatureQueue(4, 4, labels=True))
        with pytest.raises(ValueError, match=r"temperature: expected a finite number above 0, got 0"):
            moco(tiny_net(), [], temperature=0)
        with pytest.raises(ValueError, match=r"negatives: expected shape \(K, 4\), got \(0, 7\)"):
            moco(tiny_net(), [batch(0)], FeatureQueue(4, 7))[0].run()


class DrawnViews:
    """Views as a function of (names, epoch)."""

    def __call__(self, given: dict[str, Any], epoch: int) -> dict[str, Any]:
        draws = [generator("view", name, epoch).standard_normal((2, 2, 2, 2)) for name in given["name"]]
        first, second = torch.tensor(np.stack(draws, axis=1)).double()
        return {**given, "view1": given["image"] + 0.3 * first, "view2": given["image"] + 0.3 * second}


class ImageLoader(EpochLoader):
    def batches(self, epoch: int) -> list[dict[str, Any]]:
        return [{"image": made.pop("view1"), "name": made["name"]} for made in super().batches(epoch)]


def resumable(kind: str, folder: Path, stop_at: int | None, resume: bool) -> tuple[list[Any], dict[str, Any]]:
    network = tiny_net(dropout=0.3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    data = ImageLoader(steps=4, labels=LABELS)
    options: dict[str, Any] = {"views": DrawnViews(), "optimizer": optimizer, "max_epochs": 3, "seed": 3}
    objects: dict[str, Any] = {"network": network, "optimizer": optimizer}
    if kind == "moco":
        engine, recorder = moco(network, data, FeatureQueue(50, 4).double(), batch_norm_group=4, **options)
        objects |= {"momentum_encoder": engine.momentum_encoder, "queue": engine.queue}
    else:
        engine, recorder = trainer(network, data, micro_batch_size=5, **options)
    checkpoint = RunCheckpoint(folder, objects, {"kind": kind}, resume=resume, every=3)
    engine.handlers.append(checkpoint)
    engine._register_handlers([checkpoint])

    def stop() -> None:
        if engine.state.iteration == stop_at:
            raise KeyboardInterrupt

    engine.add_event_handler(Events.ITERATION_STARTED, stop)
    if stop_at is None:
        engine.run()
    else:
        with pytest.raises(KeyboardInterrupt):
            engine.run()
    states = {name: entry.state_dict() for name, entry in objects.items() if name != "optimizer"}
    return recorder.rows, states


@pytest.mark.parametrize("kind", ["micro", "moco"])
def test_stopped_within_an_epoch_and_resumed(kind: str, tmp_path: Path) -> None:
    rows, states = resumable(kind, tmp_path / "whole", None, False)
    resumable(kind, tmp_path / "run", 9, False)  # saved after step 7, of which the queue is not yet full
    rest, resumed = resumable(kind, tmp_path / "run", None, True)
    done = len(rows) - len(rest)
    assert len(rows) == 12
    assert 6 <= done <= 8
    assert rest == rows[done:]
    flat = [_tensors(state) for state in (states, resumed)]
    assert flat[0].keys() == flat[1].keys()
    assert (len(flat[0]) > 15) == (kind == "moco")
    for name, value in flat[0].items():
        assert torch.equal(value, flat[1][name]), name
    if kind == "moco":
        assert int(states["queue"]["count"]) == 50
        assert int(states["queue"]["pointer"]) == 144 % 50


def _tensors(state: dict[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            found[prefix + name] = value
        elif isinstance(value, dict):
            found |= _tensors(value, f"{prefix}{name}.")
    return found
