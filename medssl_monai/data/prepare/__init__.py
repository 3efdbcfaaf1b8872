"""Preparation of datasets as their publishers ship them; one file a layout, joined by a registry."""

from medssl_monai.data.prepare import folder, ham10000, isic2018, medmnist, nifti, table
from medssl_monai.data.prepare.dataset import prepare_dataset
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import Material

__all__ = [
    "PREPARERS",
    "Draft",
    "Entry",
    "Material",
    "Preparer",
    "folder",
    "ham10000",
    "isic2018",
    "medmnist",
    "nifti",
    "option",
    "prepare_dataset",
    "table",
]
