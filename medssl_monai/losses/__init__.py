"""Tensor maths of the objectives, one family a file."""
