"""Two views of a whole batch at once, on the batch's device."""

from medssl_monai.transforms.batched.views import BatchedViews

__all__ = ["BatchedViews"]
