"""Run the two apps by Flower's simulation, with Ray's virtual clients."""

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.code_digest import refuse_other_package
from fedmetanas.experiments.settings import Settings
from fedmetanas.experiments.surroundings import default_workers

from .apps import CLIENT_APP, SERVER_APP, AppByName, RunConfig, quieten_flower
from .guarded import ENDED, GuardedApp
from .stopping import StoppableServer, StoppedError, stopped_by_ctrl_c

LONGEST_SOCKET = 107  # bytes in the path of a socket, a limit of Linux
QUOTES = "'\\"  # with which Ray, as it starts its processes, does not cope in a path

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
    workers = settings.engine.workers or default_workers()
    workers = min(workers, settings.partitions)
    gpus = 1 / workers if settings.engine.device == "cuda" else 0
    stop = threading.Event()
    # A folder of its own: Ray would leave its logs in the one that all runs share.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        if os.path.expanduser("~") == "~":  # it is unknown, and Flower asks as it is imported
            os.environ.setdefault("FLWR_HOME", folder)
        server = StoppableServer(SERVER_APP, run_config, stop, folder)
        app = AppByName(CLIENT_APP, run_config)
        client = GuardedApp(app, settings.engine.timeout, folder, os.getcwd())
        with stopped_by_ctrl_c(stop, Path(folder) / ENDED, Path(run_config["out"])):
            from flwr.simulation import run_simulation  # slow to import: only where it is used

            quieten_flower()
            with _running_ray(workers, folder):
                if stop.is_set():  # while Ray started
                    raise StoppedError
                run_simulation(
                    server_app=server,  # type: ignore[arg-type]
                    client_app=client,  # type: ignore[arg-type]
                    num_supernodes=settings.partitions,
                    backend_config={
                        # These are the options of Ray's actors: one that died is started again,
                        # and does its message once more.
                        "client_resources": {
                            "num_cpus": 1,
                            "num_gpus": gpus,
                            "max_restarts": -1,
                            "max_task_retries": 1,
                        },
                    },
                )
            for error in server.raised:
                raise error


@contextlib.contextmanager
def _running_ray(workers: int, folder: str) -> Iterator[None]:
    """Start Ray, which ends with the run, or take the one that runs in this process, and leave it.

    Parameters
    ----------
    workers : int
        How many to start Ray for; one that runs has as many as it has CPUs.
    folder : str
        For Ray's files, empty.

    Raises
    ------
    SettingsError
        If the one that runs has no CPUs, or may run other code than this.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        # Workers get the path of this process. Ray puts the current folder before all of it, and
        # in that of a person there may be anything, another copy of this project among it.
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        with contextlib.chdir(folder):
            ray.init(
                address="local",
                num_cpus=workers,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                _temp_dir=folder,
            )
    else:
        refuse_other_package(Path.cwd())
    shutdown, ray.shutdown = ray.shutdown, lambda: None  # as Flower calls it when it has finished
    try:
        if ray.cluster_resources().get("CPU", 0) < 1:  # type: ignore[no-untyped-call]
            raise SettingsError(
                "engine: Ray runs in this process without CPUs; start it with some, end it by "
                "ray.shutdown(), or take the inline engine"
            )
        yield
    finally:
        ray.shutdown = shutdown
        if ours:
            ray.shutdown()


def check_temporary_folder() -> None:
    """Check that Ray can open its sockets in the folder for temporary files.

    Raises
    ------
    SettingsError
        If the longest path that Ray makes up there would be too long, or Ray cannot read it.
    """
    folder = tempfile.gettempdir()
    advice = "set TMPDIR to another path, or take --engine inline"
    if not folder.isascii() or not set(QUOTES).isdisjoint(folder):
        raise SettingsError(
            "TMPDIR: Ray's sockets lie there, and its path must be plain: ASCII, without ' and \\; "
            f"found {folder}; {advice}"
        )
    own = f"/ray-12345678/session_2026-01-01_00-00-00_000000_{os.getpid()}/sockets/plasma_store"
    found, most = len(folder), LONGEST_SOCKET - len(own)
    if found > most:
        raise SettingsError(
            f"TMPDIR: Ray's sockets lie there, and its path may have at most {most} bytes; found "
            f"{folder} with {found}; {advice}"
        )
