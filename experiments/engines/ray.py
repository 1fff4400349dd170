"""Run the two apps by Flower's simulation, with Ray's virtual clients."""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message
from flwr.serverapp import Grid

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say
from fedmetanas.experiments.entry import stopped_code
from fedmetanas.experiments.experiment import default_workers
from fedmetanas.experiments.settings import Settings

from .apps import CLIENT_APP, SERVER_APP, AppByName, RunConfig, app_named, quieten_flower

ENDED = "ended"  # a file that tells workers that no reply is waited for any more
GUARD_INTERVAL = 0.5  # seconds
GRACE = 7.0  # seconds in which a run that is stopped may end in good order
LONGEST_SOCKET = 107  # bytes in the path of a socket, a limit of Linux

#: Read by Flower and Ray when they start; a person's own values are kept.
RAY_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers do all the work here. At Ray's default, 15, they starve beside any busy process.
    "RAY_worker_niceness": "0",
    # As on macOS and Windows, all of Ray's sockets are on the loopback interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A worker that died is started again, and says so itself: no line for each message it lost.
    "RAY_enable_output_error_log_if_still_retry": "0",
}


class StoppedError(Exception):
    """The person stopped the run; this ends the server's thread."""


@dataclass(frozen=True)
class GuardedApp:
    """The ClientApp in a worker of Ray, which ends when a message takes too long.

    A call cannot be ended, but its process can: Ray starts another, and gives it the message once
    more, which is then answered with an error. Without it, such a client would keep its worker.

    Attributes
    ----------
    app : AppByName
        The app.
    seconds : float
        What a message may take.
    folder : str
        A folder of the run, where workers note which messages they gave up.
    """

    app: AppByName
    seconds: float
    folder: str

    def __call__(self, message: Message, context: Context) -> Message:
        """Call the ClientApp."""
        given_up = Path(self.folder) / f"given-up-{message.metadata.message_id}"
        if given_up.exists():
            return Message(Error(0, f"gave up after {self.seconds:g} s"), reply_to=message)
        answered = threading.Event()
        threading.Thread(target=self._guard, args=(answered, given_up), daemon=True).start()
        try:
            return self.app(message, context)
        finally:
            answered.set()

    def _guard(self, answered: threading.Event, given_up: Path) -> None:
        """End this process if the message is not answered in time, or before the run ends."""
        deadline = time.monotonic() + self.seconds
        while not answered.wait(GUARD_INTERVAL):
            if time.monotonic() > deadline or (Path(self.folder) / ENDED).exists():
                given_up.touch()
                os._exit(1)


@dataclass(frozen=True)
class StoppableServer:
    """The ServerApp, on a grid that ends the run when the person asks for it."""

    name: str
    run_config: Mapping[str, Any]
    stop: threading.Event
    folder: str

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
        finally:
            (Path(self.folder) / ENDED).touch()


def run_ray(settings: Settings, run_config: RunConfig) -> None:
    """Run an experiment by Flower's simulation; Ray's workers end with it.

    Raises
    ------
    Exception
        Whatever the ServerApp raises.
    KeyboardInterrupt
        If the person stops it; the server and Ray's workers have ended by then.
    """
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from flwr.simulation import run_simulation  # Ray is slow to import: only where it is used

    quieten_flower()
    workers = settings.engine.workers or default_workers()
    workers = min(workers, settings.partitions)
    gpus = 1 / workers if settings.engine.device == "cuda" else 0
    stop = threading.Event()
    # A folder of its own: Ray would leave its logs in the one that all runs share.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        server = StoppableServer(SERVER_APP, run_config, stop, folder)
        app = AppByName(CLIENT_APP, run_config)
        client = GuardedApp(app, settings.engine.timeout, folder)
        with stopped_by_ctrl_c(stop, Path(folder) / ENDED):
            run_simulation(
                server_app=server,  # type: ignore[arg-type]
                client_app=client,  # type: ignore[arg-type]
                num_supernodes=settings.partitions,
                backend_config={
                    "init_args": {
                        "num_cpus": workers,
                        "include_dashboard": False,
                        "logging_level": "error",
                        "log_to_driver": False,
                        "_temp_dir": folder,
                    },
                    # These are the options of Ray's actors: one that died is started again, and
                    # does its message once more.
                    "client_resources": {
                        "num_cpus": 1,
                        "num_gpus": gpus,
                        "max_restarts": -1,
                        "max_task_retries": 1,
                    },
                },
            )


def check_temporary_folder() -> None:
    """Check that Ray can open its sockets in the folder for temporary files.

    Raises
    ------
    SettingsError
        If the longest path that Ray makes up there would be too long.
    """
    folder = tempfile.gettempdir()
    own = f"/ray-12345678/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    found, most = len(os.fsencode(folder)), LONGEST_SOCKET - len(own)
    if found > most:
        raise SettingsError(
            f"TMPDIR: Ray's sockets lie there, and its path may have at most {most} bytes; found "
            f"{folder} with {found}; set TMPDIR to a shorter path, or take --engine inline"
        )


@contextmanager
def stopped_by_ctrl_c(stop: threading.Event, ended: Path) -> Iterator[None]:
    """Let the first Ctrl-C end server and workers in good order; a second one acts at once.

    An exception here would end Ray while threads of Flower wait for it, and they would for ever.
    """

    def ask(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, previous)
        stop.set()
        ended.touch()
        threading.Thread(target=_end_in_time, args=(over, ended.parent), daemon=True).start()

    over = threading.Event()
    previous = signal.signal(signal.SIGINT, ask)
    try:
        yield
    except StoppedError:
        raise KeyboardInterrupt from None
    finally:
        over.set()
        signal.signal(signal.SIGINT, previous)
        stop.set()


def _end_in_time(over: threading.Event, folder: Path) -> None:
    """End this process, and all that it has started, if they do not end in good order in time.

    Beside other busy processes Ray takes long to start and to end. The run can go on all the same:
    its checkpoints are whole at any moment.
    """
    if over.wait(GRACE):
        return
    import psutil  # type: ignore[import-untyped]  # comes with Ray

    started = psutil.Process().children(recursive=True)
    for process in started:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(started, timeout=1)
    shutil.rmtree(folder, ignore_errors=True)
    say("\nfedmetanas: stopped", stream=sys.stderr)
    os._exit(stopped_code())
