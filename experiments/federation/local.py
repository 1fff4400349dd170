"""A whole federation on this machine: its server, all its sites, and one run over them."""

import subprocess
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say

from .example import EXPERIMENT, make_example
from .folder import opened
from .nodes import CONNECTION
from .programs import end, program, start
from .server import running, surroundings


def play(root: Path) -> int:
    """Play the server and all sites of a federation, run its experiment, and return its exit code.

    Parameters
    ----------
    root : Path
        Its folder; if there is none, it is made, with images.

    Raises
    ------
    SettingsError
        If the folder is another's, or sites are meant to be elsewhere.
    RunError
        If the server does not come up.
    """
    if not root.exists():
        say(f"making {root}, with images for its sites")
        make_example(root)
    federation = opened(root)
    experiment = federation.root / EXPERIMENT
    if federation.addresses or not experiment.exists():
        raise SettingsError(
            f"--local: {root} is not a federation to try, of which all is on this machine; name a "
            "new folder, which is made"
        )
    fedmetanas = program("fedmetanas")
    started: list[subprocess.Popen[bytes]] = []
    with running(federation):
        try:
            say(f"starting {', '.join(federation.sites)}; their logs are in {root / 'kits'}")
            for name in federation.sites:
                site = [fedmetanas, "site", "start", str(federation.kit(name) / "site.toml")]
                started.append(start(site, stdout=subprocess.DEVNULL))  # it is in its log
            words = [fedmetanas, "run", str(experiment)]
            words += ["--engine", "superlink", "--superlink", CONNECTION]
            run = start(words, env=surroundings(federation))
            started.insert(0, run)
            return run.wait()
        finally:
            end(started)
