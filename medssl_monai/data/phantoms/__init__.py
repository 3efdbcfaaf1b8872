"""Synthetic datasets for tests and demonstrations; one file a kind, joined by a registry."""

from medssl_monai.data.phantoms import knee as _knee  # noqa: F401 - files itself in the registry
from medssl_monai.data.phantoms import skin_lesions as _skin_lesions  # noqa: F401
from medssl_monai.data.phantoms.registry import PHANTOMS, Option, Phantom, Recipe, make_phantom
from medssl_monai.data.phantoms.sheet import contact_sheet

__all__ = ["PHANTOMS", "Option", "Phantom", "Recipe", "contact_sheet", "make_phantom"]
