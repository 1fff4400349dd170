"""``python -m experiments`` is ``fedmetanas``."""

import sys

from .main import main

sys.exit(main())
