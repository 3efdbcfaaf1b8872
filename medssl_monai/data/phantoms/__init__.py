"""Synthetic datasets for tests and demonstrations; one file a kind, joined by a registry."""
