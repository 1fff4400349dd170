"""What a run changes in the process it runs in, and how that is put back.

A run may be started from a program of somebody's own, a notebook or a test, which goes on after it.
"""

import gc
import logging
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from .console import show_what_can_be_shown


def settle() -> None:
    """Make this process one that computes: of a run, of its server or of clients."""
    # One thread a process: workers share the cores, and two threads beside a busy neighbour
    # wait for each other. It also makes sums, and so results, independent of the machine.
    torch.set_num_threads(1)
    # A message is of so many objects that the collector would look every few clients through all
    # that was imported.
    if not gc.get_freeze_count():
        gc.freeze()


def default_workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def process_left_as_found() -> Iterator[None]:
    """Put back, at the end, what a run changes in its process; also if it fails.

    These are the threads of PyTorch, the state of all global generators of random numbers, the
    frozen objects of the garbage collector, loggers, signal handlers, environment variables,
    ``sys.path``, the current folder, and what the standard streams do about characters that they
    lack. Another thread must not change these meanwhile: its changes would be undone, too.
    """
    with ExitStack() as stack:
        for remember in REMEMBER:
            stack.callback(remember())
        stack.callback(show_what_can_be_shown())
        yield


Undo = Callable[[], Any]


def _threads() -> Undo:
    return partial(torch.set_num_threads, torch.get_num_threads())


def _generators() -> Undo:
    python, pytorch = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002  # that of others, who may use it

    def undo() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(pytorch)

    return undo


def _collector() -> Undo:
    return (lambda: None) if gc.get_freeze_count() else gc.unfreeze


def _loggers() -> Undo:
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    before = [
        (logger, logger.level, list(logger.handlers), logger.propagate, logger.disabled)
        for logger in known
        if isinstance(logger, logging.Logger)
    ]

    def undo() -> None:
        for logger, level, handlers, propagate, disabled in before:
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate, logger.disabled = propagate, disabled

    return undo


def _signals() -> Undo:
    if threading.current_thread() is not threading.main_thread():
        return lambda: None  # no other thread can change them
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}

    def undo() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)

    return undo


def _environment() -> Undo:
    before = dict(os.environ)

    def undo() -> None:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)

    return undo


def _path() -> Undo:
    before = list(sys.path)

    def undo() -> None:
        sys.path[:] = before

    return undo


def _folder() -> Undo:
    return partial(os.chdir, os.getcwd())


REMEMBER = (
    *(_threads, _generators, _collector, _loggers, _signals),
    *(_environment, _path, _folder),
)
