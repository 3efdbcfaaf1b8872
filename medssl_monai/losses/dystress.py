"""DySTreSS: a temperature for every pair, by its cosine (Manna's thesis, chapter 6)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from medssl_monai.core import did_you_mean
from medssl_monai.losses._common import check_flag, check_positive, full_precision
from medssl_monai.losses._pair_terms import LogSumExp, Term
from medssl_monai.losses._pairs import PairLoss, Positives

Profile = Literal["cosine", "linear", "exponential"]
_PROFILES = ("cosine", "linear", "exponential")


def dystress_temperature(
    cosine: Tensor,
    tau_min: float = 0.1,
    tau_max: float = 0.2,
    profile: Profile = "cosine",
    shift: float | None = None,
    scale: float | None = None,
) -> Tensor:
    """Temperature of pairs by their cosines (Manna's thesis, eq. 6.16 and algorithm 6.1).

    With ``D = tau_max - tau_min``::

        "cosine"       tau_min + D/2 (1 + cos(pi (1 + c)))               eq. 6.16
        "linear"       tau_min + D |c|
        "exponential"  tau_min + D (exp|c| - 1) / (e - 1)

    All are ``tau_min`` at c = 0 and ``tau_max`` at c = -1 and 1. With ``shift`` s and ``scale`` k (both or neither)
    algorithm 6.1 as printed: ``tau_min + D/2 (1 + cos(pi / k (s + c)))`` where ``s <= 0 and c <= -s``, or ``s >= 0 and
    c >= -s``; ``tau_max`` elsewhere. The thesis uses (-0.2, 0.6), (-0.4, 0.7) and their mirrors. Its row (0, 0.5) is
    *not* eq. 6.16: it has a maximum at c = 0.

    Args:
        cosine: cosines, any shape.
        tau_min: lowest temperature, above 0.
        tau_max: highest temperature, ``tau_min`` or above.
        profile: ``"cosine"``, ``"linear"`` or ``"exponential"``.
        shift: where the plateau begins, negated, from -1 to 1; of the cosine profile only.
        scale: half the period of the shifted cosine, above 0.

    Returns:
        Temperatures, of the cosines' shape, in their precision but never below float32; differentiable.

    Raises:
        ValueError: for temperatures that are not ``0 < tau_min <= tau_max``, another profile, one of ``shift`` and
            ``scale`` without the other or out of range, or cosines that are no floating-point tensor.
    """
    _check(tau_min, tau_max, profile, shift, scale)
    return _temperature(full_precision("cosine", cosine), tau_min, tau_max, profile, shift, scale)


class DySTreSSLoss(PairLoss):
    """NT-Xent with a temperature for every pair, the positive's too (Manna's thesis, eq. 6.1 with 6.16).

    For each of the 2N anchors ``i`` with positive ``p(i)`` and ``t = dystress_temperature(c)``::

        L = mean_i  -ln( exp(c_ip / t_ip) / sum_{a != i} exp(c_ia / t_ia) )

    The published experiments took the temperatures as constants to the gradient; eq. 6.6 and 6.7 differentiate them.
    Precision, normalisation and zero embeddings are as for :class:`~medssl_monai.losses.NTXentLoss`.

    Args:
        tau_min: as for :func:`dystress_temperature`.
        tau_max: as for :func:`dystress_temperature`.
        profile: as for :func:`dystress_temperature`.
        shift: as for :func:`dystress_temperature`.
        scale: as for :func:`dystress_temperature`.
        detach_temperature: temperatures are constants to the gradient; ``False`` for the gradient of eq. 6.6-6.7.
        gather_distributed: as for :class:`~medssl_monai.losses.NTXentLoss`.
        chunk_size: as for :class:`~medssl_monai.losses.NTXentLoss`.

    Raises:
        ValueError: as :func:`dystress_temperature`, or when ``detach_temperature`` is no truth value.
    """

    def __init__(
        self,
        tau_min: float = 0.1,
        tau_max: float = 0.2,
        profile: Profile = "cosine",
        shift: float | None = None,
        scale: float | None = None,
        detach_temperature: bool = True,
        gather_distributed: bool = False,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(gather_distributed, chunk_size)
        _check(tau_min, tau_max, profile, shift, scale)
        self.tau_min, self.tau_max, self.profile = tau_min, tau_max, profile
        self.shift, self.scale = shift, scale
        self.detach_temperature = check_flag("detach_temperature", detach_temperature)

    def terms(self, count: int) -> list[Term]:
        """Log-sum-exp over the other embeddings."""
        return [LogSumExp(1.0, 1 / self.tau_min, logits=self._logits)]

    def positives(self, products: Tensor, distances: Tensor) -> Positives:
        """Minus the mean of the positives' logits."""
        logits, slope = self._logits(products)
        return Positives(-logits.mean(), slope / -len(products))

    def _logits(self, cosine: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines over their temperatures, and the derivative; the cosines are not needed afterwards."""
        settings = (self.tau_min, self.tau_max, self.profile, self.shift, self.scale)
        if self.detach_temperature:
            inverse = _temperature(cosine, *settings).reciprocal_()
            return cosine * inverse, inverse
        with torch.enable_grad():
            leaf = cosine.detach().requires_grad_()
            logits = leaf / _temperature(leaf, *settings)
            (slope,) = torch.autograd.grad(logits.sum(), leaf)
        return logits.detach(), slope

    def extra_repr(self) -> str:
        """The hyper-parameters, for ``print``."""
        return (
            f"tau_min={self.tau_min}, tau_max={self.tau_max}, profile={self.profile!r}, shift={self.shift}, "
            f"scale={self.scale}, detach_temperature={self.detach_temperature}"
        )


def _temperature(
    cosine: Tensor, tau_min: float, tau_max: float, profile: Profile, shift: float | None, scale: float | None
) -> Tensor:
    span = tau_max - tau_min
    if shift is not None and scale is not None:
        inside = cosine <= -shift if shift <= 0 else cosine >= -shift
        if shift == 0:  # both conditions of the algorithm hold, and together they leave nothing outside
            inside = torch.ones_like(cosine, dtype=torch.bool)
        wave = tau_min + span / 2 * (1 + torch.cos(math.pi / scale * (shift + cosine)))
        return torch.where(inside, wave, tau_max)
    if profile == "cosine":  # cos(pi (1 + c)) = -cos(pi c)
        return torch.cos(cosine * math.pi).mul_(-span / 2).add_(tau_min + span / 2)
    if profile == "linear":
        return tau_min + span * cosine.abs()
    return tau_min + span / (math.e - 1) * torch.expm1(cosine.abs())


def _check(tau_min: float, tau_max: float, profile: str, shift: float | None, scale: float | None) -> None:
    low, high = check_positive("tau_min", tau_min), check_positive("tau_max", tau_max)
    if low > high:
        raise ValueError(f"tau_min: expected at most tau_max = {tau_max}, got {tau_min}")
    if profile not in _PROFILES:
        raise ValueError(
            f"profile: expected 'cosine', 'linear' or 'exponential', got {profile!r}."
            f"{did_you_mean(str(profile), _PROFILES)}"
        )
    if (shift is None) != (scale is None):
        raise ValueError(f"shift and scale: expected both, or neither for eq. 6.16, got shift={shift}, scale={scale}")
    if shift is None or scale is None:
        return
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not -1 <= shift <= 1:
        raise ValueError(f"shift: expected a number from -1 to 1, got {shift!r}")
    check_positive("scale", scale)
    if profile != "cosine":
        raise ValueError(f"profile: shift and scale are of the 'cosine' profile (algorithm 6.1), got {profile!r}")
