"""Lines on the console, which a run outlives."""

import contextlib
import sys
from typing import TextIO


def say(words: str, stream: TextIO | None = None) -> None:
    """Print a line at once; that the console is closed, or its disk full, ends no run.

    Parameters
    ----------
    words : str
        The line.
    stream : file, optional
        Default: the standard output.
    """
    with contextlib.suppress(OSError):
        print(words, file=stream or sys.stdout, flush=True)
