"""Datasets, reading images, partitions, and the caches of both."""
