"""Few-shot heads: the pixels of a query compared with prototypes taken from the masked features of a support."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate, normalize


class PrototypeHead(nn.Module):
    """What the heads share: prototypes of a support, and a query's scores of background and foreground.

    The support's mask is brought bilinearly to the grid of the features; mask and features are averaged in windows of
    ``pool`` x ``pool``. A window is a local prototype of the foreground where its mask is above the threshold, and one
    of the background where one minus its mask is. The global prototype of a class is the mean feature under the mask.
    A query pixel weighs a class's prototypes by softmax(cosine / ``temperature``); its score is ``scale`` times the
    product of the weighted prototype and its own unit feature.

    Everything is defined and finite: a support without foreground (or without background) gives that class the score of
    opposite features, -``scale``, everywhere. Features in half precision are compared in float32. It can be scripted.

    Args:
        pool: side of the windows, in cells of the feature grid.
        threshold: share of a window that must be covered, strictly; or ``"dynamic"`` (thesis 7.4.1.3): 0.8 times the
            largest coverage for the foreground, the mean coverage for the background.
        temperature: t of eq. 7.7; above 0.
        scale: factor of the scores.
        top_fraction: share of the prototypes nearest to a query pixel that it weighs (thesis table 7.4), rounded up.
        renormalize_aggregate: ``True``: the weighted prototype is made a unit vector again, so that the score is
            ``scale`` times a cosine (eq. 7.9 read literally). ``False``: it is not, as trained.
        pool_features: ``False``: the mask is averaged over the pixels of each cell of the feature grid, and the
            features themselves are prototypes (eq. 7.2 and 7.3 read literally); ``pool`` has no part then.

    Raises:
        ValueError: for a value outside its range; the message says which.
    """

    #: the mean over channels is taken off every feature (eq. 7.4, 7.5)
    centred = False
    #: windows are prototypes beside the global one
    local = True
    __constants__ = ("centred", "local")  # TorchScript sees attributes of the class by this only

    def __init__(
        self,
        pool: int = 4,
        threshold: float | str = 0.95,
        temperature: float = 0.05,
        scale: float = 20.0,
        top_fraction: float = 1.0,
        renormalize_aggregate: bool = False,
        pool_features: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(pool, bool) or not isinstance(pool, int) or pool < 1:
            raise ValueError(f"pool: expected an integer of at least 1, got {pool!r}")
        self.dynamic = threshold == "dynamic"
        if not self.dynamic and not (_is_number(threshold) and 0 <= float(threshold) < 1):
            raise ValueError(f'threshold: expected a number from 0 to below 1, or "dynamic", got {threshold!r}')
        for name, value in (("temperature", temperature), ("scale", scale)):
            if not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name}: expected a finite number above 0, got {value!r}")
        if not (_is_number(top_fraction) and 0 < top_fraction <= 1):
            raise ValueError(f"top_fraction: expected a number above 0, at most 1, got {top_fraction!r}")
        self.pool = pool
        self.threshold = 0.0 if self.dynamic else float(threshold)
        self.temperature = float(temperature)
        self.scale = float(scale)
        self.top_fraction = float(top_fraction)
        self.renormalize_aggregate = renormalize_aggregate
        self.pool_features = pool_features

    def prototypes(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Prototypes of K support slices together.

        Args:
            features: (K, D, h, w) of the encoder.
            mask: (K, 1, H, W), 1 in the foreground; any numbers from 0 to 1.

        Returns:
            ``(foreground (P, D), background (B, D))``, unit vectors; no row for a class that no slice shows.

        Raises:
            ValueError: for shapes that do not fit.
        """
        rows, foreground, background = self._gather(features, mask)
        return rows[foreground], rows[background]

    def score(self, query: Tensor, prototypes: tuple[Tensor, Tensor]) -> Tensor:
        """Scores of background and foreground of queries that share their prototypes.

        Args:
            query: features (N, D, h, w).
            prototypes: as :meth:`prototypes` gives them.

        Returns:
            (N, 2, h, w), background first.

        Raises:
            ValueError: for shapes that do not fit.
        """
        pixels = self.unit(query)
        scores = []
        for rows in (prototypes[1], prototypes[0]):
            if rows.ndim != 2 or rows.shape[1] != query.shape[1]:
                raise ValueError(f"prototypes: expected (P, {query.shape[1]}) numbers, got {tuple(rows.shape)}")
            valid = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            if len(rows) == 0:  # a row that counts as none, so that there is something to multiply
                rows, valid = query.new_zeros(1, query.shape[1]), valid.new_zeros(1)
            scores.append(self.class_score(pixels, rows.to(pixels.dtype), valid))
        return torch.stack(scores, dim=1).view(len(query), 2, query.shape[2], query.shape[3])

    def forward(self, support_features: Tensor, support_mask: Tensor, query_features: Tensor) -> Tensor:
        """Scores of queries that have a support of their own each.

        Args:
            support_features: (N, D, h, w).
            support_mask: (N, 1, H, W), 1 in the foreground; any numbers from 0 to 1.
            query_features: (N, D, h, w).

        Returns:
            (N, 2, h, w), background first.

        Raises:
            ValueError: for shapes that do not fit.
        """
        if query_features.shape != support_features.shape:
            raise ValueError(
                f"query_features: expected the support's shape {list(support_features.shape)}, "
                f"got {list(query_features.shape)}"
            )
        rows, foreground, background = self._gather(support_features, support_mask)
        cosine = _product(rows, self.unit(query_features))
        scores = [self._weighed(cosine, rows, background), self._weighed(cosine, rows, foreground)]
        return torch.stack(scores, dim=1).view(-1, 2, query_features.shape[2], query_features.shape[3])

    def class_score(self, pixels: Tensor, prototypes: Tensor, valid: Tensor) -> Tensor:
        """Scores of one class, for any number of leading dimensions that broadcast (queries, organs).

        Args:
            pixels: unit features (..., D, L) of L query pixels.
            prototypes: unit vectors (..., M, D).
            valid: (..., M), false for a row that is no prototype.

        Returns:
            (..., L).
        """
        if prototypes.dim() == 4 and pixels.dim() == 4 and pixels.size(1) == 1:
            # organs of one query in one product: broadcasting would copy the query for each
            cosine = _product(prototypes.flatten(1, 2), pixels.squeeze(1))
            cosine = cosine.view(-1, prototypes.size(1), prototypes.size(2), pixels.size(3))
        else:
            cosine = _product(prototypes, pixels)
        return self._weighed(cosine, prototypes, valid)

    def _weighed(self, cosine: Tensor, prototypes: Tensor, valid: Tensor) -> Tensor:
        """Scores (..., L) of one class by the cosines (..., M, L) of its prototypes."""
        used = valid.unsqueeze(-1)
        if self.top_fraction < 1:
            used = used & self._nearest(cosine, valid)
        # about the lowest float32 (TorchScript has no finfo): finite, so that a class without prototypes stays so too
        weight = (cosine / self.temperature).masked_fill(~used, -3.4e38).softmax(dim=-2)
        score = (weight * cosine).sum(dim=-2)
        if self.renormalize_aggregate:
            aggregate = _product(prototypes.transpose(-1, -2), weight)
            smallest = 2.0**-52 if cosine.dtype == torch.float64 else 2.0**-23  # rounding error of 1
            score = score / torch.linalg.vector_norm(aggregate, dim=-2).clamp_min(smallest)
        return self.scale * torch.where(valid.any(dim=-1, keepdim=True), score, -1.0)

    def _nearest(self, cosine: Tensor, valid: Tensor) -> Tensor:
        """Whether a prototype is among the nearest ``top_fraction`` of the valid ones, for each pixel (..., M, L)."""
        # less than a rounding error is taken off: 10 % of 30 are 3
        number = (valid.sum(dim=-1).double() * self.top_fraction - 1e-9).ceil().clamp_min(1).long()
        ranked = cosine.masked_fill(~valid.unsqueeze(-1), -2.0).sort(dim=-2, descending=True)[0]
        index = (number - 1)[..., None, None].expand_as(ranked[..., :1, :])
        return cosine >= ranked.gather(-2, index)

    def _gather(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Candidates (K, M + 2, D): windows, means of both classes; and which count as fore- and background (K, M + 2).

        Both classes share them, so that a query is compared with each window once.
        """
        if features.dim() != 4:
            raise ValueError(f"support features: expected (K, D, h, w), got shape {list(features.shape)}")
        if mask.dim() != 4 or mask.shape[0] != features.shape[0] or mask.shape[1] != 1:
            raise ValueError(f"support mask: expected ({len(features)}, 1, H, W), got shape {list(mask.shape)}")
        features = _at_least_float(features)
        grid = (features.shape[2], features.shape[3])
        if self.centred:
            features = features - features.mean(dim=1, keepdim=True)
        mask = mask.to(features.dtype)
        bilinear, area = interpolate(mask, grid, mode="bilinear"), adaptive_avg_pool2d(mask, grid)
        # bilinear sampling skips pixels: an organ's first millimetres would be no foreground at all
        seen = torch.where(bilinear.sum(dim=(2, 3), keepdim=True) > 0, bilinear, area)
        if not self.local:
            cells, covered, free = features[:, :, :0], seen[:, :, :0], seen[:, :, :0]
        elif self.pool_features:
            cells, covered, free = self._windows(features), self._windows(seen), self._windows(1 - seen)
        else:
            cells, covered, free = features, area, 1 - area
        cells = normalize(cells.flatten(2).transpose(1, 2), dim=-1)
        covered, free = covered.flatten(1), free.flatten(1)
        if self.dynamic:
            foreground = covered > 0.8 * covered.amax(dim=1, keepdim=True)
            background = free > free.mean(dim=1, keepdim=True)
        else:
            foreground, background = covered > self.threshold, free > self.threshold
        has_foreground, has_background = seen.sum(dim=(1, 2, 3)) > 0, (1 - seen).sum(dim=(1, 2, 3)) > 0
        # the background's mean stands in where no window is free enough
        lonely = has_background & ~background.any(dim=1)
        rows = torch.cat([cells, _mean_under(features, seen), _mean_under(features, 1 - seen)], dim=1)
        neither = torch.zeros_like(lonely)
        foreground = torch.cat([foreground, torch.stack([has_foreground, neither], dim=1)], dim=1)
        background = torch.cat([background, torch.stack([neither, lonely], dim=1)], dim=1)
        return rows, foreground, background

    def _windows(self, maps: Tensor) -> Tensor:
        """Averages in windows; one that reaches over the border averages what is inside."""
        return avg_pool2d(maps, self.pool, ceil_mode=True, count_include_pad=False)

    def unit(self, query: Tensor) -> Tensor:
        """Unit features (N, D, h * w) of query pixels."""
        if query.dim() != 4:
            raise ValueError(f"query features: expected (N, D, h, w), got shape {list(query.shape)}")
        query = _at_least_float(query)
        if self.centred:
            query = query - query.mean(dim=1, keepdim=True)
        return normalize(query.flatten(2), dim=1)


class CoWProHead(PrototypeHead):
    """Correlation-weighted prototypes of features without their channel mean (thesis 7.4.1.3 and 7.4.1.4).

    The foreground has local prototypes and always the global one; the background has local ones, and its global one
    where no window is free enough. Arguments as in :class:`PrototypeHead`.
    """

    centred = True


class ALPNetHead(PrototypeHead):
    """Adaptive local prototypes (Ouyang et al. 2020): those of :class:`CoWProHead`, of features as they are."""


class PANetHead(PrototypeHead):
    """One global prototype for each class (Wang et al. 2019), of features as they are.

    Args:
        scale: factor of the cosines.

    Raises:
        ValueError: for a scale that is no finite number above 0.
    """

    local = False

    def __init__(self, scale: float = 20.0) -> None:
        super().__init__(pool=1, scale=scale)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _at_least_float(features: Tensor) -> Tensor:
    """A plain tensor, never below float32: cosines in half precision would move scores by a tenth."""
    if not torch.jit.is_scripting():
        features = features.as_subclass(Tensor)
    return features if features.dtype == torch.float32 or features.dtype == torch.float64 else features.float()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in the precision of the factors, under autocast too."""
    if torch.jit.is_scripting():
        product = left @ right
        if product.dtype != left.dtype:  # the caller's autocast: a script cannot switch it off, but it spares float64
            product = (left.double() @ right.double()).to(left.dtype)
        return product
    else:  # noqa: RET505  (TorchScript must not compile this part)
        with torch.autocast(left.device.type, enabled=False):
            return left @ right


def _mean_under(features: Tensor, weight: Tensor) -> Tensor:
    """Unit mean feature (K, 1, D) under weights (K, 1, h, w); zero where these are zero."""
    return normalize((features * weight).flatten(2).sum(dim=-1), dim=-1)[:, None]
