"""Lines on the console, which a run outlives."""

import os
import sys
from typing import TextIO


def say(*lines: str, stream: TextIO | None = None) -> None:
    """Print lines at once; if they cannot be written, they and all later ones go nowhere.

    A console that is closed, or a log whose disk is full, is no reason to end a run.

    Parameters
    ----------
    *lines : str
        None to write what was printed before.
    stream : file, optional
        Default: the standard output.
    """
    stream = stream or sys.stdout
    try:
        print("".join(f"{line}\n" for line in lines), end="", file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
