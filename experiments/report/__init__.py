"""Drawings, tables and plots of what runs have left."""
