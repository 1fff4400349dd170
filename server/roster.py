"""Nodes on machines of their own: which client each of them is, and whether it may take part.

A site is a client by its name, and a node with a part of a copy by that part; nobody else ever
plays it. A node without images of its own may play any client of an experiment whose images are
installed with the package.
"""

import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from flwr.serverapp import Grid

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.console import one_line, say
from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.sites.agreement import Facts, objections

from .hello import Answer, Hello
from .nodes import AWAY, ClientError, Known, Nodes, name_of, pause
from .replies import CHANGED

ANY = -1  # in place of a client's number: the node plays any


@dataclass(frozen=True)
class Claim:
    """Which client a node says it is, and why it cannot be.

    Attributes
    ----------
    name : str
        Who it is.
    client : int or None
        Which client it is; :data:`ANY` if it plays any; None if there is no such client.
    facts : Facts or None
        What it has.
    reason : str
        Why it cannot take part; empty if it can.
    """

    name: str
    client: int | None
    facts: Facts | None
    reason: str


class Roster(Nodes):
    """The nodes of a run, by the clients that they are.

    Parameters
    ----------
    grid : Grid
        The grid of the run.
    experiment : Experiment
        Its settings say whom to expect, and on what all must agree.
    bound : dict of str to int
        The node ids of names, where keys bind them; see :func:`read_bound`.
    begun : dict of str to str
        The digests of the images with which sites began a run that goes on, by their names.
    """

    def __init__(
        self,
        grid: Grid,
        experiment: Experiment,
        bound: Mapping[str, int],
        begun: Mapping[str, str],
    ) -> None:
        self.hello = Hello(grid)
        self.experiment = experiment
        self.settings = experiment.settings
        self.bound = bound
        self.begun = dict(begun)
        self.taken: dict[int, Known] = {}
        self.claimed: dict[int, Claim] = {}  # by node, as they were last looked at
        self.said: set[str] = set()

    def assemble(self) -> list[Facts]:
        """Wait for the nodes before the first round; return what they have.

        Raises
        ------
        SettingsError
            If some disagree with the experiment; all of them are named.
        ClientError
            If too few have come when the time is over.
        """
        engine, started = self.settings.engine, time.monotonic()
        while True:
            self.hello.meet()
            claims, waited = list(self._claimed().values()), time.monotonic() - started
            # Who has not answered by then may never do so.
            is_late = waited > min(engine.wait, engine.timeout)
            if (is_late or not self.hello.asked) and self._are_enough(claims, is_late):
                break
            missing = self._missing(claims)
            self._say(f"waiting: {missing}")
            if waited > engine.timeout:
                raise ClientError(f"{missing}, for {engine.timeout:g} s (engine.timeout)")
            pause(started)
        if refused := sorted(f"{claim.name}: {claim.reason}" for claim in claims if claim.reason):
            raise SettingsError("; ".join(refused))
        self._take(claims)
        return [claim.facts for claim in claims if claim.facts]

    def find(self, clients: Iterable[int]) -> Mapping[int, int]:
        """Return the node of each of these clients that is here, after meeting those that are new.

        One that was refused is asked again: its images or its settings may be others by now.
        """
        refused = [node for node, claim in self._claimed().items() if claim.reason]
        self.hello.meet()
        self.claimed = claimed = self._claimed()
        for claim in claimed.values():
            if claim.reason:
                self._say(f"{claim.name} cannot take part: {claim.reason}")
        self._take(list(claimed.values()))
        players = {claim.client: node for node, claim in claimed.items() if not claim.reason}
        others = sorted(n for n, c in claimed.items() if c.client == ANY and not c.reason)
        self.hello.forget(node for node in refused if node in claimed)
        found = {client: players.get(client) for client in clients}
        return {
            client: others[client % len(others)] if node is None else node
            for client, node in found.items()
            if node is not None or others
        }

    def known(self, client: int) -> Known:
        """Return what is known of a client: what it had when it took part at first."""
        name = name_of(self.settings, client)
        if self.experiment.dataset:
            most = len(self.experiment.dataset.train.labels)
            return Known(name, self.experiment.parts[client].size, most)
        return self.taken.get(client, Known(name, 0, 0))

    def absence(self, client: int) -> str:
        """Return why a client has no node."""
        name = name_of(self.settings, client)
        reasons = [c.reason for c in self.claimed.values() if c.name == name and c.reason]
        return reasons[0] if reasons else AWAY

    def digests(self) -> Mapping[str, str]:
        """Return the digest of the images of each site that has taken part, by its name."""
        return dict(self.begun)

    def _are_enough(self, claims: list[Claim], is_late: bool) -> bool:
        """Return whether the first round may start, or cannot for those that are refused.

        Nobody waits longer where all are here, whether they can take part or not.
        """
        settings = self.settings
        clients = {claim.client for claim in claims if not claim.reason}
        if ANY in clients:
            return len(claims) >= settings.engine.min_nodes
        if {claim.client for claim in claims}.issuperset(range(settings.partitions)):
            return True  # all are here, if only to be refused
        needed = settings.min_replies or (settings.drawn + 1) // 2
        training = clients.intersection(range(settings.clients))
        return is_late and (len(training) >= needed or any(claim.reason for claim in claims))

    def _missing(self, claims: list[Claim]) -> str:
        """Return in words who is not here yet."""
        settings = self.settings
        if settings.sites or any(claim.client not in (None, ANY) for claim in claims):
            here = {claim.client for claim in claims}
            absent = [c for c in range(settings.partitions) if c not in here]
            names = ", ".join(name_of(settings, client) for client in absent)
            if absent:
                reading = ", or still reading images" if self.hello.asked else ""
                return f"{names} not connected{reading}"
            return "some have not said yet what they have"
        return f"{len(claims)} of {settings.engine.min_nodes} nodes connected (engine.min_nodes)"

    def _take(self, claims: list[Claim]) -> None:
        """Note with what clients take part; they must keep to it for as long as the run lasts."""
        for claim in claims:
            if claim.facts and not claim.reason and claim.client not in (None, ANY):
                size = claim.facts.train + claim.facts.test
                known = Known(claim.name, size, size, claim.facts.data)
                self.taken.setdefault(claim.client or 0, known)
                if claim.facts.site:
                    self.begun.setdefault(claim.name, claim.facts.data)

    def _claimed(self) -> dict[int, Claim]:
        """Return by node id which client each node is; of two that are the same, the first is."""
        found: dict[int, Claim] = {}
        taken: set[int] = set()
        for node, answer in self.hello.answers.items():
            claim = self._claim(node, answer)
            if claim.client in taken and not claim.reason:
                claim = Claim(claim.name, claim.client, claim.facts, "another node is it already")
            if claim.client not in (None, ANY) and not claim.reason:
                taken.add(claim.client)
            found[node] = claim
        return found

    def _claim(self, node: int, answer: Answer) -> Claim:
        """Return which client a node is, or why it is none."""
        settings, facts, some = self.settings, answer.facts, f"node {node}"
        names = (*settings.sites, *settings.held_out_sites)
        if facts is None:
            name = next((name for name in names if self.bound.get(name) == node), some)
            known = names.index(name) if name in names else None
            return Claim(name, known, None, answer.reason.removeprefix(f"{name}: "))
        name, client, reason = one_line(facts.site) or some, None, ""
        if facts.site:
            if name not in names:
                reason = f"no such name is among the sites: {', '.join(names) or 'there are none'}"
            elif self.bound and self.bound.get(name) != node:
                reason = "its key is not the one that was registered for that name"
            else:
                client = names.index(name)
        elif names:
            reason = "it has no name; a site says site=NAME in its node config"
        elif answer.part is None:
            client = ANY
        elif answer.part[1] != settings.partitions:
            part, parts = answer.part
            reason = f"it plays part {part} of {parts}, and there are {settings.partitions} clients"
        else:
            client = answer.part[0]
            name = name_of(settings, client)
        if client is not None:
            reason = "; ".join(self._objections(name, facts))
        return Claim(name, client, facts, reason)

    def _objections(self, name: str, facts: Facts) -> list[str]:
        """Return why a node cannot take part with what it has."""
        found = objections(facts, self.settings, own_images=self.experiment.dataset is None)
        if facts.site and self.begun.get(name, facts.data) != facts.data:
            found.append(f"{CHANGED}; to go on with them, resume with --accept-changed {name}")
        return found

    def _say(self, words: str) -> None:
        """Say something, once."""
        if words not in self.said:
            self.said.add(words)
            say(words, stream=sys.stderr)


def read_bound(path: str) -> dict[str, int]:
    """Read which node ids the names of sites are bound to; none without a file.

    Raises
    ------
    SettingsError
        If the file cannot be read.
    """
    if not path:
        return {}
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
        return {str(name): int(node) for name, node in tree.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SettingsError(f"FEDMETANAS_NODES: cannot read {path}: {error}") from None
