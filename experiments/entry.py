"""Where a process starts, be it the command line's or that of a run of a comparison.

All else takes seconds to import: what signals do in this time is decided here, before.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, NoReturn

from .console import show_what_can_be_shown

RECEIVED: list[int] = []  # the signal that ends this process, if it was not Ctrl-C


def main() -> NoReturn:
    """Be the command line."""
    start("fedmetanas.experiments.commands.main", "main")


def start(module: str, function: str, *arguments: Any) -> NoReturn:
    """Import a function and call it; end this process with the exit code that it returns.

    Ctrl-C ends the process at once until all is imported, and SIGTERM and SIGHUP wait for it. Then
    these two do what Ctrl-C does, also to the processes that were started here, and the exit code
    is 128 + signal. A thread takes them: Ray would put handlers of its own in the place of ours.
    """
    show_what_can_be_shown()
    ignored = [n for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_IGN]
    ending = {signal.SIGTERM, signal.SIGHUP}.difference(ignored)  # nohup's is none
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # in all threads that are still to come
    os.register_at_fork(after_in_child=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, ending))
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    called = getattr(importlib.import_module(module), function)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in ending:
        signal.signal(number, _leave_to_the_thread)
    signal.signal(signal.SIGUSR1, _do_what_ctrl_c_does)
    threading.Thread(target=_wait, args=(ending,), daemon=True).start()
    sys.exit(called(*arguments))


def started_here() -> bool:
    """Return whether this process was started by :func:`start`, and so is this project's own."""
    return signal.getsignal(signal.SIGUSR1) is _do_what_ctrl_c_does


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import what takes seconds: Ctrl-C ends the process at once, and other signals wait.

    An exception in the midst of an import may be lost, or taken for a fault of what is imported.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # by which the thread interrupts
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def stopped_code() -> int:
    """Return the exit code of a process that was stopped: by Ctrl-C, or by what it received."""
    return 128 + next(iter(RECEIVED), signal.SIGINT)


def _wait(ending: set[signal.Signals]) -> None:
    """Wait for a signal, once: a second one must not hasten the end in good order."""
    RECEIVED.append(signal.sigwait(ending))
    for child in multiprocessing.active_children():
        child.terminate()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _leave_to_the_thread(number: int, frame: Any) -> None:
    """Block a signal once more: multiprocessing unblocks SIGTERM when it starts a process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    os.kill(os.getpid(), number)


def _do_what_ctrl_c_does(number: int, frame: Any) -> None:
    handler = signal.getsignal(signal.SIGINT)
    # In the background of a script Ctrl-C is ignored.
    (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)
