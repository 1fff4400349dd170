"""Flower strategies, the registry they are plugged into, and the wire format."""
