"""Variants of an experiment, run side by side."""
