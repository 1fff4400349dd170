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
        started = [number for one in programs for number in _started_by(one.pid)]
        for one in programs:
            one.terminate()
        ends = time.monotonic() + GRACE
        for one in programs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0, ends - time.monotonic()))
        while any(map(_runs, started)) and time.monotonic() < ends:
            time.sleep(0.1)
        for number in filter(_runs, started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for one in programs:
            one.kill()
            one.wait()
    finally:
        signal.signal(signal.SIGINT, previous)


def _started_by(parent: int) -> list[int]:
    """Return the ids of the processes that a process and its children have started, on Linux."""
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    parents = {number: _state(number)[1] for number in numbers}
    found = [parent]
    for above in found:  # grows
        found += [number for number, its in parents.items() if its == str(above)]
    return found[1:]


def _runs(number: int) -> bool:
    """Return whether a process is there, and has not ended."""
    return _state(number)[0] not in ("", "Z")


def _state(number: int) -> tuple[str, str]:
    """Return a letter for the state of a process, and the id of its parent; empty if it is gone."""
    try:
        stat = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    state, parent = stat.rpartition(")")[2].split()[:2]  # behind its name, which may be anything
    return state, parent
