"""What settings must be together, which no single one of them can know."""

from fedmetanas.errors import SettingsError
from fedmetanas.experiments.data.registry import BUILT_IN

from .declarations import Settings

FOLDERS = "imagefolder"  # of the datasets that are built in, the one for images of one's own
MOST_OPERATIONS = 20_000  # in all cells of a supernet; 2,240 in one of DARTS' size


def check_together(s: Settings) -> None:
    """Check what no single setting can know."""
    if s.held_out_sites and not s.sites:
        raise SettingsError("sites: expected at least one that trains, beside held_out_sites")
    if both := set(s.sites) & set(s.held_out_sites):
        raise SettingsError(f"held_out_sites: {min(both)!r} is among sites, too")
    if s.sites and s.data.dataset != FOLDERS and s.data.dataset in BUILT_IN:
        raise SettingsError(
            f"data.dataset: sites have folders of images, which {FOLDERS} reads; found "
            f"{s.data.dataset!r}"
        )
    if s.data.partition == "sites" and not s.sites:
        raise SettingsError(
            "data.partition: sites needs their names, which are those of folders in data.root; "
            "set sites=[NAME, ...]"
        )
    if s.data.test and not s.sites:
        raise SettingsError(
            "data.test: expected sites, which have no common test set; leave it out"
        )
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
