"""``medssl study``: does a method help at *my* number of labels? Arms x budgets x seeds, run and compared."""

from medssl_monai.apps.study.command import add_parser

__all__ = ["add_parser"]
