"""InfoNCE of distances that have no bound: positives within the matrix, so that nothing is left of what cancels.

The negative and the positive part of such a loss are both as large as the squared distances over the temperature, and
their difference may be nothing at all. Taken apart they leave a loss below zero, and exponentials above one.
"""

from __future__ import annotations

from torch import Tensor

from medssl_monai.losses._pair_terms import Kept, LogSumExp


class DistanceCrossEntropy(LogSumExp):
    """Mean over the anchors of the log-sum-exp of their logits less the logit of their positive; never below 0.

    The logits are minus the squared distances over the temperature. A positive's is computed of the difference of the
    two embeddings, and stands in the matrix too. All others are at most 0 and the same for a pair and its mirror, so
    that no exponential exceeds 1. Where an anchor's positive is all of its sum, value and derivative are exactly 0.

    Args:
        temperature: divisor of the squared distances.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__(2 / temperature, float("inf"), distance=True)

    def begin(self, count: int, like: Tensor) -> None:
        """Start; ``like`` holds the embeddings."""
        super().begin(count, like)
        first, second = like.chunk(2)
        self.own = (first - second).square().sum(dim=1).mul_(-0.5 * self.scale)

    def look(self, logits: Tensor, start: int) -> Kept:
        """Mend a block's logits, and add it to the sums."""
        rows = logits.shape[0]
        square = logits[:, :rows]
        square.copy_((square + square.T).mul_(0.5))
        logits.clamp_(max=0.0)
        for entries, own, _ in self._positive(logits, start):
            entries.copy_(own)
        return super().look(logits, start)

    def value(self) -> Tensor:
        """Mean cross-entropy."""
        return (self.sums.view(2, -1) - self.own).mean()

    def derivative(self, kept: Kept, start: int) -> Tensor:
        """As of the log-sum-exp, less 1 / count for an anchor's positive and again for the mirror."""
        result = super().derivative(kept, start)
        for entries, own, sums in self._positive(result, start):
            entries.copy_((own - sums).expm1_().sum(dim=0) / self.count)
        return result

    def _positive(self, block: Tensor, start: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Entries of positive pairs in a block from row ``start``: a view of them, logits, sums of both anchors."""
        half = self.count // 2
        found = []
        for offset in (half, -half):
            if -block.shape[0] < offset < block.shape[1]:
                entries = block.diagonal(offset)
                pairs = slice(start, start + len(entries))
                found.append((entries, self.own[pairs], self.sums.view(2, -1)[:, pairs]))
        return found
