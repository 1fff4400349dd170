"""``python -m fedmetanas`` is ``fedmetanas``."""

from fedmetanas.experiments.entry import main

main()
