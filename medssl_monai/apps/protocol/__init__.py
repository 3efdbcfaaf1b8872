"""``medssl protocol``: how good frozen embeddings are, by weighted kNN, a linear probe or a linear SVM."""

from medssl_monai.apps.protocol.command import add_parser

__all__ = ["add_parser"]
