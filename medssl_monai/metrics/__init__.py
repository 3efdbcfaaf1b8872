"""Figures of merit: classification, calibration, intervals."""
