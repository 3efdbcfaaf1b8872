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
from medssl_monai.losses.binary import check_label_table
from medssl_monai.metrics import balanced_label_accuracy, balanced_top1_accuracy, macro_auroc


def _probabilities(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    return torch.softmax(torch.as_tensor(output["pred"]).double(), dim=1), torch.as_tensor(output["label"])


def _label_probabilities(output: dict[str, Any]) -> tuple[Tensor, Tensor]:
    scores = torch.sigmoid(torch.as_tensor(output["pred"]).double())
    return scores, check_label_table(torch.as_tensor(output["label"]), scores.shape)


class _SharedMetric(EpochMetric):
    """Ignite's ``EpochMetric`` over the processes' shares, which need not be of one size, in the dataset's order."""

    def __init__(self, compute: Callable[[Any, Any], float], loader: Iterable[Any], exclusive: bool) -> None:
        def on_tensors(probabilities: Tensor, labels: Tensor) -> float:
            if not exclusive and probabilities.dim() == 1:  # Ignite takes the dimension of a single label away
                probabilities, labels = probabilities[:, None], labels[:, None]
            return float(compute(labels.numpy(), probabilities.numpy()))

        self.loader = loader
        transform = _probabilities if exclusive else _label_probabilities
        super().__init__(on_tensors, output_transform=transform, check_compute_fn=False)

    def compute(self) -> float:
        """The metric of all images, computed in every process from the same numbers."""
        probabilities = torch.cat(gather_shards(self.loader, self._predictions))
        return float(self.compute_fn(probabilities, torch.cat(gather_shards(self.loader, self._targets))))


def _auroc(labels: Any, probabilities: Any) -> float:
    return macro_auroc(labels, probabilities).value


class AutocastEvaluator(SupervisedEvaluator):  # type: ignore[misc]
    """MONAI's evaluator with autocast by device; an empty loader is not run.

    Args:
        amp: run the network under autocast of ``amp_dtype``; outputs are float32 all the same, so that probabilities
            are not rounded to the three digits of half precision.
        amp_dtype: ``"bfloat16"`` or ``"float16"``.
        **kwargs: as for MONAI's ``SupervisedEvaluator``.
    """

    def __init__(self, *, amp: bool = False, amp_dtype: str = "bfloat16", **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", default_prepare_batch)
        self.autocast_dtype = autocast_dtype(amp, amp_dtype)
        super().__init__(**kwargs)
        self.handlers = list(kwargs.get("val_handlers") or [])
        if self.autocast_dtype is not None:
            # ahead of postprocessing and metrics, which MONAI attaches to later events
            self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._full_precision)

    def autocast(self) -> torch.autocast:
        """The context the network runs in."""
        enabled = self.autocast_dtype is not None
        return torch.autocast(self.state.device.type, dtype=self.autocast_dtype, enabled=enabled)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        with self.autocast():
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


class ClassificationEvaluator(AutocastEvaluator):
    """Evaluates a classifier from its logits; batches stay batches.

    Without postprocessing, and where the batches carry ``label``, ``state.metrics`` holds ``macro_auroc`` (classes
    without a case or without a counter-case are left out) and, of exclusive classes, ``balanced_top1_accuracy``; of
    labels that are each there or not ``balanced_accuracy``, the mean over labels of sensitivity and specificity at a
    probability of 0.5. An empty loader (a label budget without validation labels) is not run.

    Where the loader's sampler is a :class:`medssl_monai.data.ShardSampler` each process evaluates its share, and the
    metrics are those of all images, in every process; else every process evaluates all of them.

    Args:
        with_metrics: compute the metrics.
        exclusive: the outputs are exclusive classes (softmax, labels (N,)); otherwise labels that are each there or
            not (sigmoid; labels (N, L) of 0 and 1, or (N,) where there is one).
        **kwargs: as for :class:`AutocastEvaluator`.
    """

    def __init__(
        self,
        *,
        with_metrics: bool = True,
        exclusive: bool = True,
        **kwargs: Any,
    ) -> None:
        if with_metrics:
            loader = kwargs["val_data_loader"]
            name, balanced = (
                ("balanced_top1_accuracy", balanced_top1_accuracy)
                if exclusive
                else ("balanced_accuracy", balanced_label_accuracy)
            )
            kwargs["key_val_metric"] = {"macro_auroc": _SharedMetric(_auroc, loader, exclusive)}
            kwargs["additional_metrics"] = {name: _SharedMetric(balanced, loader, exclusive)}
        kwargs.setdefault("decollate", False)
        super().__init__(**kwargs)
