"""The terms of pairwise losses: what each adds to the value and to the derivative of every pair of embeddings.

A term sees the upper blocks of the symmetric matrix of logits one after the other: rows ``start`` to ``stop`` and the
columns from ``start`` on. Right of its first ``stop - start`` columns every entry stands for the pair and its mirror.
What it gives back for a block is the derivative of the loss with respect to an entry and its mirror together, so that
the gradient of the embeddings is that symmetric matrix times the embeddings.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

#: logits of cosines, and their slope
Logits = Callable[[Tensor], tuple[Tensor, Tensor]]
Kept = tuple[Tensor, ...]


def exp_limit(dtype: torch.dtype) -> float:
    """Largest magnitude of logits whose exponentials can be summed and divided as they are, without a shift."""
    return 300.0 if dtype == torch.float64 else 40.0


class Term(ABC):
    """One sum over pairs.

    Args:
        scale: factor of the products of embeddings in the logits.
        bound: largest magnitude the logits can have; infinity where there is none.
        weight: factor of the term in the loss.
        positives: whether the positive pairs are among its pairs; an embedding with itself never is.
        distance: the logits are ``-scale / 2`` times the squared distance, not ``scale`` times the product.
    """

    #: whether the derivative of a block is known only after all blocks have been seen
    two_pass = True

    def __init__(
        self, scale: float, bound: float, *, weight: float = 1.0, positives: bool = False, distance: bool = False
    ) -> None:
        self.scale, self.bound, self.weight = scale, bound, weight
        self.positives, self.distance = positives, distance

    def begin(self, count: int, like: Tensor) -> None:
        """Start; ``count`` embeddings in the dtype and on the device of ``like``."""
        self.count, self.counting = count, True
        self.shifted = self.bound > exp_limit(like.dtype)

    def close(self) -> Tensor:
        """The value, once all blocks were seen; what is looked at from here on is not counted again."""
        self.counting = False
        return self.value()

    def mask(self, logits: Tensor) -> Tensor:
        """Exclude self pairs, and positive ones where the term has none, in place."""
        logits.diagonal().fill_(-math.inf)
        if not self.positives:
            half = self.count // 2
            for offset in (half, -half):
                if -logits.shape[0] < offset < logits.shape[1]:
                    logits.diagonal(offset).fill_(-math.inf)
        return logits

    @abstractmethod
    def look(self, logits: Tensor, start: int) -> Kept:
        """Take a block of logits, which may be overwritten, into account; what :meth:`derivative` needs of it."""

    @abstractmethod
    def value(self) -> Tensor:
        """The term, after all blocks; a scalar."""

    @abstractmethod
    def derivative(self, kept: Kept, start: int) -> Tensor:
        """Derivative, but for ``weight``, of a block and its mirror; overwrites what was kept."""

    def exponent(self) -> Tensor | None:
        """Logarithm of a factor that the derivatives were divided by, so that they stay finite; ``None`` for 1."""
        return None


class LogSumExp(Term):
    """Mean over the anchors of the logarithm of the sum of the exponentials of their logits.

    Where the logits are bounded so that no exponential overflows or vanishes, sums of exponentials are enough, and one
    exponential an entry serves value and gradient. Elsewhere the running sums are kept as logarithms.

    Args:
        scale: as for :class:`Term`.
        bound: as for :class:`Term`.
        positives: as for :class:`Term`.
        distance: as for :class:`Term`.
        logits: for logits that are no multiple of the products: gives logits and slopes of a block of products.
    """

    def __init__(
        self,
        scale: float,
        bound: float,
        *,
        positives: bool = True,
        distance: bool = False,
        logits: Logits | None = None,
    ) -> None:
        super().__init__(scale, bound, positives=positives, distance=distance)
        self.logits = logits

    def begin(self, count: int, like: Tensor) -> None:
        """Start."""
        super().begin(count, like)
        self.sums = like.new_full((count,), -math.inf if self.shifted else 0.0)

    def look(self, logits: Tensor, start: int) -> Kept:
        """Add a block to the sums of its rows and, mirrored, of its columns."""
        rows, stop = logits.shape[0], start + logits.shape[0]
        slopes: Kept = ()
        if self.logits is not None:
            logits, slope = self.logits(logits)
            slopes = (slope,)
        self.mask(logits)
        if self.shifted:
            if self.counting:
                own, others = self.sums[start:stop], self.sums[stop:]
                torch.logaddexp(own, torch.logsumexp(logits, dim=1), out=own)
                if stop < self.count:
                    torch.logaddexp(others, torch.logsumexp(logits[:, rows:], dim=0), out=others)
            return (logits, *slopes)
        logits.exp_()
        if self.counting:
            self.sums[start:stop] += logits.sum(dim=1)
            if stop < self.count:
                self.sums[stop:] += logits[:, rows:].sum(dim=0)
        return (logits.mul_(slopes[0]),) if slopes else (logits,)

    def value(self) -> Tensor:
        """Mean of the log-sum-exps."""
        return (self.sums if self.shifted else self.sums.log()).mean()

    def derivative(self, kept: Kept, start: int) -> Tensor:
        """Softmax over the row plus softmax over the mirrored row, over the number of anchors."""
        block, stop = kept[0], start + kept[0].shape[0]
        if self.shifted:
            column, row = self.sums[start:stop, None], self.sums[start:]
            result = (block - column).exp_().add_(block.sub_(row).exp_()).div_(self.count)
            return result.mul_(kept[1]) if len(kept) > 1 else result
        inverse = (self.sums * self.count).reciprocal_()
        return block.mul_(inverse[start:stop, None] + inverse[start:])


class SumOfSoftplus(Term):
    """Sum over pairs of ``ln(1 + e^logit)``, the negative log-probability that a pair is recognised as negative."""

    two_pass = False

    def begin(self, count: int, like: Tensor) -> None:
        """Start."""
        super().begin(count, like)
        self.total = like.new_zeros(())

    def look(self, logits: Tensor, start: int) -> Kept:
        """Add a block to the sum."""
        self.mask(logits)
        if self.counting:
            self.total += _both_sides(F.softplus(logits, threshold=40.0))
        return (logits.sigmoid_(),)

    def value(self) -> Tensor:
        """The weighted sum."""
        return self.weight * self.total

    def derivative(self, kept: Kept, start: int) -> Tensor:
        """Twice the sigmoid: pair and mirror."""
        return kept[0].mul_(2)


class SumOfExp(Term):
    """Sum over pairs of ``e^logit``.

    Where a sum could overflow, it is kept as logarithm, and the derivatives are divided by a factor that
    :meth:`exponent` tells: an infinite derivative times a zero of an embedding would be not-a-number.
    """

    def begin(self, count: int, like: Tensor) -> None:
        """Start."""
        super().begin(count, like)
        self.two_pass = self.shifted
        self.total = like.new_full((), -math.inf if self.shifted else 0.0)

    def look(self, logits: Tensor, start: int) -> Kept:
        """Add a block to the sum."""
        self.mask(logits)
        if not self.counting:
            return (logits,) if self.shifted else (logits.exp_(),)
        if self.shifted:
            rows = logits.shape[0]
            self.total = torch.logaddexp(self.total, torch.logsumexp(logits[:, :rows], dim=(0, 1)))
            if rows < logits.shape[1]:
                mirrored = torch.logsumexp(logits[:, rows:], dim=(0, 1)) + math.log(2)
                self.total = torch.logaddexp(self.total, mirrored)
        else:
            self.total += _both_sides(logits.exp_())
        return (logits,)

    def value(self) -> Tensor:
        """The weighted sum, infinite where it exceeds the precision's range."""
        return (self.total + math.log(self.weight)).exp() if self.shifted else self.weight * self.total

    def derivative(self, kept: Kept, start: int) -> Tensor:
        """Twice the exponential, pair and mirror, over ``exp(exponent())``."""
        exponent = self.exponent()
        return (kept[0] if exponent is None else kept[0].sub_(exponent).exp_()).mul_(2)

    def exponent(self) -> Tensor | None:
        """Logarithm of the unweighted sum where it is large; never below 0."""
        return self.total.clamp(min=0.0) if self.shifted else None


def _both_sides(block: Tensor) -> Tensor:
    rows = block.shape[0]
    if rows == block.shape[1]:
        return block.sum()
    return block[:, :rows].sum() + 2 * block[:, rows:].sum()
