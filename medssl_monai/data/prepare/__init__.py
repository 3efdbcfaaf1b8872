"""Preparation of datasets as their publishers ship them; one file a layout, joined by a registry."""
