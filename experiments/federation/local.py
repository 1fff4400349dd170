"""A whole federation on this machine: its server, all its sites, and one run over them."""

import subprocess
import sys
from pathlib import Path

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import say

from .example import EXPERIMENT, make_example
from .folder import Federation, opened
from .nodes import CONNECTION
from .programs import end, program, start
from .server import running, surroundings

OUTPUT = "output"  # a file in a site's kit


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
    with running(federation):
        sites: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in federation.sites:
                sites[name] = _start_site(federation, name)
            say(f"started {', '.join(sites)}; what they say is in {root / 'kits'}/NAME/{OUTPUT}")
            words = [program("fedmetanas"), "run", str(experiment)]
            words += ["--engine", "superlink", "--superlink", CONNECTION]
            run = start(words, env=surroundings(federation))
            try:
                code = run.wait()
            finally:
                end([run])
            for name, site in sites.items():
                if site.poll() is not None:
                    where = federation.kit(name) / OUTPUT
                    say(f"{name} ended by itself; see {where}", stream=sys.stderr)
            return code
        finally:
            end([*sites.values()])


def _start_site(federation: Federation, name: str) -> subprocess.Popen[bytes]:
    """Start a site as its own machine would; what it says goes to a file in its kit."""
    kit = federation.kit(name)
    with (kit / OUTPUT).open("wb") as output:
        words = [program("fedmetanas"), "site", "start", str(kit / "site.toml")]
        return start(words, stdout=output, stderr=output)
