"""Ignite handlers: checkpoints, guards, teacher, tables, estimates."""
