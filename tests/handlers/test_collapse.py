"""The collapse watch: its numbers by loops, what it says of trainings that fall apart, and that it disturbs nothing."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Compose
from tiny_training import EpochLoader, assert_state, copy_state, tiny_net
from torch import Tensor, nn
from two_processes import Pair

from medssl_monai.core import ConfigError
from medssl_monai.core.distributed import rank
from medssl_monai.data import SeededCacheDataset
from medssl_monai.data.sampling import SampleKey
from medssl_monai.engines import SupConTrainer, build_optimizer, contrastive_trainer
from medssl_monai.handlers import CollapseWatch, EMATeacher, FeatureQueue, History, RunCheckpoint
from medssl_monai.handlers.collapse_signs import find_collapse, measure
from medssl_monai.losses import SupConLoss, contrastive_loss
from medssl_monai.networks import ContrastiveNet
from medssl_monai.transforms import RandGaussianBlur, RandResizedCrop, TwoViewsd
from medssl_monai.transforms.batched import BatchedViews

LOGGER = "medssl_monai.handlers.collapse"


class Pairs:
    """Two views (2, 2, 2) of each of ``n`` images, functions of the key alone; what was asked for is written down."""

    def __init__(self, n: int = 24, labels: bool = True) -> None:
        self.n, self.labels, self.keys = n, labels, list[SampleKey]()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        self.keys.append(key)
        image = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(key.index), dtype=torch.float64)
        maker = torch.Generator().manual_seed(hash((key.index, key.epoch)) % 2**40)
        views = {f"view{v}": image + 0.05 * torch.rand(2, 2, 2, generator=maker) for v in (1, 2)}
        return {**views, "name": f"{key.index}.png"} | ({"label": key.index % 3 - 1} if self.labels else {})


def run_epochs(watch: CollapseWatch, epochs: int, before: Any = lambda epoch: None) -> list[dict[str, float]]:
    """Epochs of an engine that does nothing; the metrics after each."""
    seen: list[dict[str, float]] = []
    engine = Engine(lambda engine, batch: before(engine.state.epoch))
    watch.attach(engine)
    from ignite.engine import Events

    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(engine.state.metrics)))
    engine.run([0], max_epochs=epochs)
    return seen


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_the_numbers_are_those_of_the_formulas() -> None:
    generator = np.random.default_rng(0)
    z1 = generator.standard_normal((14, 5))
    z2 = z1 + 0.5 * generator.standard_normal((14, 5))
    labels = np.array([0, 1, -1, 2, 0, 1, 2, 2, -1, 0, 0, 1, 2, 1])
    values = measure(z1, z2, labels)
    a, b = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (z1, z2))
    n = len(a)
    own = np.mean([((a[i] - b[i]) ** 2).sum() for i in range(n)])
    others = np.mean([((a[i] - b[j]) ** 2).sum() for i in range(n) for j in range(n) if i != j])
    potential = np.mean([math.exp(-2 * ((a[i] - a[j]) ** 2).sum()) for i in range(n) for j in range(n) if i != j])
    same = [a[i] @ a[j] for i in range(n) for j in range(n) if i != j and labels[i] == labels[j] >= 0]
    singular = np.linalg.svd(z1 - z1.mean(0), compute_uv=False)
    share = singular / singular.sum()
    assert values == pytest.approx(
        {
            "alignment": own,
            "uniformity": math.log(potential),
            "tolerance": np.mean(same),
            "effective_rank": math.exp(-(share * np.log(share)).sum()),
            "spread": a.std(axis=0).mean(),
            "alignment_ratio": own / others,
            "length": np.mean(sorted(math.sqrt((row**2).sum()) for row in [*z1, *z2])[13:15]),
        },
        rel=1e-9,
    )
    assert "tolerance" not in measure(z1, z2)


def test_collapse_that_needs_no_comparison_is_said_and_healthy_embeddings_are_not() -> None:
    generator = np.random.default_rng(1)
    z = generator.standard_normal((40, 16))
    noise = generator.standard_normal((40, 16))

    def said(z1: np.ndarray, z2: np.ndarray) -> str | None:
        return find_collapse(z1, z2, measure(z1, z2))

    assert said(z, z + 0.3 * noise) is None
    one = np.ones(16) + 1e-3 * z
    assert "all point (nearly) the same way" in str(said(one, one))
    line = np.outer(z[:, 0], np.ones(16)) + 1e-3 * noise
    assert "collapsed to one direction" in str(said(line, line))
    # spread over the sphere, but an image is not known again
    assert "as far apart as views of different images" in str(said(z, noise))
    broken = z.copy()
    broken[3] = np.nan
    for pair in ((broken, z), (z, broken)):
        assert said(*pair) == "1 of 40 embeddings are not finite"
        assert math.isnan(measure(*pair)["alignment"])
    zero = z.copy()
    zero[5] = 0
    assert "1 of 40 embeddings are zero" in str(said(zero, z))
    assert said(one[:9], one[:9]) is None  # too few to tell
    assert said(z[:31], noise[:31]) is None  # too few to tell by their pairs


START = {"effective_rank": 40.0, "length": 2.0, "alignment_ratio": 0.8}
FAR, FEW, APART = "120 times as long as before the first one", "collapsed to few directions", "as far apart as views of"


@pytest.mark.parametrize(
    ("rank", "length", "ratio", "nearest", "words"),
    [
        (8.0, 240.0, 0.1, 0.1, FAR),  # far out in few directions
        (38.0, 240.0, 0.7, 0.7, FAR),  # far out in many, images hardly better known
        (38.0, 240.0, 0.3, 0.3, None),  # long, but well trained
        (3.0, 1.0, 0.7, 0.5, FEW),
        (3.0, 1.0, 0.3, 0.3, None),  # few directions, in which images are known again: MIOv2
        (8.0, 2.0, 0.7, 0.5, None),
        (38.0, 2.0, 0.995, 0.9, APART),
        (38.0, 2.0, 0.995, 0.96, None),  # never was any better: an untrained encoder under strong augmentation
        (math.nan, math.nan, math.nan, math.inf, None),
    ],
)
def test_signs_by_comparison_with_the_untrained_network(
    rank: float, length: float, ratio: float, nearest: float, words: str | None
) -> None:
    z = np.random.default_rng(2).standard_normal((40, 16))
    values = {"effective_rank": rank, "length": length, "alignment_ratio": ratio}
    found = find_collapse(z, z, values, START, nearest)
    if words is None:
        assert found is None
    else:
        assert words in str(found)
    if words in (FAR, FEW):
        assert f"(effective rank {rank:.1f}, 40.0 before the first step)" in str(found)
        assert find_collapse(z, z, values, None, nearest) is None  # nothing to compare with
        assert find_collapse(z, z, values, dict.fromkeys(START, math.nan), nearest) is None


@pytest.mark.parametrize(
    ("name", "healthy", "begins", "between", "over"),
    [
        ("effective_rank", 11.0, 9.9, 11.0, 12.1),  # of 40, a quarter and three tenths; far out, near
        ("length", 98.0, 102.0, 72.0, 69.0),  # of 2.0, 50 and 35 times
        ("alignment_ratio", 0.985, 0.991, 0.985, 0.979),
    ],
)
def test_a_value_near_its_limit_does_not_begin_and_end_a_collapse_again_and_again(
    name: str, healthy: float, begins: float, between: float, over: float
) -> None:
    z = np.random.default_rng(2).standard_normal((40, 16))
    rest = {
        "effective_rank": {"length": 240.0, "alignment_ratio": 0.1},
        "length": {"effective_rank": 8.0, "alignment_ratio": 0.1},
        "alignment_ratio": {"effective_rank": 38.0, "length": 2.0},
    }[name]
    collapsed, said = False, []
    for value in (healthy, begins, between, begins, between, over, between):
        collapsed = find_collapse(z, z, {**rest, name: value}, START, 0.5, collapsed) is not None
        said.append(collapsed)
    assert said == [False, True, True, True, True, False, False]


# --- what is looked at -----------------------------------------------------------------------------------------------


def test_a_bounded_fixed_set_in_fixed_views() -> None:
    data, network = Pairs(60), tiny_net()
    watch = CollapseWatch(network, data, size=12, batch_size=5, seed=3)
    first = run_epochs(watch, 3)
    assert len(data.keys) == 12  # loaded once
    assert len({key.index for key in data.keys}) == 12
    assert len({key.epoch for key in data.keys}) == 1
    assert first[0] == first[1] == first[2]
    again, other = Pairs(60), Pairs(60)
    assert run_epochs(CollapseWatch(network, again, size=12, batch_size=5, seed=3), 1)[0] == first[0]
    assert {key.index for key in again.keys} == {key.index for key in data.keys}
    run_epochs(CollapseWatch(network, other, size=12, seed=4), 1)
    assert {key.index for key in other.keys} != {key.index for key in data.keys}


def test_embeddings_are_those_of_the_networks_projector_with_the_batchs_statistics() -> None:
    data, network = Pairs(), tiny_net()
    z1, z2 = CollapseWatch(network, data, size=24, batch_size=7).embeddings()
    epoch, expected, training = data.keys[0].epoch, [], copy.deepcopy(network).train()
    for chunk in torch.arange(24).split(6):  # four equal parts of no more than seven
        samples = [data[SampleKey(int(i), epoch)] for i in chunk]
        views = torch.cat([torch.stack([sample[f"view{v}"] for sample in samples]) for v in (1, 2)]).half().double()
        with torch.no_grad():
            expected.append(training.project(training.features(views)).unflatten(0, (2, len(chunk))))
    np.testing.assert_allclose(np.stack([z1, z2]), torch.cat(expected, dim=1).numpy(), rtol=1e-5, atol=1e-6)
    # labels -1, 0, 1: those of -1 are unknown
    values = run_epochs(CollapseWatch(network, data, size=24, batch_size=7), 1)[0]
    labels = np.array([i % 3 - 1 for i in range(24)])
    assert values["embedding_tolerance"] == pytest.approx(measure(z1, z2, labels)["tolerance"], rel=1e-6)
    assert "embedding_tolerance" not in run_epochs(CollapseWatch(network, Pairs(labels=False), size=24), 1)[0]


class Labelled(Pairs):
    """With labels that are each there or not; every fifth image has none."""

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        known = torch.tensor([key.index % 2, key.index // 2 % 2])
        label = torch.full((2,), -1) if key.index % 5 == 0 else known
        return {**super().__getitem__(key), "label": label}


def test_images_with_the_same_labels_are_a_class_of_a_multilabel_task() -> None:
    network = tiny_net()
    watch = CollapseWatch(network, Labelled(), size=24)
    found = run_epochs(watch, 1)[0]["embedding_tolerance"]
    classes = np.array([-1 if i % 5 == 0 else i % 4 for i in range(24)])
    assert found == pytest.approx(measure(*watch.embeddings(), classes)["tolerance"])


def test_every_so_many_epochs_and_the_last() -> None:
    seen = run_epochs(CollapseWatch(tiny_net(), Pairs(), interval=3), 7)
    assert [bool(metrics) for metrics in seen] == [False, False, True, False, False, True, True]


def test_our_dataset_and_the_views_of_the_trainer() -> None:
    images = [{"image": torch.rand(1, 12, 12), "index": i} for i in range(20)]
    chain = Compose([RandResizedCrop((8, 8)), RandGaussianBlur()])
    torch.manual_seed(0)
    network = ContrastiveNet("resnet18", 6, width=0.125, stem="cifar")
    found = []
    for transform, views in (
        (Compose([TwoViewsd("image", chain)]), None),
        (Compose([]), BatchedViews(chain, seed=1)),
    ):
        dataset = SeededCacheDataset(images, transform, seed=5, progress=False)
        before = dataset[SampleKey(3, 2)]
        watch = CollapseWatch(network, dataset, views, size=16)
        first = watch.embeddings()
        for a, b in zip(first, watch.embeddings()):
            assert np.array_equal(a, b)
        # a sample of the training is what it was before the watch has looked
        after = dataset[SampleKey(3, 2)]
        assert all(torch.equal(before[key], after[key]) for key in before if isinstance(before[key], Tensor))
        fresh = CollapseWatch(network, SeededCacheDataset(images, transform, seed=5, progress=False), views, size=16)
        np.testing.assert_array_equal(first[0], fresh.embeddings()[0])
        assert not np.allclose(*first)  # two views
        found.append(first[0])
    assert not np.allclose(*found)


# --- it disturbs nothing ---------------------------------------------------------------------------------------------


def test_modes_buffers_gradients_and_random_numbers_stay() -> None:
    network = tiny_net(dropout=0.5)
    network.train()
    network.encoder[2].eval()  # a part that somebody has frozen
    state, modes = copy_state(network), [module.training for module in network.modules()]
    torch.manual_seed(5)
    generator = torch.get_rng_state()
    watch = CollapseWatch(network, Pairs())
    z1, _ = watch.embeddings()
    assert_state(network, state)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in network.parameters())
    np.testing.assert_array_equal(z1, watch.embeddings()[0])  # no dropout in it


class Failing(Pairs):
    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        raise RuntimeError("the disk is gone")


def test_modes_are_put_back_when_the_look_fails() -> None:
    network = tiny_net().train()
    with pytest.raises(RuntimeError, match="the disk is gone"):
        CollapseWatch(network, Failing()).embeddings()
    assert all(module.training for module in network.modules())


def supcon_run(folder: Path, watched: bool, max_epochs: int = 4, resume: bool = False) -> tuple[nn.Module, History]:
    network = tiny_net(dropout=0.3)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    history = History(folder, optimizer)
    watch = [CollapseWatch(network, Pairs())] if watched else []
    objects = {"network": network, "optimizer": optimizer}
    last = RunCheckpoint(folder, objects, {}, resume=resume)
    SupConTrainer(
        loss=SupConLoss(0.5),
        device="cpu",
        max_epochs=max_epochs,
        train_data_loader=EpochLoader(),
        network=network,
        optimizer=optimizer,
        train_handlers=[*watch, history, last],
    ).run()
    return network, history


def test_a_watched_training_has_the_same_weights_and_more_columns_also_over_a_resume(tmp_path: Path) -> None:
    plain, _ = supcon_run(tmp_path / "a", False)
    watched, history = supcon_run(tmp_path / "b", True)
    assert_state(watched, copy_state(plain))
    supcon_run(tmp_path / "c", True, max_epochs=2)
    resumed, goes_on = supcon_run(tmp_path / "c", True, resume=True)
    assert_state(resumed, copy_state(plain))
    rows = [[{k: v for k, v in row.items() if k != "seconds"} for row in h.rows] for h in (history, goes_on)]
    assert rows[0] == rows[1]
    stored = json.loads((tmp_path / "b" / "history.json").read_text())
    names = {
        "alignment",
        "uniformity",
        "tolerance",
        "effective_rank",
        "spread",
        "alignment_ratio",
        "length",
        "collapsed",
    }
    for row in stored:
        assert {key for key in row if key.startswith("embedding_")} == {f"embedding_{name}" for name in names}
    assert len({row["embedding_alignment"] for row in stored}) == 4  # the network learns


# --- what it says ----------------------------------------------------------------------------------------------------


class Switch(nn.Module):
    """Embeddings that are healthy, or all alike."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.alike = False

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.weight

    def project(self, features: Tensor) -> Tensor:
        return torch.ones_like(features) if self.alike else features - 0.5


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The watch's own messages: other loggers are as loud as the tests before left them."""
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


def test_it_warns_once_when_a_collapse_begins_and_again_when_one_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    network = Switch()

    def before(epoch: int) -> None:
        network.alike = epoch in (2, 3, 4, 6)

    with caplog.at_level(logging.INFO, logger=LOGGER):
        seen = run_epochs(CollapseWatch(network, Pairs()), 6, before)
    assert [metrics["embedding_collapsed"] for metrics in seen] == [0, 1, 1, 1, 0, 1]
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["WARNING", "INFO", "WARNING"]
    assert "epoch 2: the embeddings have collapsed: they all point (nearly) the same way" in _said(caplog)[0]
    assert "raise temperature (MIOv3 falls apart at 0.07" in _said(caplog)[0]
    assert _said(caplog)[1] == "epoch 5: the embeddings are no longer collapsed"


def test_a_resumed_run_does_not_warn_again(caplog: pytest.LogCaptureFixture) -> None:
    network = Switch()
    network.alike = True
    watch = CollapseWatch(network, Pairs())
    run_epochs(watch, 1)
    other = CollapseWatch(network, Pairs())
    other.load_state_dict(watch.state_dict())
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=LOGGER):
        run_epochs(other, 1)
    assert _said(caplog) == []


class Scaled(nn.Module):
    """Embeddings of a length that is set."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.length = 1.0

    def features(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.weight

    def project(self, features: Tensor) -> Tensor:
        return self.length * (features - 0.5)


def test_the_comparison_is_with_the_network_before_its_first_step_also_over_a_resume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network, lengths = Scaled(), [1.0, 60.0, 40.0, 60.0, 30.0, 40.0]

    def before(epoch: int) -> None:
        network.length = lengths[epoch - 1]

    watch = CollapseWatch(network, Pairs())
    with caplog.at_level(logging.INFO, logger=LOGGER):
        seen = run_epochs(watch, 6, before)
    assert [metrics["embedding_collapsed"] for metrics in seen] == [0, 1, 1, 1, 0, 0]
    assert [record.levelname for record in caplog.records if record.name == LOGGER] == ["WARNING", "INFO"]
    assert seen[1]["embedding_length"] == pytest.approx(60 * seen[0]["embedding_length"])
    resumed, fresh = CollapseWatch(network, Pairs()), CollapseWatch(network, Pairs())
    resumed.load_state_dict(watch.state_dict())
    network.length = 60.0
    assert run_epochs(resumed, 1)[0]["embedding_collapsed"] == 1.0
    assert run_epochs(fresh, 1)[0]["embedding_collapsed"] == 0.0


def gratings(n: int = 64, size: int = 16) -> Tensor:
    """Waves of random direction, length, phase, level and contrast."""
    axis = torch.arange(size) / size * 2 * math.pi
    angle, frequency, phase, level, contrast = torch.rand(5, n, 1, 1, generator=torch.Generator().manual_seed(0))
    along = torch.cos(math.pi * angle) * axis[:, None] + torch.sin(math.pi * angle) * axis
    wave = torch.sin((1 + 3 * frequency) * along + 2 * math.pi * phase)
    return (level + 0.5 * contrast * wave).clamp(0, 1)[:, None]


class Gratings:
    """Data and loader of a tiny real training."""

    def __init__(self) -> None:
        self.images, self.epoch, self.batch_sampler = gratings(), 0, self

    def set_epoch(self, epoch: int, offset: int = 0) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        return {"image": self.images[key.index], "index": key.index}


class Loader:
    def __init__(self, data: Gratings) -> None:
        self.data, self.batch_sampler = data, data

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[dict[str, Any]]:
        order = torch.randperm(64, generator=torch.Generator().manual_seed(self.data.epoch))
        for chosen in order.split(32):
            yield {"image": self.data.images[chosen], "index": chosen}


def contrastive_run(
    folder: Path, name: str, temperature: float | None, batch_norm: bool, seed: int = 0, epochs: int = 3, **more: Any
) -> list[float]:
    """The small set-up of chapters 5 and 6: ResNet-18, CIFAR stem, SGD at 0.06; whether collapsed after each epoch."""
    data = Gratings()
    torch.manual_seed(seed)
    network = ContrastiveNet("resnet18", 32, batch_norm=batch_norm, width=0.125, stem="cifar")
    optimizer = build_optimizer("sgd", network, 0.06, 5e-4)
    views = BatchedViews(Compose([RandResizedCrop((16, 16), scale=(0.4, 1.0)), RandGaussianBlur()]), seed=0)
    history = History(folder, optimizer)
    objective: dict[str, Any] = (
        {"loss": contrastive_loss(name, temperature=temperature)}
        if name != "moco"
        else {
            "momentum_encoder": EMATeacher(network, decay=0.999, average_buffers=False, ramp=False),
            "queue": FeatureQueue(size=32, dim=32),
        }
    )
    last = RunCheckpoint(folder, {"network": network, "optimizer": optimizer}, {}, **more)
    contrastive_trainer(
        **objective,
        views=views,
        device="cpu",
        max_epochs=epochs,
        train_data_loader=Loader(data),
        network=network,
        optimizer=optimizer,
        train_handlers=[CollapseWatch(network, data, views), history, last],
    ).run()
    return [row["embedding_collapsed"] for row in history.rows]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_miov3_at_a_low_temperature_falls_apart_in_a_real_training_and_at_a_high_one_it_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, batch_norm: bool, seed: int
) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        assert contrastive_run(tmp_path, "mio_v3", 0.07, batch_norm, seed) == [1.0] * 3
        (text,) = _said(caplog)
        assert "If it stays so, stop the run and raise temperature (MIOv3 falls apart at 0.07" in text
        assert ("steps too large have made them" if batch_norm else "all point (nearly) the same way") in text
        caplog.clear()
        # the thesis's temperature needs the projector's BatchNorm here: without it MIOv3 falls apart at 0.2 as well
        assert contrastive_run(tmp_path, "mio_v3", 0.2, batch_norm, seed) == [0.0 if batch_norm else 1.0] * 3
        caplog.clear()
        assert contrastive_run(tmp_path, "mio_v3", 0.5, batch_norm, seed) == [0.0] * 3
        assert _said(caplog) == []


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("name", ["nt_xent", "dcl", "combo", "dystress", "mio_v1", "mio_v2", "moco"])
def test_no_other_loss_is_called_collapsed_at_its_own_temperature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, batch_norm: bool
) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        assert contrastive_run(tmp_path, name, None, batch_norm) == [0.0] * 3
    assert _said(caplog) == []


def test_a_training_that_fell_apart_is_still_known_to_have_when_it_is_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=LOGGER):
        contrastive_run(tmp_path, "mio_v3", 0.07, True, epochs=2)
        # without the checkpoint's state the network that fell apart would be taken for the untrained one
        assert contrastive_run(tmp_path, "mio_v3", 0.07, True, epochs=4, resume=True) == [1.0] * 4
    assert len(_said(caplog)) == 1


# --- several processes -----------------------------------------------------------------------------------------------


def watched_rank(folder: str) -> tuple[int, int, list[list[str]], dict[str, Tensor]]:
    """One of two processes: how many samples its watch has loaded, the rows' columns, the weights."""
    network, data = tiny_net(), Pairs()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    history = History(folder, optimizer)
    SupConTrainer(
        loss=SupConLoss(0.5, gather_distributed=True),
        device="cpu",
        max_epochs=3,
        train_data_loader=EpochLoader(),
        network=network,
        optimizer=optimizer,
        train_handlers=[CollapseWatch(network, data), history, RunCheckpoint(folder, {"network": network}, {})],
    ).run()
    return rank(), len(data.keys), [sorted(row) for row in history.rows], network.state_dict()


def test_with_two_processes_the_first_one_looks_and_nobody_waits_for_ever(pair: Pair, tmp_path: Path) -> None:
    (first, seen, rows, weights), (second, nothing, _, others) = pair(watched_rank, str(tmp_path))
    assert (first, second) == (0, 1)
    assert (seen, nothing) == (24, 0)
    assert all("embedding_alignment" in row for row in rows)
    assert all(torch.equal(weights[key], others[key]) for key in weights)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network_def: the network has no features and no project, by which its"):
        CollapseWatch(nn.Linear(2, 2), Pairs())
    for arguments, message in (
        ({"size": 9}, r"size of the collapse watch \(found 9, expected 10 or more\)"),
        ({"batch_size": 1}, r"batch_size of the collapse watch \(found 1, expected 2 or more\)"),
        ({"interval": 0}, r"interval of the collapse watch \(found 0, expected 1 or more\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            CollapseWatch(tiny_net(), Pairs(), **arguments)
    with pytest.raises(
        ConfigError, match=r"the samples have no view1 and no view2 \(found image, index, expected view"
    ):
        CollapseWatch(tiny_net(), Gratings()).embeddings()
    network = tiny_net()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"train::handlers: the history would miss .*\.CollapseWatch before medssl_m"):
        SupConTrainer(
            loss=SupConLoss(0.5),
            device="cpu",
            max_epochs=1,
            train_data_loader=EpochLoader(),
            network=network,
            optimizer=optimizer,
            train_handlers=[History(tmp_path, optimizer), CollapseWatch(network, Pairs())],
        )
