"""Ctrl-C while the simulation runs: server and workers end in good order, and in time."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from flwr.app import Context, Message
from flwr.serverapp import Grid

from fedmetanas.experiments.console import say
from fedmetanas.experiments.entry import started_here, stopped_code
from fedmetanas.experiments.results.run_folder import stopped

from .apps import app_named
from .guarded import ENDED

GRACE = 7.0  # seconds in which a run that is stopped may end in good order


class StoppedError(Exception):
    """The person stopped the run; this ends the server's thread."""


@dataclass(frozen=True)
class StoppableServer:
    """The ServerApp, on a grid that ends the run when the person asks for it.

    What it raises is kept: Flower would wait some seconds more for its context.
    """

    name: str
    run_config: Mapping[str, Any]
    stop: threading.Event
    folder: str
    raised: list[Exception] = field(default_factory=list)

    def __call__(self, grid: Grid, context: Context) -> None:
        """Call the ServerApp."""
        context.run_config = dict(self.run_config)
        pull = grid.pull_messages

        def pull_unless_stopped(message_ids: Iterable[str]) -> Iterable[Message]:
            if self.stop.is_set():
                raise StoppedError
            return pull(message_ids)

        grid.pull_messages = pull_unless_stopped  # type: ignore[method-assign]
        try:
            app_named(self.name)(grid=grid, context=context)
        except Exception as error:
            self.raised.append(error)
        finally:
            (Path(self.folder) / ENDED).touch()


@contextmanager
def stopped_by_ctrl_c(stop: threading.Event, ended: Path, out: Path) -> Iterator[None]:
    """Let the first Ctrl-C end server and workers in good order; a second one acts at once.

    An exception here would end Ray while threads of Flower wait for it, and they would for ever.
    In a thread that is not the main one nothing is done: Ctrl-C is the main one's.

    Parameters
    ----------
    stop : Event
        Set when the server is to stop.
    ended : Path
        A file by which workers are told.
    out : Path
        The results folder, for what the person is told.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, when all have ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        stop.set()
        ended.touch()
        if started_here():  # in a program of somebody's own, all of it is not ours to end
            arguments = over, ended.parent, out
            threading.Thread(target=_end_in_time, args=arguments, daemon=True).start()

    over = threading.Event()
    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    except StoppedError:
        raise KeyboardInterrupt(stopped(out)) from None
    finally:
        over.set()
        signal.signal(signal.SIGINT, previous)
        stop.set()


def _end_in_time(over: threading.Event, folder: Path, out: Path) -> None:
    """End this process, and all that it has started, if they do not end in good order in time.

    Beside other busy processes Ray takes long to start and to end. The run can go on all the same:
    its checkpoints are whole at any moment.
    """
    if over.wait(GRACE):
        return
    started = psutil.Process().children(recursive=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)
    say(f"\nfedmetanas: {stopped(out)}", stream=sys.stderr)
    os._exit(stopped_code())
