"""Everything an experiment can be told: one frozen, checked object built in one place.

Precedence: command line over run config over YAML over the defaults below. A key that is unknown
or a value that is impossible raises :class:`SettingsError` with one line that names the key, what
is allowed and, for a misspelt key, the nearest right one.
"""

import dataclasses
import difflib
import os
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.data.registry import DATASETS
from fedmetanas.search_space.genotype import LARGEST
from fedmetanas.search_space.operations import DEFAULT_OPERATIONS, OPERATIONS
from fedmetanas.search_space.relaxation import RELAXATIONS

from .console import one_line

FOLDER = Path(__file__).parent
MAX_YAML_BYTES = 1_000_000
DEVICES = ("cpu", "cuda")

# A client takes settings from a server: no one of them may make it allocate without bound.
LARGEST_BATCH = 10_000
LARGEST_NUMBER = 3.4e38  # that float32 holds, in which all is computed
MOST_OPERATIONS = 20_000  # in all cells of a supernet; 2,240 in one of DARTS' size


@dataclass(frozen=True)
class Rule:
    """What a value must satisfy, and the words that say so."""

    holds: Callable[[Any], bool]
    words: str


def at_least(low: float) -> Rule:
    """Accept numbers of `low` and more."""
    return Rule(lambda value: value >= low, f"at least {low}")


def above(low: float) -> Rule:
    """Accept numbers greater than `low`."""
    return Rule(lambda value: value > low, f"greater than {low}")


def between(low: float, high: float) -> Rule:
    """Accept numbers from `low` to `high`, both included."""
    return Rule(lambda value: low <= value <= high, f"from {low} to {high}")


def inside(low: float, high: float) -> Rule:
    """Accept numbers strictly between `low` and `high`."""
    return Rule(lambda value: low < value < high, f"greater than {low} and less than {high}")


def from_up_to(low: float, high: float) -> Rule:
    """Accept numbers from `low` on that are less than `high`."""
    return Rule(lambda value: low <= value < high, f"at least {low} and less than {high}")


def one_of(names: Sequence[str] | Mapping[str, Any]) -> Rule:
    """Accept one of `names`, read when a value is checked, so that registered names count."""
    return Rule(lambda value: value in names, "one of " + ", ".join(names))


NAME = Rule(
    lambda name: name.replace("-", "").replace("_", "").isalnum(),
    "letters, digits, - and _, since it names a folder",
)


def setting(default: Any, rule: Rule | None = None) -> Any:
    """Declare a field with its default and its rule."""
    metadata = {"rule": rule} if rule else {}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DataSettings:
    """Which images, and how they are spread over the clients (section ``data``)."""

    dataset: str = setting("digits", Rule(lambda name: name in DATASETS, "a registered dataset"))
    root: str = setting("data")  # where the files lie; not used by digits
    download: bool = setting(False)
    cache: str = setting("")  # empty: $XDG_CACHE_HOME/fedmetanas or ~/.cache/fedmetanas
    image_size: int | None = setting(None, between(8, 4096))  # imagefolder: resize all to this side
    train_images: int | None = setting(None, at_least(1))  # so many, drawn once; null: all
    partition: str = setting("dirichlet", one_of(("iid", "dirichlet", "pathological")))
    concentration: float = setting(0.5, above(0))  # dirichlet: small means unlike clients
    classes_per_client: int = setting(2, at_least(1))  # pathological
    min_client_size: int = setting(10, at_least(3))  # images of the smallest client
    augment: str = setting("none", one_of(("none", "shift", "shift-flip")))  # of training images
    support: float = setting(0.3, inside(0, 1))  # share of a client's images for the inner loop
    query: float = setting(0.55, inside(0, 1))  # for the outer loop; the rest is its test part


@dataclass(frozen=True)
class SearchSettings:
    """The search space, its relaxation and its pruning (section ``search``)."""

    channels: int = setting(8, between(1, LARGEST["channels"]))
    layers: int = setting(3, between(1, LARGEST["layers"]))
    nodes: int = setting(2, between(1, 30))
    operations: tuple[str, ...] = setting(
        DEFAULT_OPERATIONS,
        Rule(
            lambda names: (
                bool(names)
                and all(name in OPERATIONS for name in names)
                and len(set(names)) == len(names)
                and names != ("none",)
            ),
            "a list of different names, not none alone, out of " + ", ".join(OPERATIONS),
        ),
    )
    norm: str = setting("group", one_of(("batch", "group")))
    relaxation: str = setting("gumbel", one_of(RELAXATIONS))
    tau_schedule: str = setting("exponential", one_of(("exponential", "linear", "constant")))
    tau_start: float = setting(1.0, above(0))
    tau_end: float = setting(0.01, above(0))
    tau_rounds: int = setting(15, at_least(1))  # tau reaches tau_end in this round
    operation_threshold: float = setting(0.05, from_up_to(0, 1))  # 0: none die before the end
    pair_threshold: float = setting(0.05, from_up_to(0, 1))
    weight_free_limit: int | None = setting(None, at_least(0))  # edges of a cell; null: all may be
    warmup_rounds: int = setting(1, at_least(0))  # no alpha moves and nothing is pruned before

    @property
    def candidates(self) -> int:
        """Number of operations in all cells of the supernet."""
        edges = self.nodes * (self.nodes + 3) // 2
        return self.layers * edges * len(self.operations)


@dataclass(frozen=True)
class ClientSettings:
    """What a client does with a message (section ``client``)."""

    episodes: int = setting(4, at_least(1))  # meta steps a round
    batch_size: int = setting(32, between(1, LARGEST_BATCH))
    inner_steps: int = setting(1, between(0, 100))
    meta_start: float = setting(0.0, between(0, 1))  # share of the rounds without inner steps
    inner_lr: float = setting(0.02, at_least(0))
    inner_alpha_lr: float = setting(0.02, at_least(0))
    outer_lr: float = setting(0.1, at_least(0))
    outer_alpha_lr: float = setting(0.02, at_least(0))
    outer_lr_schedule: str = setting("cosine", one_of(("cosine", "constant")))  # over the rounds
    momentum: float = setting(0.9, between(0, 0.999))
    weight_decay: float = setting(3e-4, at_least(0))
    clip: float = setting(5.0, above(0))  # greatest norm of the gradient of the weights
    second_order: bool = setting(False)
    outer_loss: str = setting("query", one_of(("query", "all")))  # all: the support losses, too
    adapt_steps: int = setting(5, at_least(0))  # before "accuracy after adaptation" is measured


@dataclass(frozen=True)
class StrategySettings:
    """Who aggregates (section ``strategy``)."""

    name: str = setting("fedmetanas")  # a registered name or package.module:Class
    options: Mapping[str, Any] = setting({})  # keyword arguments of the class


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured and when (section ``evaluation``); the last round is always measured."""

    every: int = setting(5, at_least(1))  # rounds
    batch_size: int = setting(256, between(1, LARGEST_BATCH))


@dataclass(frozen=True)
class EngineSettings:
    """Where it runs (section ``engine``); does not change the result on a CPU."""

    workers: int | None = setting(None, at_least(1))  # null: as many as there are cores
    device: str = setting("cpu", Rule(lambda d: d in DEVICES, "cpu or cuda"))
    min_nodes: int = setting(1, at_least(1))  # wait until so many are connected
    timeout: float = setting(3600.0, above(0))  # seconds to wait for nodes, and for replies


@dataclass(frozen=True)
class CheckpointSettings:
    """What is kept to go on from after an interruption (section ``checkpoint``)."""

    every: int = setting(1, at_least(0))  # rounds; 0: never
    keep: int = setting(2, at_least(1))  # how many, the newest


@dataclass(frozen=True)
class Settings:
    """All settings of an experiment.

    Examples
    --------
    >>> load("digits", ["rounds=3", "search.nodes=2"]).rounds
    3
    """

    name: str = setting("experiment", NAME)
    seed: int = setting(0, at_least(0))
    rounds: int = setting(30, at_least(1))
    clients: int = setting(10, at_least(1))
    clients_per_round: int | None = setting(None, at_least(1))  # null: all of them
    min_replies: int | None = setting(None, at_least(1))  # null: half of those that take part
    held_out_clients: int = setting(2, at_least(0))  # further clients, never trained on
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
        return yaml.safe_dump(_plain(dataclasses.asdict(self)), sort_keys=False)


def experiments() -> list[str]:
    """Return the names of the experiments that are shipped, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Settings:
    """Read an experiment and change some of its settings.

    Parameters
    ----------
    experiment : str
        A name out of :func:`experiments`, or the path of a YAML file.
    overrides : sequence of str
        ``key=value`` with the keys of the YAML, those of a section behind a dot.

    Raises
    ------
    SettingsError
        If the file is missing or broken, or a setting is.
    """
    if "\0" in experiment:
        raise SettingsError(f"cannot read the experiment {experiment!r}: not a path")
    path = Path(experiment)
    if path.suffix not in (".yaml", ".yml"):
        if experiment not in experiments():
            raise SettingsError(
                f"unknown experiment {experiment!r}: give the path of a .yaml file or one of "
                + ", ".join(experiments())
                + nearest(experiment, experiments())
            )
        path = FOLDER / f"{experiment}.yaml"
    return from_yaml(read_text(path), overrides, name=path.stem, source=str(path))


def read_text(path: Path, most: int = MAX_YAML_BYTES) -> str:
    """Read a file of at most so many bytes; no more is read of a larger or an endless one.

    Raises
    ------
    SettingsError
        If it is missing, larger, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise _enormous(str(path), most)
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a UTF-8 text"
        raise SettingsError(f"cannot read {str(path)!r}: {reason}") from None


def from_yaml(
    text: str, overrides: Sequence[str] = (), name: str = "experiment", source: str = "settings"
) -> Settings:
    """Build settings from YAML text and ``key=value`` overrides; see :func:`load`."""
    tree = read_yaml(text, source)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise SettingsError(f"{source}: expected keys with values, found {_kind(tree)}")
    tree.setdefault("name", name)
    for override in overrides:
        _apply(tree, override)
    settings: Settings = _build(Settings, tree, "")
    _check_together(settings)
    return settings


def from_run_config(run_config: Mapping[str, Any]) -> Settings:
    """Build settings from Flower's run config: ``settings``, or ``experiment`` and ``overrides``.

    An experiment is a name here, never a path: what comes over the network chooses no file.
    """
    if text := str(run_config.get("settings", "")):
        return from_yaml(text, source="run config 'settings'")
    experiment = str(run_config.get("experiment", "digits"))
    if experiment not in experiments():
        raise SettingsError(
            f"unknown experiment {experiment!r} in the run config: allowed are "
            + ", ".join(experiments())
            + nearest(experiment, experiments())
        )
    try:
        overrides = shlex.split(str(run_config.get("overrides", "")))
    except ValueError as error:
        raise SettingsError(f"overrides in the run config: {error}") from None
    return load(experiment, overrides)


class _Loader(yaml.SafeLoader):
    """YAML of plain values: no aliases, no explicit tags, no key twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, refusing aliases and tags."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed; write the values out")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"tags are not allowed: {event.tag}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Construct a mapping, refusing a key that stands twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"the key {key.value!r} stands twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str) -> Any:
    """Read YAML text, or raise with the source's name."""
    if len(text) > MAX_YAML_BYTES:
        raise _enormous(source, MAX_YAML_BYTES)
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsError(f"{source} is not valid YAML: {one_line(error)[:300]}") from None


def _enormous(source: str, most: int) -> SettingsError:
    return SettingsError(f"{source}: expected at most {most} bytes")


def _apply(tree: dict[Any, Any], override: str) -> None:
    """Put ``key=value`` into the tree; the value is read as YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise SettingsError(f"expected key=value, found {override!r}, for example rounds=10")
    if not key.isprintable():
        raise SettingsError(f"unknown setting {key!r}")
    value = read_yaml(text, f"{key}: {_shown(text)}")
    *sections, last = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise SettingsError(f"{key}: {section!r} is not a section")
    tree[last] = value


def _build(cls: Any, tree: Any, prefix: str) -> Any:
    """Build the dataclass `cls` from a mapping, checking every key and value."""
    if not isinstance(tree, dict):
        section = prefix.rstrip(".")
        raise SettingsError(f"{section}: expected a section of settings, found {_kind(tree)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        if key not in fields:
            raise SettingsError(_unknown(f"{prefix}{key}", prefix, list(fields)))
        if dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], {} if value is None else value, f"{prefix}{key}.")
        else:
            values[key] = _checked(value, hints[key], fields[key], f"{prefix}{key}")
    return cls(**values)


def _unknown(key: str, prefix: str, names: list[str]) -> str:
    """Say that a key is unknown, and what it was perhaps meant to be."""
    everywhere = _all_keys(Settings)
    here = [prefix + name for name in names]
    last = key.rpartition(".")[2]
    if key in everywhere and not prefix:  # the dotted key itself, at the top of a file
        section, _, name = key.partition(".")
        return f"unknown setting {key!r}; in a file write {name!r} inside the section {section!r}"
    same_name = [k for k in everywhere if k.rpartition(".")[2] == last]
    nearest = same_name or difflib.get_close_matches(key, here + everywhere, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"unknown setting {key!r}{hint} (allowed here: {', '.join(here)})"


def _all_keys(cls: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys of a settings class."""
    keys = []
    for name, hint in typing.get_type_hints(cls).items():
        inner = dataclasses.is_dataclass(hint)
        keys += _all_keys(hint, f"{prefix}{name}.") if inner else [prefix + name]
    return keys


def _checked(value: Any, hint: Any, declared: dataclasses.Field[Any], key: str) -> Any:
    """Return the value in its type, or raise with the key, what is allowed and what was found."""
    optional = isinstance(hint, types.UnionType)
    if optional and value is None:
        return None
    wanted = typing.get_args(hint)[0] if optional else hint
    rule: Rule | None = declared.metadata.get("rule")
    converted = _converted(value, wanted)
    if converted is None or (rule and not rule.holds(converted)):
        words = _TYPE_WORDS[typing.get_origin(wanted) or wanted]
        words += f", {rule.words}" if rule else ""
        words += ", or null" if optional else ""
        hint_text = ""
        if isinstance(value, str) and key == "data.dataset":
            words = "one of " + ", ".join(DATASETS)
            hint_text = nearest(value, list(DATASETS))
        raise SettingsError(f"{key}: expected {words}; found {_shown(value)}{hint_text}")
    return converted


_TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number up to 3.4e38",
    bool: "true or false",
    str: "a text of whole characters, without NUL",
    tuple: "a list of texts",
    Mapping: "a section of options",
}


def _converted(value: Any, wanted: Any) -> Any:
    """Return `value` as the wanted type, or None if it is not of that type."""
    origin = typing.get_origin(wanted) or wanted
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if wanted is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as a text
            try:
                value, number = float(value), True
            except ValueError:
                return None
        return float(value) if number and abs(value) <= LARGEST_NUMBER else None
    if wanted is int:
        return value if isinstance(value, int) and number and abs(value) < 2**53 else None
    if wanted is bool:
        return value if isinstance(value, bool) else None
    if wanted is str:
        return value if isinstance(value, str) and _fits_a_path(value) else None
    if origin is tuple:
        texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        return tuple(value) if texts else None
    named = isinstance(value, dict) and all(isinstance(k, str) for k in value)
    return dict(value) if named and _can_be_written(value) else None


def _can_be_written(value: Any) -> bool:
    """Return whether YAML of a value can be written: Python does not write thousands of digits."""
    try:
        yaml.safe_dump(value)
    except ValueError:
        return False
    return True


def _fits_a_path(text: str) -> bool:
    """Return whether a text can name a file: no NUL, no half of a character."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _check_together(s: Settings) -> None:
    """Check what no single setting can know."""
    if s.drawn > s.clients:
        raise SettingsError(
            f"clients_per_round: expected at most clients={s.clients}; found {s.drawn}"
        )
    if s.min_replies is not None and s.min_replies > s.drawn:
        raise SettingsError(
            f"min_replies: expected at most the {s.drawn} clients of a round; found {s.min_replies}"
        )
    if s.engine.min_nodes > s.partitions:
        raise SettingsError(
            f"engine.min_nodes: expected at most the {s.partitions} clients, held-out ones "
            f"included; found {s.engine.min_nodes}"
        )
    if s.search.candidates > MOST_OPERATIONS:
        raise SettingsError(
            f"search.layers, search.nodes, search.operations: expected at most "
            f"{MOST_OPERATIONS:,} operations in the supernet; found {s.search.candidates:,}"
        )
    if s.data.support + s.data.query >= 1:
        raise SettingsError(
            "data.query: expected data.support + data.query less than 1, the rest being the "
            f"client's test part; found {s.data.support} + {s.data.query}"
        )
    if s.search.tau_end > s.search.tau_start:
        raise SettingsError(
            f"search.tau_end: expected at most search.tau_start={s.search.tau_start}; "
            f"found {s.search.tau_end}"
        )
    if ":" not in s.strategy.name and not s.strategy.name.isidentifier():
        raise SettingsError(
            "strategy.name: expected a registered name or package.module:Class; "
            f"found {s.strategy.name!r}"
        )


def nearest(name: str, names: Sequence[str]) -> str:
    """Return words that name the nearest of some names, or none."""
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "a section", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), _shown(value))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out a number of thousands of digits
        text = "an enormous number"
    return text if len(text) <= 80 else text[:77] + "..."


def _plain(value: Any) -> Any:
    """Turn tuples into lists, all the way down, so that YAML stays plain."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
