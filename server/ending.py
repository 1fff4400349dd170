"""The end of a search: the last cut, the network it leaves, and the summary of both."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flwr.app import ArrayRecord
from flwr.serverapp.strategy import Strategy

from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.settings import Settings
from fedmetanas.search_space.complexity import count_macs, count_parameters
from fedmetanas.search_space.prediction import Relaxed
from fedmetanas.search_space.pruning import final_cut
from fedmetanas.strategies import wire
from fedmetanas.strategies.abilities import round_config

from .clients import Clients
from .evaluation import (
    Measured,
    evaluate_clients,
    evaluate_network,
    evaluate_supernet,
    pooled,
    searched,
    spread_of,
)
from .hooks import SearchResult
from .nodes import ClientError
from .replies import LeftOut


def finish(clients: Clients, strategy: Strategy, arrays: ArrayRecord) -> SearchResult:
    """Cut what has not converged, derive the network and measure it."""
    experiment, settings = clients.experiment, clients.experiment.settings
    weights, alphas = wire.from_arrays(wire.from_record(arrays))
    config = round_config(strategy, experiment.plan, settings.rounds)
    relaxed = relaxed_of(experiment, config)
    limit = settings.search.weight_free_limit
    cut = final_cut(alphas, relaxed.mask, experiment.topology, limit)
    genotype, derived = searched(experiment, weights, cut)

    final = wire.to_record(wire.to_arrays(derived, alphas))
    after = {**config, **wire.round_config(relaxed.tau, cut)}
    measured, left_out = _measure(clients, final, after)
    if experiment.test:
        _, before_cut = evaluate_supernet(experiment, experiment.test, relaxed, weights, alphas)
        accuracy = evaluate_network(experiment, experiment.test, genotype, derived)
        gap = before_cut - accuracy
    else:
        accuracy = _of_sites(measured, settings, left_out)
        trained = [one.client for one in measured if one.client < settings.clients]
        again = clients.view(trained, settings.rounds)
        uncut = evaluate_clients(again, arrays, settings.rounds, config)
        before_cut = _of_sites(uncut, settings, again.left_out)
        twice = {one.client for one in uncut}  # a site may have gone between the two
        of_both = [one for one in measured if one.client in twice]
        gap = before_cut - _of_sites(of_both, settings, left_out)
    summary: dict[str, Any] = {
        "name": settings.name,
        "strategy": settings.strategy.name,
        "seed": settings.seed,
        "rounds": settings.rounds,
        "tested_on": "server" if experiment.test else "sites",
        "test_accuracy": accuracy,
        "accuracy_before_last_cut": before_cut,
        "pruning_gap": gap,
        "operations_before_last_cut": relaxed.mask.counts()[0],
        "operations": cut.counts()[0],
        "parameters": count_parameters(derived),
        "macs": count_macs(genotype, experiment.image_shape),
        "left_out": [asdict(left) for left in left_out],  # of the last measurement
        **_by_group(measured, settings),
        **_by_site(measured, clients),
    }
    return SearchResult(genotype, derived, summary)


def _measure(
    clients: Clients, arrays: ArrayRecord, config: Mapping[str, Any]
) -> tuple[list[Measured], list[LeftOut]]:
    """Let all clients measure, those held out as well; return who is left out, too."""
    settings = clients.experiment.settings
    measured: list[Measured] = []
    left_out: list[LeftOut] = []
    for group in (range(settings.clients), range(settings.clients, settings.partitions)):
        view = clients.view(group, settings.rounds)
        measured += evaluate_clients(view, arrays, settings.rounds, config) if group else []
        left_out += view.left_out
    return measured, left_out


def _of_sites(
    measured: Sequence[Measured], settings: Settings, left_out: Sequence[LeftOut]
) -> float:
    """Return the accuracy over the test images of the sites that train.

    Raises
    ------
    ClientError
        If none of them said anything.
    """
    found = pooled([one for one in measured if one.client < settings.clients])
    if found is None:
        raise ClientError("no site has measured the network", left_out)
    return found[1]


def _by_group(measured: Sequence[Measured], settings: Settings) -> dict[str, Any]:
    """Return what the summary says of clients that train, and of those that do not."""
    groups = {
        "client": [one for one in measured if one.client < settings.clients],
        "held_out": [one for one in measured if one.client >= settings.clients],
    }
    found = {}
    for group, members in groups.items():
        if accuracy := spread_of(members):
            found[f"{group}_accuracy_before"] = asdict(accuracy.before)
            found[f"{group}_accuracy_after"] = asdict(accuracy.after)
    return found


def _by_site(measured: Sequence[Measured], clients: Clients) -> dict[str, Any]:
    """Return what the summary says of each site; nothing where there are none."""
    if not clients.experiment.settings.sites or not measured:
        return {}
    sites = {
        clients.nodes.known(one.client).name: {
            "images": one.images,
            "before": one.before,
            "after": one.after,
        }
        for one in measured
    }
    return {"sites": sites, "worst_site": min(sites, key=lambda name: sites[name]["before"])}


def spent(totals: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Return what the summary says of bytes and seconds."""
    algorithm = {phase: totals[phase] for phase in ("search", "training")}
    return {
        "bytes_down": totals["bytes_down"],
        "bytes_up": totals["bytes_up"],
        "seconds": seconds,
        "algorithm_seconds": {**algorithm, "total": sum(algorithm.values())},
    }


def relaxed_of(experiment: Experiment, config: Mapping[str, Any]) -> Relaxed:
    """Return the supernet as a message describes it."""
    mask = wire.mask_from_config(config, experiment.topology)
    return experiment.relaxed(mask, config["tau"], config.get("relaxation"))
