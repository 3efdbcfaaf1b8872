"""Contrastive losses of the softmax kind: NT-Xent, decoupled contrastive, and InfoNCE of squared distances."""

from __future__ import annotations

import torch
from torch import Tensor

from medssl_monai.losses._common import check_flag, check_positive
from medssl_monai.losses._pair_terms import LogSumExp, Term
from medssl_monai.losses._pairs import PairLoss, Positives
from medssl_monai.losses._raw_terms import DistanceCrossEntropy


class NTXentLoss(PairLoss):
    """Normalised temperature-scaled cross-entropy (SimCLR; Chen et al., arXiv:2002.05709, eq. 1).

    All 2N embeddings are anchors. For anchor ``i`` with positive ``p(i)``, the other view of its sample, and cosines
    ``c``::

        L = mean_i  -ln( exp(c_ip / t) / sum_{a != i} exp(c_ia / t) )

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

    _own_positive = True

    def __init__(
        self, temperature: float = 0.1, gather_distributed: bool = False, chunk_size: int | None = None
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        self.temperature = check_positive("temperature", temperature)

    def terms(self, count: int) -> list[Term]:
        """Log-sum-exp over the other embeddings."""
        scale = 1 / self.temperature
        return [LogSumExp(scale, scale, positives=self._own_positive)]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Minus the mean cosine over the temperature."""
        return mean_cosine(products, self.temperature)

    def extra_repr(self) -> str:
        """The temperature, for ``print``."""
        return f"temperature={self.temperature}"


class DCLLoss(NTXentLoss):
    """Decoupled contrastive loss (Yeh et al., arXiv:2110.06848, eq. 6): the positive is not in the denominator.

    For anchor ``i`` with positive ``p(i)``, one sum over all its 2N - 2 negatives, and the mean over the 2N anchors::

        L = mean_i  ( -c_ip / t + ln sum_{a != i, p(i)} exp(c_ia / t) )

    Arguments, precision and errors are those of :class:`NTXentLoss`.
    """

    _own_positive = False


class DCLWLoss(DCLLoss):
    """Decoupled contrastive loss with weighted positives (Yeh et al., arXiv:2110.06848, section 3.3).

    The positive term of sample ``n`` is multiplied by a negative von Mises-Fisher weight, which has the mean 1 over
    the batch and is the lower the more alike the two views are already::

        w_n = 2 - exp(c_n / sigma) / mean_m exp(c_m / sigma)

    Args:
        temperature: divisor of the cosines, above 0.
        sigma: divisor of the cosines in the weights, above 0.
        detach_weights: ``False`` differentiates the weights as the equation has it; ``True`` takes them as constants,
            as other packages do (the value is the same).
        gather_distributed: as for :class:`NTXentLoss`.
        chunk_size: as for :class:`NTXentLoss`.

    Raises:
        ValueError: when ``temperature`` or ``sigma`` is not a finite number above 0, or ``detach_weights`` no truth
            value.
    """

    def __init__(
        self,
        temperature: float = 0.1,
        sigma: float = 0.5,
        detach_weights: bool = False,
        gather_distributed: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(temperature, gather_distributed, chunk_size)
        self.sigma = check_positive("sigma", sigma)
        self.detach_weights = check_flag("detach_weights", detach_weights)

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Minus the mean weighted cosine over the temperature."""
        count = len(products)
        share = torch.softmax(products / self.sigma, dim=0)
        weights = 2 - count * share
        slope = weights
        if not self.detach_weights:
            slope = weights - count / self.sigma * share * (products - share @ products)
        factor = -1 / (count * self.temperature)
        return Positives(factor * (weights @ products), factor * slope)

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``print``."""
        return f"{super().extra_repr()}, sigma={self.sigma}, detach_weights={self.detach_weights}"


class EuclideanInfoNCELoss(PairLoss):
    """InfoNCE of squared Euclidean distances, L_Contr (Manna's thesis, eq. 4.17).

    For each of the 2N anchors ``i`` with positive ``p(i)`` and distances ``d``::

        L = mean_i  -ln( exp(-d_ip^2 / t) / sum_{a != i} exp(-d_ia^2 / t) )

    On unit vectors this is :class:`NTXentLoss` at half the temperature; a zero embedding stays zero and has distance 1
    to every other. Distances of embeddings that are not normalised have no bound, and the loss is a small difference of
    them: it is computed in float64 inside, whatever the input (the device must have float64), and rounded at the end.

    Args:
        temperature: divisor of the squared distances, above 0.
        normalize: L2-normalise the embeddings first; ``False`` takes their distances as they are.
        gather_distributed: as for :class:`NTXentLoss`.
        chunk_size: as for :class:`NTXentLoss`.

    Raises:
        ValueError: when ``temperature`` is not a finite number above 0.
    """

    def __init__(
        self,
        temperature: float = 0.33,
        normalize: bool = True,
        gather_distributed: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        self.temperature = check_positive("temperature", temperature)
        self.normalize = check_flag("normalize", normalize)

    def terms(self, count: int) -> list[Term]:
        """Log-sum-exp over the other embeddings; of raw distances, the positives with it."""
        return [distance_term(self.temperature) if self.normalize else DistanceCrossEntropy(self.temperature)]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """The mean squared distance over the temperature."""
        if not self.normalize:  # the term has them
            return Positives(distances.new_zeros(()), torch.zeros_like(distances))
        return mean_distance(distances, self.temperature)

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``print``."""
        return f"temperature={self.temperature}, normalize={self.normalize}"


def distance_term(temperature: float) -> Term:
    """Log-sum-exp of the negative squared distances of unit vectors over the temperature."""
    return LogSumExp(2 / temperature, 4 / temperature, distance=True)


def mean_distance(distances: Tensor, temperature: float) -> Positives:
    """Mean of the positives' squared distances over the temperature."""
    slope = torch.full_like(distances, -2 / (len(distances) * temperature))
    return Positives(distances.mean() / temperature, slope)


def mean_cosine(products: Tensor, temperature: float) -> Positives:
    """Minus the mean of the positives' cosines over the temperature."""
    return Positives(products.mean() / -temperature, torch.full_like(products, -1 / (len(products) * temperature)))
