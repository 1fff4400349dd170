"""The ClientApp by the name that Flower is given, in ``pyproject.toml``.

Flower loads the two apps in two threads. While one of them makes this package, the package does not
know yet where its folders are. A file that lies beside ``__init__.py`` is found even then, and
``import fedmetanas`` waits until the package is whole.
"""

import fedmetanas  # noqa: F401  (first: see above)
from fedmetanas.client.app import app

__all__ = ["app"]
