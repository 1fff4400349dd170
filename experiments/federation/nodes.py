"""Which node a site's name is bound to: keys are registered at the running server, by Flower."""

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from fedmetanas.errors import RunError
from fedmetanas.experiments.console import one_line
from fedmetanas.experiments.files import json_text, write_file

from .folder import Federation
from .programs import program

CONNECTION = "federation"  # the server's name in Flower's config.toml
LONGEST = 120  # seconds that a call of Flower's command may take


def register_keys(federation: Federation, environment: Mapping[str, str]) -> list[str]:
    """Make the server know the key of every site and no others; return what has changed, in words.

    Parameters
    ----------
    federation : Federation
        Its server runs.
    environment : mapping
        Of Flower's command; its ``FLWR_HOME`` has a ``config.toml`` that names the server.

    Raises
    ------
    RunError
        If Flower refuses.
    """
    listed = _flwr(environment, "ls", CONNECTION)["nodes"]
    known = {str(node["node-id"]) for node in listed if node["status"] != "unregistered"}
    removed = federation.removed
    nodes = {
        name: node
        for name, node in read_nodes(federation).items()
        if node in known and name not in removed and name in federation.sites
    }
    changes = [f"{name} may join no more" for name in removed]
    for node in sorted(known - set(nodes.values())):
        _flwr(environment, "unregister", node, CONNECTION)
    for name in federation.sites:
        if name not in nodes:
            key = str(federation.public_key(name))
            found = _flwr(environment, "register", key, CONNECTION, "--name", name)
            nodes[name] = str(found["node-id"])
            changes.append(f"{name} may join")
            _write(federation, nodes)  # at once: Flower takes a key only once
    _write(federation, nodes)
    for name in removed:
        federation.removed_key(name).unlink()
    return changes


def read_nodes(federation: Federation) -> dict[str, str]:
    """Return the node of every site that is registered, by its name; none if nothing is known."""
    try:
        found = json.loads(federation.nodes.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {federation.nodes}: {one_line(error)}") from None
    return {str(name): str(node) for name, node in found.items()}


def _write(federation: Federation, nodes: Mapping[str, str]) -> None:
    write_file(federation.nodes, json_text(dict(sorted(nodes.items())), indent=2).encode())


def _flwr(environment: Mapping[str, str], command: str, *arguments: str) -> dict[str, Any]:
    """Call Flower's command for nodes, and return what it answers."""
    words = [program("flwr"), "supernode", command, *arguments, "--format", "json"]
    try:
        answer = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=LONGEST
        )
        found = json.loads(answer.stdout)
    except subprocess.TimeoutExpired:
        raise RunError(f"`flwr supernode {command}` gave no answer in {LONGEST} seconds") from None
    except ValueError:
        found = {"error-message": answer.stderr or answer.stdout}
    if answer.returncode or not isinstance(found, dict) or not found.get("success"):
        why = found.get("error-message", "") if isinstance(found, dict) else answer.stdout
        raise RunError(f"`flwr supernode {command} {arguments[0]}` failed: {one_line(why)}")
    return found
