"""What all trainers share: named loss terms, autocast by device, clipping, stateless seeds, guards against NaN."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor, nn
from torch.optim import Optimizer

from medssl_monai.core import ConfigError, did_you_mean, seed_torch
from medssl_monai.core.distributed import rank, world_size
from medssl_monai.engines.objective import (
    distributed_objective,
    mean_over_processes,
    same_buffers,
    synchronised_batch_norm,
)
from medssl_monai.engines.precision import autocast_dtype
from medssl_monai.engines.settings import check_settings
from medssl_monai.handlers.guards import check_finite


def to_device(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, channels_last: bool = True
) -> dict[str, Any]:
    """Move the tensors of a batch, images (N, C, H, W) with their channels last; everything else is kept."""

    def move(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        layout = torch.channels_last if channels_last and value.dim() == 4 else torch.preserve_format
        return value.to(device, non_blocking=non_blocking, memory_format=layout)

    return {key: move(value) for key, value in batch.items()}


@contextmanager
def telling(handlers: Sequence[Any], engine: Engine) -> Iterator[None]:
    """A run of ``engine``: handlers with ``before_run`` or ``after_run`` are told, of the end however it comes.

    Ignite's events come too late for what must hold before any handler writes (locks, checks), and not at all when a
    process is told to end.
    """
    error: BaseException | None = None
    try:
        for handler in handlers:
            if hasattr(handler, "before_run"):
                handler.before_run(engine)
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        for handler in handlers:
            if hasattr(handler, "after_run"):
                handler.after_run(engine, error)


class LabelEfficientTrainer(SupervisedTrainer):  # type: ignore[misc]
    """MONAI's trainer with an objective of several named terms.

    A subclass gives :meth:`loss_terms`; the weighted sum of the terms reaches ``backward``. Every term is kept in
    ``engine.state.output["terms"]``, unweighted, for the logs. An iteration seeds torch from (seed, epoch, iteration),
    so that dropout is the same in a run that was stopped and resumed.

    With several processes (:func:`medssl_monai.core.distributed.join_processes`) each works on its share of the batch.
    Gradients are averaged, ``engine.state.output`` holds means over the processes, and after every step weights and
    buffers are the same everywhere. Dropout draws differ by process.

    Args:
        device: where to train.
        max_epochs: epochs to run.
        train_data_loader: loader of dictionary batches; where its batch sampler has ``set_epoch`` it is told the
            epoch and the steps of it that are done.
        network: the network whose parameters ``optimizer`` holds.
        optimizer: the optimiser.
        weights: weight of each term; a term of weight 0 is not computed.
        seed: the run's seed.
        train_handlers: handlers, attached in this order.
        amp: run the forward pass and the losses under autocast of ``amp_dtype`` (losses compute in float32 inside).
        amp_dtype: ``"bfloat16"`` or ``"float16"`` (with gradient scaling).
        max_grad_norm: clip the gradient to this norm, above 0; ``None`` leaves it.
        non_blocking: copy batches to the device without waiting.

    Raises:
        ConfigError: when ``weights`` names a term this trainer does not have, or is all zero; or ``max_grad_norm`` is
            not a finite number above 0.
    """

    #: names of the terms a subclass can compute
    terms: tuple[str, ...] = ()

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        optimizer: Optimizer,
        weights: Mapping[str, float],
        seed: int = 0,
        train_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        max_grad_norm: float | None = None,
        non_blocking: bool = False,
    ) -> None:
        for name in weights:
            if name not in self.terms:
                raise ConfigError(f"unknown loss term {name!r}", where="weights", advice=did_you_mean(name, self.terms))
        self.weights = {name: float(weight) for name, weight in weights.items() if weight}
        if not self.weights:
            raise ConfigError("every loss term has weight 0", where="weights", expected=f"some of {self.terms}")
        check_settings(max_grad_norm=max_grad_norm)
        self.seed, self.max_grad_norm = seed, max_grad_norm
        self.autocast_dtype = autocast_dtype(amp, amp_dtype)
        self._measuring = False
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=lambda *_: None,  # the objective is `loss_terms`; MONAI's constructor wants a callable
            train_handlers=None,
            decollate=False,
            non_blocking=non_blocking,
        )
        # depthwise and grouped convolutions are about twice as fast with channels last, plain ones a little
        for module in self.stateful_modules:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        synchronised_batch_norm(self.stateful_modules, self.state.device)
        self.objective = distributed_objective(
            network, lambda batch: self.network_pass(batch), self.all_parameters_used
        )
        # MONAI's own autocast and scaler are for CUDA only
        self.grad_scaler = torch.amp.GradScaler(self.state.device.type, enabled=self.autocast_dtype == torch.float16)
        set_epoch = getattr(getattr(train_data_loader, "batch_sampler", None), "set_epoch", None)
        if set_epoch is not None:
            # before any other handler: the loader is iterated anew right after EPOCH_STARTED
            self.add_event_handler(Events.EPOCH_STARTED, lambda: set_epoch(self.state.epoch - 1, self.offset))
        self.handlers = list(train_handlers or [])  # RunCheckpoint saves the state of those that have one
        self._register_handlers(self.handlers)

    @abstractmethod
    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the terms of :attr:`weights` (unweighted scalars) for a batch that is on the device already."""

    def run(self) -> None:  # type: ignore[override]
        """Train. Handlers with ``before_run`` or ``after_run`` are told, of the end however it comes."""
        with telling(self.handlers, self):
            super().run()

    @property
    def offset(self) -> int:
        """Steps of this epoch that are done already; more than 0 at the start of an epoch that is resumed."""
        done: int = self.state.iteration - (self.state.epoch - 1) * self.state.epoch_length
        return done

    @property
    def stateful_modules(self) -> list[nn.Module]:
        """Modules a forward pass may change (BatchNorm statistics)."""
        return [self.network]

    @property
    def all_parameters_used(self) -> bool:
        """Whether every step gives every parameter a gradient; with several processes a search is saved then."""
        return False

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device; a hook for what is made of it there (views)."""
        return to_device(batch, self.state.device, self.non_blocking)

    def network_pass(self, batch: dict[str, Any]) -> Any:
        """What :attr:`objective` calls: the pass through the network whose gradients are averaged over processes."""
        return self.loss_terms(batch)

    def forward_pass(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of a batch that is on the device, under autocast."""
        with self.autocast():
            terms: dict[str, Tensor] = self.objective(batch)
        return terms

    def backward_pass(self, total: Tensor) -> None:
        """Leave the gradients of ``total`` (scaled where precision asks for it) in the parameters."""
        total.backward()  # type: ignore[no-untyped-call]

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of the terms."""
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        return torch.autocast(
            self.state.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> dict[str, Any]:
        state, optimizer = self.state, self.optimizer
        process = ("process", rank()) if world_size() > 1 else ()
        seed_torch(self.seed, "step", state.epoch, state.iteration, *process)
        batch = self.prepare(batchdata)
        self.network.train()
        optimizer.zero_grad(set_to_none=True)
        terms = self.forward_pass(batch)
        total = self.total(terms)
        means = mean_over_processes({**terms, "loss": total})
        state.output = {"loss": means["loss"], "terms": {name: means[name] for name in terms}}
        context = {
            "iteration": state.iteration, "learning_rate": optimizer.param_groups[0]["lr"],
            "names": batch.get("name", ()),
        }  # fmt: skip
        check_finite(means, **context)  # the same numbers in all processes: all stop or none
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.backward_pass(self.grad_scaler.scale(total))
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self._step(context)
        self.after_step()
        same_buffers(self.stateful_modules)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return dict(state.output)

    def _step(self, context: dict[str, Any]) -> None:
        """Clip, guard and apply the gradient."""
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        limit = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        if not self.grad_scaler.is_enabled():
            # float16 scaling overflows by design: the scaler skips such a step and lowers the scale
            check_finite({"gradient norm": norm}, **context)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def after_step(self) -> None:
        """Hook after the optimiser's step (teacher update)."""

    def measure_step(self, batch: dict[str, Any], repeats: int = 2) -> float:
        """Seconds of one full step without its effect: weights, buffers and random state are as before.

        The optimiser's own arithmetic is not in it. The first repeat warms up and does not count.
        """
        saved = [{k: v.clone() for k, v in module.state_dict().items()} for module in self.stateful_modules]
        training = [module.training for module in self.stateful_modules]
        random_state = torch.get_rng_state()
        batch = to_device(batch, self.state.device, channels_last=False)  # the copy is part of no step
        self.network.train()
        self._measuring = True
        try:
            for _ in range(repeats):
                start = time.perf_counter()
                total = self.total(self.forward_pass(self.prepare(batch)))
                self.backward_pass(total)
                if self.state.device.type == "cuda":
                    torch.cuda.synchronize()
                seconds = time.perf_counter() - start
                self.optimizer.zero_grad(set_to_none=True)
                del total
        finally:
            self._measuring = False
            for module, state, mode in zip(self.stateful_modules, saved, training):
                module.load_state_dict(state)
                module.train(mode)
            torch.set_rng_state(random_state)
        return seconds
