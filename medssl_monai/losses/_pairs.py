"""Losses over all pairs of a batch of two views: one symmetric matrix of similarities, value and gradient in one go.

The value of such a loss and the gradient of the embeddings need the same matrix, so that both are computed in the
forward pass and the backward pass only multiplies. Only the upper blocks of the matrix are computed, each once. With a
chunk size they are computed a second time for the gradient instead of being kept: memory then grows with 2N, not with
its square.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.core.distributed import gather_with_gradient
from medssl_monai.losses._common import check_flag, full_precision, without_autocast
from medssl_monai.losses._pair_terms import Kept, Term

#: rows of the matrix computed at once where no chunk size is given: small enough for a processor's cache
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Positives:
    """What the positive pairs add to a loss.

    Attributes:
        value: their part of the loss, a scalar.
        derivative: with respect to the N products of embeddings, shape (N,); a squared distance of them counts as a
            constant minus twice the product.
    """

    value: Tensor
    derivative: Tensor


class PairLoss(nn.Module):
    """Base of the losses called with two views: checks, gathering, and the sum over all pairs.

    Args:
        gather_distributed: compare with the samples of all processes, as one process with all of them would. Every
            process must then call the loss, with as many samples as the others, and gets the same value; averaged
            over the processes, as DistributedDataParallel does, the gradients are those of that one process.
        chunk_size: rows of the (2N, 2N) similarity matrix held at once, for batches whose matrix does not fit:
            memory grows with ``chunk_size`` times 2N, for somewhat more time. ``None`` holds the matrix.
    """

    #: whether embeddings are L2-normalised; else they are compared as they are, by distance, in float64
    normalize = True

    def __init__(self, gather_distributed: bool = False, chunk_size: int | None = None) -> None:
        super().__init__()
        if chunk_size is not None and (
            isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1
        ):
            raise ValueError(f"chunk_size: expected a whole number above 0, or None, got {chunk_size!r}")
        self.gather_distributed = check_flag("gather_distributed", gather_distributed)
        self.chunk_size = chunk_size

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        """Compute the loss.

        Args:
            z1: embeddings of the first views, shape (N, D), of N >= 2 samples (over all processes, where they are
                gathered).
            z2: embeddings of the second views of the same samples in the same order, shape (N, D).

        Returns:
            The loss, a scalar in the embeddings' precision, never below float32; it can be differentiated once, not
            twice.

        Raises:
            ValueError: for a wrong shape or dtype, a batch of one sample, or processes with different shapes.
        """
        first, second = check_views(z1, z2)
        if self.gather_distributed:
            first, second = gather_with_gradient(torch.stack([first, second], dim=1)).unbind(dim=1)
        if len(first) < 2:
            raise ValueError(
                f"z1 and z2: one pair has no negatives; expected at least 2 samples, got shape {tuple(first.shape)}"
            )
        learn = torch.is_grad_enabled() and (first.requires_grad or second.requires_grad)
        loss: Tensor = _PairSum.apply(first, second, self, learn)  # type: ignore[no-untyped-call]
        return loss

    @abstractmethod
    def terms(self, count: int) -> list[Term]:
        """The sums over pairs that make up the loss of ``count`` pairs of views, beside the positives."""

    @abstractmethod
    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """What the positive pairs add, from their products and squared distances, shape (N,) each."""


def check_views(z1: Tensor, z2: Tensor) -> tuple[Tensor, Tensor]:
    """Two views' embeddings in full precision.

    Raises:
        ValueError: when they are not two floating-point matrices of one shape and dtype, without an empty dimension.
    """
    first, second = full_precision("z1", z1), full_precision("z2", z2)
    if first.dim() != 2 or 0 in first.shape:
        raise ValueError(f"z1: expected shape (N, D) = (samples, embedding), got {tuple(first.shape)}")
    if first.shape != second.shape:
        raise ValueError(
            f"z1 and z2: expected two views of one shape, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.dtype != second.dtype:
        raise ValueError(f"z1 and z2: expected one dtype, got {z1.dtype} and {z2.dtype}")
    return first, second


class _PairSum(torch.autograd.Function):
    """Value of a pair loss, with the embeddings' gradient computed beside it."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, loss: PairLoss, learn: bool) -> Tensor:
        with without_autocast(first):
            rows = torch.cat([first, second])
            if loss.normalize:
                unit, inverse = _unit_rows(rows)
            else:
                # Distances stay, and no large common part is left to cancel; float64 for what cancels nevertheless.
                exact = rows.double()
                unit = exact - exact.mean(dim=0)
            value, gradient, exponent = _evaluate(unit, loss, learn)
            if not loss.normalize:
                value, gradient = value.to(rows.dtype), None if gradient is None else gradient.to(rows.dtype)
            if gradient is not None and loss.normalize:
                along = torch.linalg.vecdot(unit, gradient).unsqueeze(1)
                gradient = gradient.addcmul_(unit, along, value=-1).mul_(inverse)
        ctx.exponent = exponent
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        # torch's once_differentiable would hand out the gradient as a constant, and a penalty of it would be ignored.
        if torch.is_grad_enabled():
            raise RuntimeError("a contrastive loss can be differentiated once only; call backward without create_graph")
        (gradient,) = ctx.saved_tensors
        if ctx.exponent is None:
            result = gradient * outer
        else:
            # in float64, and bounded, so that zeros stay zeros where the factor exceeds the gradient's own range
            factor = (outer.double() * ctx.exponent.double().exp()).clamp(-_LARGEST, _LARGEST)
            result = (gradient.double() * factor).to(gradient.dtype)
        half = len(result) // 2
        return result[:half], result[half:], None, None


_LARGEST = torch.finfo(torch.float64).max


def _unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`normalize_rows`, and what the gradient across a row is multiplied by on the way back to it."""
    largest = rows.abs().amax(dim=1, keepdim=True)
    usable = ~(largest < torch.finfo(rows.dtype).tiny ** 0.5)
    inverse = torch.where(usable, largest.reciprocal(), 0.0)
    unit = rows * inverse
    norm = torch.linalg.vector_norm(unit, dim=1, keepdim=True).clamp_(min=0.5)  # 1 or more, or the row is zero
    return unit.div_(norm), inverse.div_(norm)


class _Matrix:
    """Upper blocks of the symmetric matrix of logits, term by term."""

    def __init__(self, unit: Tensor, loss: PairLoss) -> None:
        self.unit, self.count = unit, len(unit)
        self.terms = loss.terms(self.count // 2)
        for term in self.terms:
            term.begin(self.count, unit)
        self.rows = min(loss.chunk_size or _BLOCK_ROWS, self.count)
        self.starts = range(0, self.count, self.rows)
        self.raw = not loss.normalize
        if any(term.distance for term in self.terms):
            self.squares = torch.linalg.vecdot(unit, unit)

    def blocks(self, start: int) -> list[Kept]:
        """What the terms keep of the block of rows from ``start``."""
        rows, columns = self.unit[start : start + self.rows], self.unit[start:].T
        if len(self.terms) == 1:
            return [self._logits(self.terms[0], rows, columns, start)]
        products = rows @ columns
        return [self._logits(term, rows, columns, start, products) for term in self.terms]

    def _logits(self, term: Term, rows: Tensor, columns: Tensor, start: int, products: Tensor | None = None) -> Kept:
        if term.distance:
            own = self.squares[start:] * (-0.5 * term.scale)
            logits = own[: len(rows), None] + own
            if products is None:
                logits.addmm_(rows, columns, alpha=term.scale)
            else:
                logits.add_(products, alpha=term.scale)
        elif products is None:
            logits = (rows * term.scale if term.scale != 1 else rows) @ columns
        else:
            logits = products * term.scale
        return term.look(logits, start)

    def add(self, kept: list[Kept], start: int, gradient: Tensor) -> None:
        """Add what a block and its mirror contribute to the gradient of the embeddings."""
        first, *others = self.terms
        stop = start + self.rows
        block, factor = first.derivative(kept[0], start), first.scale * first.weight
        for term, own in zip(others, kept[1:]):
            block.add_(term.derivative(own, start), alpha=term.scale * term.weight / factor)
        gradient[start:stop].addmm_(block, self.unit[start:], alpha=factor)
        mirrored = block[:, self.rows :].T
        if len(mirrored):
            gradient[stop:].addmm_(mirrored, self.unit[start:stop], alpha=factor)
        if self.raw:  # of a distance, the lengths have a gradient too
            gradient[start:stop].addcmul_(self.unit[start:stop], block.sum(dim=1, keepdim=True), value=-factor)
            if len(mirrored):
                gradient[stop:].addcmul_(self.unit[stop:], mirrored.sum(dim=1, keepdim=True), value=-factor)


def _evaluate(unit: Tensor, loss: PairLoss, learn: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Value; gradient of the rows, divided by the exponential of the third where that is not ``None``."""
    matrix = _Matrix(unit, loss)
    later = any(term.two_pass for term in matrix.terms)
    keep = learn and later and (loss.chunk_size is None or len(matrix.starts) == 1)
    gradient = torch.zeros_like(unit) if learn else None
    kept: dict[int, list[Kept]] = {}
    for start in matrix.starts:
        block = matrix.blocks(start)
        if gradient is not None and not later:
            matrix.add(block, start, gradient)
        elif keep:
            kept[start] = block
    values = [term.close() for term in matrix.terms]
    exponent = matrix.terms[0].exponent()
    if gradient is not None and later:
        for start in matrix.starts:
            matrix.add(kept.pop(start) if keep else matrix.blocks(start), start, gradient)
    return _with_positives(unit, loss, values, gradient, exponent), gradient, exponent


def _with_positives(
    unit: Tensor, loss: PairLoss, values: list[Tensor], gradient: Tensor | None, exponent: Tensor | None
) -> Tensor:
    half = len(unit) // 2
    first, second = unit[:half], unit[half:]
    positives = loss.positives(torch.linalg.vecdot(first, second), (first - second).square().sum(dim=1))
    if gradient is not None:
        slope = positives.derivative.unsqueeze(1)
        if exponent is not None:
            slope = slope * (-exponent).exp()
        gradient[:half].addcmul_(slope, second)
        gradient[half:].addcmul_(slope, first)
    return sum(values, positives.value)
