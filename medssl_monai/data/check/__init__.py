"""Check of a dataset: every file is read, every problem is reported (``medssl check``)."""

from medssl_monai.data.check.dataset import KINDS, CheckReport, Problem, check_dataset

__all__ = ["KINDS", "CheckReport", "Problem", "check_dataset"]
