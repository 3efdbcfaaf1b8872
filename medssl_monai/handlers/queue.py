"""A queue of features from earlier steps: negatives of MoCo, candidates for positives of semi-supervised methods."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medssl_monai.core import ConfigError
from medssl_monai.core.distributed import gather_with_gradient


class FeatureQueue(nn.Module):
    """The newest rows of features, first in, first out, with what belongs to each (He et al. 2020, section 3.2).

    A ring of ``size`` rows that starts empty and is written from a pointer on, over its end where ``size`` is no
    multiple of the batch. Rows, pointer and fill are buffers: the queue's state dict goes into the checkpoint, and a
    resumed run goes on with the same rows. Nothing here has a gradient.

    Args:
        size: rows that are kept, K.
        dim: length of a feature, D.
        labels: keep a class index with every row, as ``labels``; -1 where unknown.
        columns: further columns of floats with every row, by name and width, for example ``{"probabilities": 7}``.

    Raises:
        ConfigError: when a size is below 1 or a column's name is taken.
    """

    features: Tensor
    pointer: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int, labels: bool = False, columns: Mapping[str, int] | None = None) -> None:
        super().__init__()
        widths = {"features": dim, **(columns or {})}
        for name, width in {"size": size, **widths}.items():
            if width < 1:
                raise ConfigError(f"{name} of a queue", where="queue", found=width, expected="1 or more")
        self.size = size
        for name in ("pointer", "count"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        if labels:
            self.register_buffer("labels", torch.full((size,), -1, dtype=torch.int64))
        for name, width in widths.items():
            if hasattr(self, name):
                raise ConfigError(
                    f"a column cannot be called {name!r}", where="queue", advice="Choose a name a queue does not use."
                )
            self.register_buffer(name, torch.zeros(size, width))
        self.names = (*widths, "labels") if labels else tuple(widths)

    @property
    def filled(self) -> int:
        """Rows that hold something."""
        return int(self.count)

    def rows(self, name: str = "features") -> Tensor:
        """The filled rows of a column, shape (filled, D), of ``labels`` (filled,), in no order of age.

        A view of the queue, not a copy: it changes with the next :meth:`enqueue`.

        Raises:
            ValueError: when the queue has no such column.
        """
        if name not in self.names:
            raise ValueError(f"queue: expected one of the columns {', '.join(self.names)}, got {name!r}")
        return self.get_buffer(name)[: self.filled]

    @torch.no_grad()
    def enqueue(self, features: Tensor, **columns: Tensor) -> None:
        """Put rows in; where there is no room left they replace the oldest.

        With several processes every process gives as many rows as the others, and gets those of all, in the order of
        the ranks: the queue is the same everywhere, that of one process with the whole batch.

        Args:
            features: shape (n, D).
            **columns: the queue's other columns, shape (n, width) each; ``labels`` is (n,).

        Raises:
            ValueError: when columns or shapes are not those of the queue.
        """
        given = {"features": features, **columns}
        if given.keys() != set(self.names):
            raise ValueError(f"queue: expected the columns {', '.join(self.names)}, got {', '.join(given)}")
        for name, value in given.items():
            expected = (len(features), *self.get_buffer(name).shape[1:])
            if tuple(value.shape) != expected:
                raise ValueError(f"queue: expected {name} of shape {expected}, got {tuple(value.shape)}")
        arrived = {name: gather_with_gradient(value.detach().as_subclass(Tensor)) for name, value in given.items()}
        total = len(arrived["features"])
        kept = min(total, self.size)  # of more rows than the queue has, the last
        positions = (self.pointer + torch.arange(total - kept, total, device=self.pointer.device)) % self.size
        for name, value in arrived.items():
            buffer = self.get_buffer(name)
            buffer[positions] = value[total - kept :].to(buffer)
        self.pointer.copy_((self.pointer + total) % self.size)
        self.count.copy_(torch.clamp(self.count + total, max=self.size))

    def extra_repr(self) -> str:
        """Size and columns, for ``print``."""
        return f"size={self.size}, columns=({', '.join(self.names)})"
