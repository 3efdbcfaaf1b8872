"""Two random views of an image, for contrastive learning."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import MAX_SEED, get_seed

from medssl_monai.transforms._image import BACKEND


class TwoViews(Randomizable, Transform):
    """Apply a random transform twice, with independent draws, to copies of an image (SimCLR, Chen et al. 2020, fig. 2).

    The transform is copied once a view, so that the draws of the one view do not depend on how many the other made;
    ``set_random_state`` seeds each copy on its own.

    Args:
        transform: a MONAI transform with randomness (:class:`monai.transforms.Randomizable`: a single one, ``Compose``,
            ``OneOf``, ...), called with the image.

    Raises:
        ValueError: when ``transform`` is not callable or cannot be seeded: its views would be equal, or not repeatable.
    """

    backend = BACKEND

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        if not (callable(transform) and isinstance(transform, Randomizable)):
            raise ValueError(
                f"TwoViews needs a MONAI Randomizable transform (Compose, RandFlip, ...), got "
                f"{type(transform).__name__}"
            )
        self.transforms: tuple[Any, Any] = (deepcopy(transform), deepcopy(transform))
        self.set_random_state(seed=get_seed())  # as Compose does: the copies must not share the original's state

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TwoViews:
        """Seed the two views' transforms, each with a seed of its own drawn from ``seed`` or ``state``."""
        super().set_random_state(seed=seed, state=state)
        for transform in self.transforms:
            transform.set_random_state(seed=int(self.R.randint(MAX_SEED, dtype="uint32")))
        return self

    def randomize(self, data: Any | None = None) -> None:
        """Nothing is drawn here: each view's transform draws for itself when it is applied."""

    def __call__(self, image: NdarrayOrTensor) -> list[NdarrayOrTensor]:
        """Return ``[view1, view2]``; the image itself is left as it is."""
        first, second = self.transforms
        return [first(_copy(image)), second(_copy(image))]


class TwoViewsd(Randomizable, MapTransform):
    """Dictionary form of :class:`TwoViews`: adds the two views under ``names``.

    Args:
        keys: the image's key (one key).
        transform: a random array transform, see :class:`TwoViews`.
        names: keys of the two views. Names of the form ``<key>_...`` are refused: MONAI's ``Spacingd`` takes such
            entries for the meta data of ``<key>``.
        drop: remove the image's own key (images of several sizes could not be batched).
        allow_missing_keys: leave a dictionary without the key as it is.

    Raises:
        ValueError: for more than one key, for names that are equal or of the form ``<key>_...``, and as
            :class:`TwoViews`.
    """

    backend = TwoViews.backend

    def __init__(
        self,
        keys: KeysCollection,
        transform: Callable[[Any], Any],
        names: Sequence[str] = ("view1", "view2"),
        drop: bool = True,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(self.keys) != 1:
            raise ValueError(f"TwoViewsd makes views of one key, got {len(self.keys)}: {list(self.keys)}")
        if isinstance(names, str) or len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"TwoViewsd needs two different names for its views, got {names!r}")
        for name in names:
            if name == self.keys[0] or str(name).startswith(f"{self.keys[0]}_"):
                raise ValueError(
                    f"TwoViewsd: the name {name!r} of a view must not be {self.keys[0]!r} nor begin with "
                    f"'{self.keys[0]}_', which MONAI keeps for meta data; 'view1' and 'view2' will do"
                )
        self.names = tuple(names)
        self.drop = drop
        self.views = TwoViews(transform)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> TwoViewsd:
        """Seed the two views, see :meth:`TwoViews.set_random_state`."""
        super().set_random_state(seed=seed, state=state)
        self.views.set_random_state(seed=seed, state=state)
        return self

    def randomize(self, data: Any | None = None) -> None:
        """Nothing is drawn here, see :meth:`TwoViews.randomize`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the two views, and without the image where ``drop`` is set."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[self.names[0]], result[self.names[1]] = self.views(result[key])
            if self.drop:
                del result[key]
        return result


def _copy(image: NdarrayOrTensor) -> NdarrayOrTensor:
    return image.clone() if isinstance(image, torch.Tensor) else deepcopy(image)
