"""How sure a prototype segmenter is of each organ that it finds."""

from __future__ import annotations

import torch
from torch import Tensor


def organ_confidence(logits: Tensor, outside: float | None = None) -> Tensor:
    """Confidence of each organ, from 0 to 1: mean over slices of the mean probability of its predicted pixels.

    A slice counts 0 where no pixel is predicted as the organ. Slices in which the organ is not looked for (all its
    logits are at most ``outside``) do not count; an organ without any other slice has 0. It needs no label, and says
    little of the Dice: it is made to be compared with the supports' own (see the threshold of absence).

    Args:
        logits: (N, 1 + O, H, W, S) of volumes or (N, 1 + O, H, W) of slices, background first.
        outside: logit of an organ where it is not looked for; ``None``: every slice counts.

    Returns:
        (N, O).

    Raises:
        ValueError: for another number of dimensions, or no organ.
    """
    if logits.ndim not in (4, 5) or logits.shape[1] < 2:
        raise ValueError(f"logits: expected (N, 1 + O, H, W, S) or (N, 1 + O, H, W), got shape {tuple(logits.shape)}")
    logits = logits.as_subclass(Tensor)
    logits = logits[..., None] if logits.ndim == 4 else logits
    of_slices = slice_confidence(logits)
    looked_for = torch.ones_like(of_slices, dtype=torch.bool)
    if outside is not None:
        looked_for = (logits[:, 1:] > outside).any(dim=2).any(dim=2)
    return (of_slices * looked_for).sum(dim=2) / looked_for.sum(dim=2).clamp_min(1)


def slice_confidence(logits: Tensor) -> Tensor:
    """Mean probability (N, O, S) of the pixels of a slice that are predicted as an organ; 0 where none are.

    Args:
        logits: (N, 1 + O, H, W, S), background first.
    """
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    organs = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, 1, 1, 1)
    predicted = logits.argmax(dim=1, keepdim=True) == organs
    probability = logits.softmax(dim=1)[:, 1:] * predicted
    return probability.sum(dim=(2, 3)) / predicted.sum(dim=(2, 3)).clamp_min(1)
