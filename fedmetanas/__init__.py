"""FedMetaNAS: find a network, with its weights, for images that stay with their owners.

The folders of this project are the subpackages of this one: ``fedmetanas.search_space``,
``fedmetanas.client`` and so on. In a wheel they lie beside this file. In a checkout, and in the
copy of it that Flower makes of an app, they lie one folder further up.
"""

from pathlib import Path

__version__ = "0.1.0"  # as in pyproject.toml, which Flower's copy of the app cannot ask for

_HERE = Path(__file__).resolve().parent
if not (_HERE / "search_space").is_dir():
    __path__.append(str(_HERE.parent))
