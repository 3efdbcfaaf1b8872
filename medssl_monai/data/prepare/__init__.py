"""Preparation of datasets as their publishers ship them; one file a layout, joined by a registry."""

from medssl_monai.data.prepare import (
    acdc,
    btcv,
    chaos,
    chaoyang,
    folder,
    ham10000,
    isic2016,
    isic2018,
    kneemri,
    medmnist,
    mhist,
    mrnet,
    mura,
    nifti,
    table,
)
from medssl_monai.data.prepare.dataset import prepare_dataset
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import Material

__all__ = [
    "PREPARERS",
    "Draft",
    "Entry",
    "Material",
    "Preparer",
    "acdc",
    "btcv",
    "chaos",
    "chaoyang",
    "folder",
    "ham10000",
    "isic2016",
    "isic2018",
    "kneemri",
    "medmnist",
    "mhist",
    "mrnet",
    "mura",
    "nifti",
    "option",
    "prepare_dataset",
    "table",
]
