"""Lines on the console: what may stand in them, and that a run outlives it."""

import io
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
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


def show_what_can_be_shown() -> Callable[[], None]:
    """Print ``?`` for characters that the standard streams lack; return what undoes this."""
    undo = ExitStack()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not if a notebook or a test has put in its own
            undo.callback(partial(stream.reconfigure, errors=stream.errors))
            stream.reconfigure(errors="replace")
    return undo.close


def printable(text: str) -> str:
    """Return a text without what would steer a terminal; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.expandtabs())


def one_line(text: object) -> str:
    """Return a text, or what an error says, as one line of characters that can be shown."""
    return printable(" ".join(str(text).split()))


def reason(error: Exception) -> str:
    """Return why an error was raised, in 200 characters at most; its kind if it says nothing."""
    return one_line(error)[:200] or type(error).__name__
