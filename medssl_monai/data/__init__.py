"""Datasets: datalists, readers, splits and label budgets, checks, loaders; preparation and phantoms."""
