"""The evaluator of classifiers: MONAI's, with autocast by device and the figures a checkpoint is chosen by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any

import torch
from ignite.metrics import EpochMetric
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents, default_prepare_batch
from torch import Tensor

from medssl_monai.data.shards import gather_shards
from medssl_monai.engines.base import telling
from medssl_monai.engines.precision import autocast_dtype
from medssl_monai.metrics import balanced_top1_accuracy, macro_auroc


def _probabilities(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return torch.softmax(torch.as_tensor(output["pred"]).double(), dim=1), torch.as_tensor(output["label"])


class _SharedMetric(EpochMetric):
    """Ignite's ``EpochMetric`` over the processes' shares, which need not be of one size, in the dataset's order."""

    def __init__(self, compute: Callable[[Any, Any], float], loader: Iterable[Any]) -> None:
        def on_tensors(probabilities: Tensor, labels: Tensor) -> float:
            return float(compute(labels.numpy(), probabilities.numpy()))

        self.loader = loader
        super().__init__(on_tensors, output_transform=_probabilities, check_compute_fn=False)

    def compute(self) -> float:
        """The metric of all images, computed in every process from the same numbers."""
        probabilities = torch.cat(gather_shards(self.loader, self._predictions))
        return float(self.compute_fn(probabilities, torch.cat(gather_shards(self.loader, self._targets))))


class ClassificationEvaluator(SupervisedEvaluator):  # type: ignore[misc]
    """Evaluates a classifier of exclusive classes from its logits; batches stay batches.

    Without postprocessing, and where the batches carry ``label``, ``state.metrics`` holds ``macro_auroc`` (classes
    without a case or without a counter-case are left out) and ``balanced_top1_accuracy``. An empty loader (a label
    budget without validation labels) is not run.

    Where the loader's sampler is a :class:`medssl_monai.data.ShardSampler` each process evaluates its share, and the
    metrics are those of all images, in every process; else every process evaluates all of them.

    Args:
        amp: run the network under autocast of ``amp_dtype``; outputs are float32 all the same, so that probabilities
            are not rounded to the three digits of half precision.
        amp_dtype: ``"bfloat16"`` or ``"float16"``.
        with_metrics: compute the metrics.
        **kwargs: as for MONAI's ``SupervisedEvaluator``.
    """

    def __init__(
        self, *, amp: bool = False, amp_dtype: str = "bfloat16", with_metrics: bool = True, **kwargs: Any
    ) -> None:
        if with_metrics:
            loader = kwargs["val_data_loader"]
            kwargs["key_val_metric"] = {"macro_auroc": _SharedMetric(lambda y, p: macro_auroc(y, p).value, loader)}
            kwargs["additional_metrics"] = {"balanced_top1_accuracy": _SharedMetric(balanced_top1_accuracy, loader)}
        kwargs.setdefault("decollate", False)
        kwargs.setdefault("prepare_batch", default_prepare_batch)
        self.autocast_dtype = autocast_dtype(amp, amp_dtype)
        super().__init__(**kwargs)
        self.handlers = list(kwargs.get("val_handlers") or [])
        if self.autocast_dtype is not None:
            # ahead of postprocessing and metrics, which MONAI attaches to later events
            self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._full_precision)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        enabled = self.autocast_dtype is not None
        with torch.autocast(self.state.device.type, dtype=self.autocast_dtype, enabled=enabled):
            output: dict[str, Any] = super()._iteration(engine, batchdata)
        return output

    def _full_precision(self) -> None:
        output: Any = self.state.output
        output["pred"] = output["pred"].float()

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Evaluate; ``global_epoch`` is the trainer's."""
        if isinstance(self.data_loader, Sized) and len(self.data_loader) == 0:
            self.logger.info("no validation image: nothing to evaluate")
            return
        with telling(self.handlers, self):
            super().run(global_epoch)
