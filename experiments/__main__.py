"""``python -m experiments`` is ``fedmetanas``."""

from .entry import main

main()
