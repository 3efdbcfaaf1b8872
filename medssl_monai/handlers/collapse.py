"""Whether pre-training still learns anything: a look at the embedding after each epoch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import list_data_collate
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.core import ConfigError, permutation
from medssl_monai.core.distributed import is_main
from medssl_monai.data.sampling import SampleKey
from medssl_monai.handlers.collapse_signs import FEWEST, REMEDY, find_collapse, measure
from medssl_monai.handlers.history import History

logger = logging.getLogger(__name__)

_VIEWS = ("view1", "view2")
#: the draw of random transforms that the watch looks at: an epoch that no training reaches
_EPOCH = 2**31 - 1


class Samples(Protocol):
    """A dataset whose random transforms depend on the key alone (:class:`~medssl_monai.data.SeededCacheDataset`)."""

    def __len__(self) -> int:
        """Number of samples."""

    def __getitem__(self, key: SampleKey, /) -> Any:
        """The sample of a key."""


class CollapseWatch:
    """Measures the embedding of some training images after each epoch, and warns when it begins to collapse.

    The same images in the same two views are embedded each time, without gradient, autocast or dropout. BatchNorm takes
    the batch's statistics, as it does for the loss: the running ones lag so far behind in the first few dozen steps
    that healthy embeddings would seem collapsed. In the history and its curves appear ``embedding_alignment`` and
    ``embedding_uniformity`` (Wang & Isola 2020), ``embedding_tolerance`` (where images have labels),
    ``embedding_effective_rank`` (of the centred embeddings), ``embedding_spread``, ``embedding_alignment_ratio``
    (squared distance of the views of one image over that of views of different images), ``embedding_length`` (median
    norm) and ``embedding_collapsed`` (0 or 1). Collapsed are embeddings

    - of which :func:`~medssl_monai.metrics.collapse_warning` says so: all the same, in one direction, or not finite,
    - that are more than 50 times as long as before the first step, and either their effective rank is less than a
      quarter of what it was then, or their alignment ratio more than three quarters. This is how MIOv3 falls apart at
      temperature 0.07, with and without BatchNorm in the projector,
    - whose effective rank is less than a tenth and whose alignment ratio is more than three quarters of what they were,
    - of 32 images or more, whose alignment ratio is above 0.99 and was below 0.95 before: too strong a repulsion parts
      the views of one image as well (thesis 5.4.3).

    What was measured to choose these signs stands in :mod:`medssl_monai.handlers.collapse_signs`. Each limit has a
    second one that must be passed for a collapse to be over. The log warns once when it begins, also over a resume, and
    says when it is over.

    What it cannot see: an embedding that learns nothing but stays as it was (MIOv3 at 0.07 with Adam at 0.001: rank and
    length as before the first step, the views of an image no nearer); one that was in few directions, or far out,
    before the first step already, and is neither in one direction nor all the same; one that still separates images,
    but by what does not matter. With few images there are few directions to lose: 64 and more are better.

    It stands before :class:`History` in the trainer's handlers. Network, modes, buffers and random numbers stay as they
    were. With several processes the first one measures; the others wait at their next exchange. A look is a forward
    pass of 2 x ``size`` images, as dear as the training steps of half as many: size / 2n of an epoch of n images. The
    views are kept in half precision on the CPU, 77 MB for 128 RGB images of 224 pixels.

    Args:
        network: has ``features`` and ``project`` (:class:`~medssl_monai.networks.ContrastiveNet`).
        dataset: the training set; its samples hold ``view1`` and ``view2``, or what ``views`` makes them of.
        views: as for the trainer: from a batch and an epoch to the batch with views; ``None`` where samples have them.
        size: number of images, drawn by ``seed``; all where there are fewer. Of less than ten nothing is said.
        batch_size: largest number of images embedded at once (twice as many views), whose statistics BatchNorm takes.
        seed: of the choice of images.
        interval: epochs between two looks; the last epoch is looked at in any case.

    Raises:
        ConfigError: when the network lacks a method, ``size``, ``batch_size`` or ``interval`` is too small, (as it is
            attached) the history stands before it, or (at the first look) the samples have no views.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Samples,
        views: Callable[[dict[str, Any], int], Mapping[str, Any]] | None = None,
        size: int = 128,
        batch_size: int = 64,
        seed: int = 0,
        interval: int = 1,
    ) -> None:
        lacking = [name for name in ("features", "project") if not callable(getattr(network, name, None))]
        if lacking:
            raise ConfigError(
                f"the network has no {' and no '.join(lacking)}, by which its embedding is watched",
                where="network_def", advice="medssl_monai.networks.ContrastiveNet has both.",
            )  # fmt: skip
        for name, value, least in (("size", size, FEWEST), ("batch_size", batch_size, 2), ("interval", interval, 1)):
            if value < least:
                raise ConfigError(f"{name} of the collapse watch", found=value, expected=f"{least} or more")
        self.network, self.dataset, self.views = network, dataset, views
        self.size, self.batch_size, self.seed, self.interval = size, batch_size, seed, interval
        self.collapsed = False
        self.start: dict[str, float] | None = None
        self.nearest = math.inf
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._labels: np.ndarray | None = None
        self._recorded: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Look after the epochs of ``engine`` (the trainer)."""
        handlers = list(getattr(engine, "handlers", []))
        before = handlers[: handlers.index(self)] if self in handlers else []
        if any(isinstance(handler, History) for handler in before):
            raise ConfigError(
                "the history would miss what the collapse watch measures", where="train::handlers",
                expected="medssl_monai.handlers.CollapseWatch before medssl_monai.handlers.History",
            )  # fmt: skip
        engine.add_event_handler(Events.EPOCH_STARTED, self.epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed)

    def epoch_started(self, engine: Engine) -> None:
        """Take back what the last look has put into the trainer's metrics; look once before the first step."""
        for name in self._recorded:
            engine.state.metrics.pop(name, None)
        self._recorded = []
        if self.start is None and is_main():
            self.start = measure(*self.embeddings())
            self.nearest = min(self.nearest, self.start["alignment_ratio"])  # inf where that is NaN

    def epoch_completed(self, engine: Engine) -> None:
        """Measure, record, and warn when a collapse begins.

        Raises:
            ConfigError: when the samples have no views.
        """
        epoch = engine.state.epoch
        # no exchange between processes in here: only the first one comes further
        if not is_main() or (epoch % self.interval and epoch != engine.state.max_epochs):
            return
        z1, z2 = self.embeddings()
        measured = measure(z1, z2, self._labels)
        warning = find_collapse(z1, z2, measured, self.start, self.nearest, self.collapsed)
        self.nearest = min(self.nearest, measured["alignment_ratio"])
        found = {f"embedding_{name}": value for name, value in measured.items()}
        found["embedding_collapsed"] = float(warning is not None)
        engine.state.metrics.update(found)
        self._recorded = list(found)
        if warning is not None and not self.collapsed:
            logger.warning("epoch %d: %s. If it stays so, stop the run and %s", epoch, warning, REMEDY)
        elif warning is None and self.collapsed:
            logger.info("epoch %d: the embeddings are no longer collapsed", epoch)
        self.collapsed = warning is not None

    def embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings of the first and the second views, each (N, D), float32; the network is left as it was."""
        weight, network = next(self.network.parameters()), self.network
        parts: list[Tensor] = []
        with _undisturbed(self.network, weight.device):
            if not self._batches:
                self._batches, self._labels = self._load(weight.device)
            for pair in self._batches:
                images = torch.cat(pair).to(weight.device, weight.dtype)
                if images.dim() == 4:
                    images = images.contiguous(memory_format=torch.channels_last)
                embedded: Tensor = network.project(network.features(images))  # type: ignore[operator]
                parts.append(torch.stack(embedded.float().chunk(2)).cpu())
        z1, z2 = torch.cat(parts, dim=1).numpy()
        return z1, z2

    def state_dict(self) -> dict[str, Any]:
        """Whether the embedding was collapsed when it was last looked at, and what later looks are compared with."""
        return {"collapsed": self.collapsed, "start": self.start, "nearest": self.nearest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.collapsed, self.start = bool(state["collapsed"]), state["start"]
        self.nearest = float(state["nearest"])

    def _load(self, device: torch.device) -> tuple[list[tuple[Tensor, Tensor]], np.ndarray | None]:
        """The views, by batches, in half precision on the CPU, and class indices where there are labels."""
        chosen = sorted(permutation(len(self.dataset), self.seed, "collapse watch")[: self.size].tolist())
        batches: list[tuple[Tensor, Tensor]] = []
        labels: list[Tensor] = []
        # of equal sizes, so that no batch is too small for BatchNorm
        for part in np.array_split(chosen, math.ceil(len(chosen) / self.batch_size)):
            keys = [SampleKey(int(i), _EPOCH) for i in part]
            collated = list_data_collate([self.dataset[key] for key in keys])  # as the trainer's loader does
            batch: Mapping[str, Any] = {
                key: value.to(device) if isinstance(value, Tensor) else value for key, value in collated.items()
            }
            labels += [batch["label"].cpu()] if isinstance(batch.get("label"), Tensor) else []
            if self.views is not None:
                batch = self.views(dict(batch), _EPOCH)
            missing = [key for key in _VIEWS if key not in batch]
            if missing:
                raise ConfigError(
                    f"the samples have no {' and no '.join(missing)}", where="the collapse watch's dataset",
                    found=", ".join(sorted(batch)), expected="view1 and view2",
                    advice="Give it the trainer's own dataset and `views`.",
                )  # fmt: skip
            batches.append((batch["view1"].half().cpu(), batch["view2"].half().cpu()))
        return batches, _classes(torch.cat(labels).numpy()) if labels else None


def _classes(labels: np.ndarray) -> np.ndarray | None:
    """Class indices (N,), -1 unknown; images with the same set of labels are a class of a multilabel task."""
    if labels.ndim == 2:
        unknown = (labels < 0).any(axis=1)
        labels = np.where(unknown, -1, np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1))
    elif labels.ndim != 1 or not np.array_equal(labels, np.rint(labels)):
        return None
    return labels.astype(np.int64) if (labels >= 0).any() else None


@contextmanager
def _undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Without gradient and dropout, BatchNorm by the batch; modes, statistics and random state stay as they are."""
    modes = [(module, module.training) for module in network.modules()]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    statistics = [(norm.running_mean, norm.running_var) for norm in norms]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            network.eval()
            for norm in norms:
                # in evaluation mode a layer without statistics of its own takes the batch's, and updates nothing; that
                # of several processes exchanges nothing
                norm.running_mean = norm.running_var = None
            yield
    finally:
        for norm, (mean, variance) in zip(norms, statistics):
            norm.running_mean, norm.running_var = mean, variance
        for module, training in modes:
            module.training = training
