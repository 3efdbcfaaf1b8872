"""Figures: saliency panels, confusion, calibration, curves."""
