"""The evaluator of organ segmentation: each scan once, by one protocol or two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from torch import Tensor

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.engines.evaluator import AutocastEvaluator

PROTOCOLS = ("blind", "paper")
"""How a query is segmented: without any label, or within the slices in which its own labels show an organ."""


def label_ranges(labels: Tensor, values: Sequence[int]) -> Tensor:
    """First and last slice that show each organ (thesis 7.4.2.1).

    Args:
        labels: (N, 1, H, W, S), whole numbers.
        values: O integers, what an organ is in the labels.

    Returns:
        (N, O, 2), int64; (0, -1) for an organ that is not there.

    Raises:
        ValueError: for labels of another shape.
    """
    if labels.ndim != 5 or labels.shape[1] != 1:
        raise ValueError(f"labels: expected (N, 1, H, W, S), got {tuple(labels.shape)}")
    shown = torch.stack([(labels[:, 0] == value).any(dim=1).any(dim=1) for value in values], dim=1)
    size = shown.shape[2]
    first, last = shown.long().argmax(dim=2), size - 1 - shown.flip(2).long().argmax(dim=2)
    ranges = torch.stack([first, last], dim=2)
    return torch.where(shown.any(dim=2)[..., None], ranges, torch.tensor([0, -1], device=ranges.device))


class SegmentationEvaluator(AutocastEvaluator):
    """Segments whole scans; postprocessing takes the results back to the scans' own geometry.

    Batches hold ``image`` (N, 1, H, W, S), prepared (:func:`~medssl_monai.transforms.scan_transforms`), and ``name``;
    for the protocol ``paper`` also ``label`` on the same grid. The output of protocol ``blind`` is ``network(image)``,
    under ``pred``; of ``paper`` it is ``network.forward_within(image, ranges)``, under ``paper_pred``, the ranges taken
    from the query's labels (:func:`label_ranges`): an upper bound, for nobody has these labels of a new scan. With both
    ``blind`` is the headline. Postprocessing
    (:class:`~medssl_monai.transforms.RestoreLabelMapd` for both keys) follows; the confidence of each organ is taken
    from the logits before, (O,) a scan, and travels as ``confidence``.

    Args:
        values: O integers, what an organ is in the labels, in the order of the network's outputs.
        protocols: of :data:`PROTOCOLS`; ``blind`` is always among them.
        confidence: logits (N, 1 + O, H, W, S) -> confidence of each organ (N, O); ``None`` gives none.
        **kwargs: as for :class:`AutocastEvaluator`.

    Raises:
        ConfigError: for an unknown protocol, none of ``blind``, or a network that has no ``forward_within`` where
            ``paper`` is asked for.
    """

    def __init__(
        self,
        *,
        values: Sequence[int],
        protocols: Sequence[str] = ("blind",),
        confidence: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = [name for name in protocols if name not in PROTOCOLS]
        if unknown or PROTOCOLS[0] not in protocols:
            raise ConfigError(
                "cannot be used", where="protocols", found=list(protocols),
                expected="blind, or blind and paper: blind is the headline",
                advice=did_you_mean(unknown[0], PROTOCOLS) if unknown else None,
            )  # fmt: skip
        if "paper" in protocols and not hasattr(kwargs["network"], "forward_within"):
            raise ConfigError(
                "this network cannot be told in which slices an organ lies", where="protocols", found="paper",
                expected="a network with forward_within(x, ranges)",
                advice="Name only blind, or serve a CoWProSegmenter.",
            )  # fmt: skip
        self.values, self.protocols, self.confidence = list(values), tuple(protocols), confidence
        super().__init__(**kwargs)
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._complete)

    @torch.no_grad()
    def _complete(self) -> None:
        """Add what the forward pass of MONAI's evaluator does not give."""
        output: Any = self.state.output
        if self.confidence is not None:
            output["confidence"] = self.confidence(output["pred"])
        if "paper" not in self.protocols:
            return
        if output.get("label") is None:
            raise ConfigError(
                "protocol paper takes the slices of each organ from the query's labels, and this scan has none",
                where="protocols", found="paper", advice="Name only blind, or evaluate labelled scans.",
            )  # fmt: skip
        ranges = label_ranges(torch.as_tensor(output["label"]), self.values)
        network: Any = self.network
        with eval_mode(network), self.autocast():
            output["paper_pred"] = network.forward_within(output["image"], ranges).float()
