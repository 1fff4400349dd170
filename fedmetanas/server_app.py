"""The ServerApp by the name that Flower is given; see :mod:`fedmetanas.client_app`."""

import fedmetanas  # noqa: F401  (first: see there)
from fedmetanas.server.app import app

__all__ = ["app"]
