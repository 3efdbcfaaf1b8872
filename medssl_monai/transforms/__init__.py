"""Array and dictionary transforms that MONAI lacks."""
