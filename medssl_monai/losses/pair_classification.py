"""Contrastive learning as the classification of pairs: positive or negative (Manna's thesis, chapters 4 and 5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medssl_monai.losses._common import check_positive
from medssl_monai.losses._pair_terms import SumOfExp, SumOfSoftplus, Term
from medssl_monai.losses._pairs import PairLoss, Positives
from medssl_monai.losses.contrastive import distance_term, mean_cosine, mean_distance

Average = Literal["expectations", "pairs"]


class BinaryContrastiveLoss(PairLoss):
    """Binary cross-entropy over all pairs of the batch, L_Proposed (Manna's thesis, eq. 4.14).

    Of the 4N^2 ordered pairs of the 2N embeddings, 2N are positive (two views of a sample), 4N^2 - 4N negative and 2N
    an embedding with itself, which is left out but counted in the divisor. With ``s`` the logistic function and
    cosines ``c``::

        L = -1/(4N^2) ( sum_positive ln s(c / t) + sum_negative ln(1 - s(c / t)) )

    Embeddings are L2-normalised inside; a zero embedding has cosine 0 to every other. The loss is computed in the
    input's precision but never below float32, also under autocast, and stays finite for temperatures from 0.005.

    Args:
        temperature: divisor of the cosines, above 0.
        gather_distributed: compare with the samples of all processes, as one process with all of them would. Every
            process must then call the loss, with as many samples as the others, and gets the same value; averaged
            over the processes, as DistributedDataParallel does, the gradients are those of that one process.
        chunk_size: rows of the (2N, 2N) similarity matrix held at once; ``None`` holds it as a whole.

    Raises:
        ValueError: when ``temperature`` is not a finite number above 0, or ``chunk_size`` no whole number above 0.
    """

    def __init__(
        self, temperature: float = 0.25, gather_distributed: bool = False, chunk_size: int | None = None
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        self.temperature = check_positive("temperature", temperature)

    def terms(self, count: int) -> list[Term]:
        """Sum over the negative pairs."""
        scale = 1 / self.temperature
        return [SumOfSoftplus(scale, scale, weight=0.25 / count**2)]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Sum over the positive pairs."""
        return _recognised(products, self.temperature, 0.5 / len(products) ** 2)

    def extra_repr(self) -> str:
        """The temperature, for ``print``."""
        return f"temperature={self.temperature}"


class ComboContrastiveLoss(PairLoss):
    """L_Combo: binary cross-entropy over pairs plus InfoNCE of squared distances (Manna's thesis, eq. 4.18).

    As printed, the binary part is the mean over the positive pairs plus the mean over the negative pairs, not the
    common divisor 4N^2 of eq. 4.14. The contrastive part is :class:`EuclideanInfoNCELoss` (eq. 4.17).

    Args:
        temperature: divisor of the cosines in the binary part, above 0.
        contrastive_temperature: divisor of the squared distances in the contrastive part, above 0.
        average: ``"expectations"`` for eq. 4.18; ``"pairs"`` for the divisor of eq. 4.14, so that the loss is
            :class:`BinaryContrastiveLoss` plus :class:`EuclideanInfoNCELoss`.
        gather_distributed: as for :class:`BinaryContrastiveLoss`.
        chunk_size: as for :class:`BinaryContrastiveLoss`.

    Raises:
        ValueError: when a temperature is not a finite number above 0, or for another ``average``.
    """

    def __init__(
        self,
        temperature: float = 0.25,
        contrastive_temperature: float = 0.33,
        average: Average = "expectations",
        gather_distributed: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        self.temperature = check_positive("temperature", temperature)
        self.contrastive_temperature = check_positive("contrastive_temperature", contrastive_temperature)
        if average not in ("expectations", "pairs"):
            raise ValueError(f"average: expected 'expectations' or 'pairs', got {average!r}")
        self.average = average

    def terms(self, count: int) -> list[Term]:
        """Log-sum-exp of distances, and the sum over the negative pairs."""
        scale = 1 / self.temperature
        pairs = 4 * count**2 - (4 * count if self.average == "expectations" else 0)
        return [distance_term(self.contrastive_temperature), SumOfSoftplus(scale, scale, weight=1 / pairs)]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Both parts of the positive pairs."""
        count = len(products)
        binary = _recognised(
            products, self.temperature, 1 / count if self.average == "expectations" else 0.5 / count**2
        )
        contrastive = mean_distance(distances, self.contrastive_temperature)
        return Positives(binary.value + contrastive.value, binary.derivative + contrastive.derivative)

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``print``."""
        return (
            f"temperature={self.temperature}, contrastive_temperature={self.contrastive_temperature}, "
            f"average={self.average!r}"
        )


class MIOLoss(PairLoss):
    """Mutual information optimisation (Manna's thesis, eq. 5.13, 5.15 and 5.21).

    With cosines ``c``, means over the 2N positive and the 4N^2 - 4N negative pairs, and ``s`` the logistic function::

        version 1:  L = mean_positive -ln s(c / t)  +  mean_negative -ln(1 - s(c / t))
        version 2:  L = mean_positive -c / t        +  mean_negative ln(1 + exp(c / t))
        version 3:  L = mean_positive -c / t        +  mean_negative exp(c / t)

    Version 3 grows like ``exp(1 / t)``: at temperatures below 0.0113 it can exceed the range of float32, and is then
    infinite, as are gradients that do; never not-a-number. Precision, normalisation and zero embeddings are as for
    :class:`BinaryContrastiveLoss`.

    Args:
        version: 1, 2 or 3.
        temperature: divisor of the cosines, above 0.
        gather_distributed: as for :class:`BinaryContrastiveLoss`.
        chunk_size: as for :class:`BinaryContrastiveLoss`.

    Raises:
        ValueError: for another version, or when ``temperature`` is not a finite number above 0.
    """

    def __init__(
        self,
        version: Literal[1, 2, 3] = 3,
        temperature: float = 0.2,
        gather_distributed: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        if isinstance(version, bool) or not isinstance(version, int) or version not in (1, 2, 3):
            raise ValueError(f"version: expected the whole number 1, 2 or 3, got {version!r}")
        self.version = version
        self.temperature = check_positive("temperature", temperature)

    def terms(self, count: int) -> list[Term]:
        """Mean over the negative pairs."""
        scale = 1 / self.temperature
        kind = SumOfExp if self.version == 3 else SumOfSoftplus
        return [kind(scale, scale, weight=1 / (4 * count**2 - 4 * count))]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Mean over the positive pairs."""
        if self.version == 1:
            return _recognised(products, self.temperature, 1 / len(products))
        return mean_cosine(products, self.temperature)

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``print``."""
        return f"version={self.version}, temperature={self.temperature}"


def _recognised(products: Tensor, temperature: float, factor: float) -> Positives:
    """``factor`` times the sum over positives of the negative log-probability of being recognised as such."""
    opposite = products / -temperature
    value = factor * F.softplus(opposite, threshold=40.0).sum()
    return Positives(value, torch.sigmoid(opposite) * (-factor / temperature))
