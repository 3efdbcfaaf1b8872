"""Knee MR exams of three planes: anatomy, findings, images, files."""
