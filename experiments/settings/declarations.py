"""The settings themselves: what each means, its default, and what it may be."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedmetanas.search_space.names import DEFAULT_OPERATIONS, LARGEST, OPERATION_NAMES, RELAXATIONS

from .data import DataSettings
from .rules import (
    Rule,
    above,
    at_least,
    between,
    different,
    from_up_to,
    one_of,
    setting,
    some_of,
)
from .yaml_text import write_yaml

DEVICES = ("cpu", "cuda")

# A client takes settings from a server: no one of them may make it allocate without bound.
LARGEST_BATCH = 10_000

NAME = Rule(
    lambda name: name.replace("-", "").replace("_", "").isalnum(),
    "letters, digits, - and _, since it names a folder",
)

#: Of a site: it names a folder, a key and a certificate.
SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
SITE_WORDS = "up to 63 of A-Z, a-z, 0-9, - and _, the first a letter or digit"
DISCLOSE = ("counts", "none")  # what a site may say of the sizes of its classes
SITES = different(
    f"a list of different names, each {SITE_WORDS}", lambda name: bool(SITE.fullmatch(name))
)


@dataclass(frozen=True)
class SearchSettings:
    """The search space, its relaxation and its pruning."""

    channels: int = setting(
        8, between(1, LARGEST["channels"]), about="Channels of the first cells of the network."
    )
    layers: int = setting(
        3, between(1, LARGEST["layers"]), about="Number of cells, one behind the other."
    )
    nodes: int = setting(
        2, between(1, 30), about="Nodes of a cell. Each has two inputs in the network found."
    )
    operations: tuple[str, ...] = setting(
        DEFAULT_OPERATIONS, some_of(OPERATION_NAMES), about="Candidate operations of every edge."
    )
    norm: str = setting(
        "group",
        one_of(("batch", "group")),
        about="Normalisation over the batch, or over groups of channels in each image.",
    )
    relaxation: str = setting(
        "gumbel",
        one_of(RELAXATIONS),
        about="How the candidates of an edge are mixed during the search.",
    )
    tau_schedule: str = setting(
        "exponential",
        one_of(("exponential", "linear", "constant")),
        about="How the temperature tau falls; constant leaves it at tau_start.",
    )
    tau_start: float = setting(
        1.0, above(0), about="Temperature of the relaxation in the first round."
    )
    tau_end: float = setting(0.01, above(0), about="Temperature from round tau_rounds on.")
    tau_rounds: int = setting(15, at_least(1), about="Round in which tau has reached tau_end.")
    operation_threshold: float = setting(
        0.05,
        from_up_to(0, 1),
        about="Operations of less probability are pruned. 0: none before the end.",
    )
    pair_threshold: float = setting(
        0.05,
        from_up_to(0, 1),
        about="Pairs of inputs of less probability are pruned. 0: none before the end.",
    )
    weight_free_limit: int | None = setting(
        None, at_least(0), about="Edges of a cell that may have no convolution. Null: all of them."
    )
    warmup_rounds: int = setting(
        1,
        at_least(0),
        about="First rounds, in which no alpha moves and nothing is pruned.",
    )

    @property
    def candidates(self) -> int:
        """Number of operations in all cells of the supernet."""
        edges = self.nodes * (self.nodes + 3) // 2
        return self.layers * edges * len(self.operations)


@dataclass(frozen=True)
class ClientSettings:
    """How a client trains."""

    episodes: int = setting(4, at_least(1), about="Outer steps of a client in a round.")
    batch_size: int = setting(32, between(1, LARGEST_BATCH), about="Images of a training batch.")
    inner_steps: int = setting(
        1, between(0, 100), about="Inner steps (adaptation) before each outer step."
    )
    meta_start: float = setting(
        0.0, between(0, 1), about="Share of the rounds, at the beginning, without inner steps."
    )
    inner_lr: float = setting(0.02, at_least(0), about="Learning rate of weights in inner steps.")
    inner_alpha_lr: float = setting(
        0.02, at_least(0), about="Learning rate of alphas in inner steps."
    )
    outer_lr: float = setting(0.1, at_least(0), about="Learning rate of weights in outer steps.")
    outer_alpha_lr: float = setting(
        0.02, at_least(0), about="Learning rate of alphas in outer steps."
    )
    outer_lr_schedule: str = setting(
        "cosine", one_of(("cosine", "constant")), about="How outer_lr falls over the rounds."
    )
    momentum: float = setting(0.9, between(0, 0.999), about="Momentum of weights in outer steps.")
    weight_decay: float = setting(3e-4, at_least(0), about="Weight decay in outer steps.")
    clip: float = setting(
        5.0,
        above(0),
        about="Greatest norm of the gradient of the weights; a longer one is scaled down.",
    )
    second_order: bool = setting(
        False, about="Whether outer gradients go through the inner steps: exact, but costly."
    )
    outer_loss: str = setting(
        "query",
        one_of(("query", "all")),
        about="Losses of an outer step: of only the query batch, or of all batches.",
    )
    adapt_steps: int = setting(
        5,
        at_least(0),
        about="Steps in which a client adapts before its adapted accuracy is measured.",
    )


@dataclass(frozen=True)
class StrategySettings:
    """How the server aggregates."""

    name: str = setting("fedmetanas", about="A registered strategy, or package.module:Class.")
    options: Mapping[str, Any] = setting({}, about="Keyword arguments of the strategy's class.")


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured, and when."""

    every: int = setting(
        5,
        at_least(1),
        about="Rounds from one evaluation to the next. The final network is always measured.",
    )
    batch_size: int = setting(
        256, between(1, LARGEST_BATCH), about="Images of a batch in evaluation."
    )


@dataclass(frozen=True)
class EngineSettings:
    """Where it runs. On a CPU this does not change the result."""

    workers: int | None = setting(
        None,
        at_least(1),
        about="Worker processes that clients share. Null: as many as there are cores.",
    )
    device: str = setting(
        "cpu",
        Rule(lambda device: device in DEVICES, " or ".join(DEVICES), complete=True),
        about="Where to compute: on the processor (cpu) or on an NVIDIA GPU (cuda).",
    )
    min_nodes: int = setting(
        1, at_least(1), about="Nodes that must be connected before the first round starts."
    )
    timeout: float = setting(
        3600.0, above(0), about="Seconds to wait for nodes to connect, and for replies of a round."
    )
    wait: float = setting(
        60.0,
        at_least(0),
        about="Seconds to wait for all sites before the first round; then min_replies are enough.",
    )
    versions: str = setting(
        "same",
        one_of(("same", "any")),
        about="Whether sites must have the same versions of Python, PyTorch and NumPy as the "
        "server.",
    )


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept, so that a run can go on after an interruption."""

    every: int = setting(
        1, at_least(0), about="Rounds from one checkpoint to the next. 0: there are none."
    )
    keep: int = setting(2, at_least(1), about="Number of checkpoints that are kept: the newest.")


@dataclass(frozen=True)
class Settings:
    """All settings of an experiment.

    Examples
    --------
    >>> load("digits", ["rounds=3", "search.nodes=2"]).rounds
    3
    """

    name: str = setting(
        "experiment", NAME, about="Name of the experiment; by default that of its file."
    )
    seed: int = setting(
        0, at_least(0), about="Start of all random draws: the same seed gives the same result."
    )
    rounds: int = setting(
        30, at_least(1), about="Number of rounds. In each, clients train and the server averages."
    )
    clients: int = setting(10, at_least(1), about="Number of clients that train.")
    clients_per_round: int | None = setting(
        None, at_least(1), about="Clients that take part in a round. Null: all of them."
    )
    min_replies: int | None = setting(
        None,
        at_least(1),
        about="Good replies that a round needs. Null: half of the clients that take part.",
    )
    held_out_clients: int = setting(
        2,
        at_least(0),
        about="Further clients, never trained on: they show what a new client gains.",
    )
    sites: tuple[str, ...] = setting(
        (),
        SITES,
        about="Names of the sites that train, each with images of its own. They are the clients, "
        "in this order. Empty: the images are spread over clients as data.partition says.",
    )
    held_out_sites: tuple[str, ...] = setting(
        (), SITES, about="Names of further sites, which are only evaluated."
    )
    data: DataSettings = field(default_factory=DataSettings)
    search: SearchSettings = field(default_factory=SearchSettings)
    client: ClientSettings = field(default_factory=ClientSettings)
    strategy: StrategySettings = field(default_factory=StrategySettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    engine: EngineSettings = field(default_factory=EngineSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)

    @property
    def partitions(self) -> int:
        """Number of clients in all: those that train, then those held out."""
        return self.clients + self.held_out_clients

    @property
    def drawn(self) -> int:
        """Number of clients that take part in a round."""
        return self.clients if self.clients_per_round is None else self.clients_per_round

    def to_yaml(self) -> str:
        """Write all settings as YAML text that :func:`from_yaml` reads back equal."""
        return write_yaml(_plain(asdict(self)))


def _plain(value: Any) -> Any:
    """Turn tuples into lists, all the way down, so that YAML stays plain."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
