"""Synthetic datasets for tests and demonstrations; a folder a kind, joined by a registry."""

from medssl_monai.data.phantoms.abdomen import phantom as _abdomen  # noqa: F401 - files itself in the registry
from medssl_monai.data.phantoms.knee import phantom as _knee  # noqa: F401
from medssl_monai.data.phantoms.registry import PHANTOMS, Option, Phantom, Recipe, make_phantom
from medssl_monai.data.phantoms.sheet import contact_sheet
from medssl_monai.data.phantoms.skin_lesions import phantom as _skin_lesions  # noqa: F401

__all__ = ["PHANTOMS", "Option", "Phantom", "Recipe", "contact_sheet", "make_phantom"]
