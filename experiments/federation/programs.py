"""Programs of the environment in which this package is installed, and what they are told."""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from fedmetanas.errors import SettingsError

GRACE = 10.0  # seconds in which a program may end in good order

LIBC = ctypes.CDLL(None)

BIN = Path(sys.executable).parent
#: Where programs are looked for: beside this interpreter, whatever PATH says.
PATH = os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath)])


def program(name: str) -> str:
    """Return the path of a program that comes with this package, or with Flower.

    Raises
    ------
    SettingsError
        If there is none.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise SettingsError(f"there is no {name} in {BIN}; install fedmetanas once more")
    return found


def start(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own: Ctrl-C at the terminal is not for it.

    Parameters
    ----------
    words : list of str
        The program's path and its arguments.
    **options
        Of :class:`subprocess.Popen`.
    """
    # Signals that this process blocks, since one thread takes them, are not blocked in a child
    # that runs a function first: see entry.py.
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_end_with_parent,
        **options,
    )


def _end_with_parent() -> None:
    """Ask Linux to end this process, in good order, when the one that started it is killed."""
    if sys.platform == "linux":
        LIBC.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def end(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    """End programs, and whatever they have started.

    Parameters
    ----------
    programs : sequence of Popen
        Each gets SIGTERM, and all have `GRACE` seconds to end in good order. Flower's processes
        look whether the one that started them is still there, and end by themselves. What is left
        is killed.
    """
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not hasten it
    try:
        started = [process for one in programs for process in _started_by(one.pid)]
        for one in programs:
            one.terminate()
        ends = time.monotonic() + GRACE
        for one in programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0, ends - time.monotonic()))
        _, left = psutil.wait_procs(started, timeout=max(0, ends - time.monotonic()))
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for one in programs:
            one.kill()
            one.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def _started_by(parent: int) -> list[psutil.Process]:
    """Return the processes that a process and its children have started."""
    try:
        return list(psutil.Process(parent).children(recursive=True))
    except psutil.NoSuchProcess:
        return []
