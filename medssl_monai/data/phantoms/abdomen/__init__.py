"""Phantom of abdominal MR: one scan a subject, with masks of liver, kidneys and spleen."""
