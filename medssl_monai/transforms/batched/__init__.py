"""Two views of a whole batch at once, or the queries of a batch of episodes, on the batch's device."""

from medssl_monai.transforms.batched.episodes import EpisodeViews
from medssl_monai.transforms.batched.views import BatchedViews

__all__ = ["BatchedViews", "EpisodeViews"]
