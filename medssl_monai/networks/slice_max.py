"""The net of one plane of a volume: slices encoded one by one, the largest of each feature kept."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from medssl_monai.core import did_you_mean, draw_slices
from medssl_monai.networks.backbones import build_backbone

_TASKS = ("multilabel", "binary", "multiclass")


class SliceMaxClassifier(nn.Module):
    """Encoder on slices, maximum of the features over slices, one linear layer (thesis fig. 4.4, section 4.4.2).

    In training mode the net uses the slices it is given: a transform has sampled them. In evaluation mode it is given
    the whole volume and follows the thesis's Monte-Carlo rule (eq. 3.3): ``num_draws`` draws of ``num_slices`` slices
    (:func:`~medssl_monai.core.draw_slices`), whose probabilities are averaged. The draws are a function of the seed and
    the number of slices, so that the net is a function of its input. A slice of several draws is encoded once.

    The net can be scripted for volumes of any size. A trace holds for volumes of the traced number of slices only.

    Args:
        backbone: name for :func:`build_backbone`; the thesis has ResNet-50 and ResNet-101.
        num_classes: L, logits: labels, or classes of a multiclass task.
        in_channels: channels of the volume.
        width: factor of the encoder's channels; 1 is the published layout.
        num_slices: slices of a draw; a volume of no more is used as a whole.
        num_draws: draws that are averaged in evaluation mode.
        seed: of the draws.
        task: ``multilabel`` or ``binary`` (probabilities by sigmoid), or ``multiclass`` (by softmax).
        stem: stem of the encoder, see :func:`build_backbone`.
        slice_chunk: slices that are encoded at once in evaluation mode; it bounds the memory and changes no result.

    Attributes:
        pooled: what :meth:`features` gives passes through it, one row a volume, so that a hook finds it there.

    Raises:
        ConfigError: for an unknown backbone or stem.
        ValueError: for sizes below 1, an unknown task, or a number of classes that does not fit it.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 1,
        in_channels: int = 1,
        width: float = 1.0,
        num_slices: int = 16,
        num_draws: int = 8,
        seed: int = 0,
        task: str = "multilabel",
        stem: str = "imagenet",
        slice_chunk: int = 64,
    ) -> None:
        super().__init__()
        sizes = {
            "num_classes": num_classes,
            "num_slices": num_slices,
            "num_draws": num_draws,
            "slice_chunk": slice_chunk,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        if task not in _TASKS:
            raise ValueError(f"task: unknown task {task!r}.{did_you_mean(str(task), _TASKS)}")
        if (task == "binary" and num_classes != 1) or (task == "multiclass" and num_classes < 2):
            expected = "1" if task == "binary" else "2 or more"
            raise ValueError(f"num_classes: expected {expected} for a {task} task, got {num_classes}")
        self.num_slices, self.num_draws, self.seed, self.slice_chunk = num_slices, num_draws, int(seed), slice_chunk
        self.multiclass = task == "multiclass"
        self.encoder = build_backbone(backbone, in_channels, width, stem)
        self.pooled = nn.Identity()
        self.classifier = nn.Linear(self.encoder.num_features, num_classes)

    @torch.jit.export
    def features(self, x: Tensor) -> Tensor:
        """Largest features over the slices, shape (N, F); in evaluation mode averaged over the draws.

        Args:
            x: volumes in [0, 1], shape (N, in_channels, H, W, S).

        Raises:
            ValueError: for volumes of another shape or dtype.
        """
        pooled: Tensor = self.pooled(self._largest(x).mean(dim=0))
        return pooled

    def classify(self, features: Tensor) -> Tensor:
        """Logits, shape (..., L), of features (..., F)."""
        logits: Tensor = self.classifier(features)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Logits of volumes.

        In evaluation mode their sigmoid (softmax of a multiclass task) is the mean of the draws' probabilities, eq.
        3.3: log-odds of the means, or logarithms of the means.

        Args:
            x: volumes in [0, 1], shape (N, in_channels, H, W, S).

        Returns:
            Shape (N, L).

        Raises:
            ValueError: for volumes of another shape or dtype.
        """
        largest = self._largest(x)
        self.pooled(largest.mean(dim=0))  # for a hook that collects embeddings on the way
        logits = self.classify(largest)
        if logits.size(0) == 1:
            return logits[0]
        logits = logits if logits.dtype == torch.float64 else logits.float()  # autocast's are rounded to 8 or 11 bits
        # in logarithms, so that a probability that rounds to 0 or 1 keeps its logit
        if self.multiclass:
            return log_softmax(logits, dim=-1).logsumexp(dim=0) - math.log(logits.size(0))
        return logsigmoid(logits).logsumexp(dim=0) - logsigmoid(-logits).logsumexp(dim=0)

    def _largest(self, x: Tensor) -> Tensor:
        """Largest features of each draw, shape (draws, N, F); of all slices, as one draw, in training mode."""
        if not torch.jit.is_tracing() and (x.dim() != 5 or x.size(4) < 1):  # type: ignore[no-untyped-call]
            raise ValueError(
                f"volumes: expected shape (N, {self.encoder.in_channels}, H, W, S) with S slices, got {list(x.shape)}"
            )
        size = int(x.size(4))
        if self.training:
            # in one pass, which BatchNorm's statistics are of
            return self._encode(x, torch.arange(size), size * int(x.size(0))).amax(dim=0, keepdim=True)
        if size <= self.num_slices:  # every draw is the whole volume
            return self._encode(x, torch.arange(size), self.slice_chunk).amax(dim=0, keepdim=True)
        draws = draw_slices(size, self.num_slices, self.num_draws, self.seed)
        needed, places = torch.unique(draws, return_inverse=True)
        encoded = self._encode(x, needed, self.slice_chunk)
        return encoded[places.to(x.device)].amax(dim=1)

    def _encode(self, x: Tensor, positions: Tensor, chunk: int) -> Tensor:
        """Features of slices, shape (slices, N, F), of no more than ``chunk`` slices of the batch at once."""
        count, number = int(positions.size(0)), int(x.size(0))
        step = max(1, chunk // number) if chunk < count * number else count
        parts: list[Tensor] = []
        for start in range(0, count, step):
            chosen = positions[start : start + step].to(x.device)
            slices = x.index_select(4, chosen).permute(4, 0, 1, 2, 3)
            parts.append(self.encoder(slices.flatten(0, 1)).unflatten(0, [-1, number]))
        return torch.cat(parts)
