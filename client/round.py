"""What a client is told of a round: the server's message, read in one place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.settings.declarations import ClientSettings
from fedmetanas.search_space.prediction import Relaxed
from fedmetanas.strategies import wire

from .learner import LearnerSettings
from .optimizers import OuterOptimizers

LEARNERS = ("meta", "sgd", "milenas")


@dataclass(frozen=True)
class Round:
    """A round, as a client sees it.

    Attributes
    ----------
    number : int
        Its number, from 1.
    relaxed : Relaxed
        The supernet as it stands.
    learner : {"meta", "sgd", "milenas"}
        What the client does.
    is_before_meta : bool
        Whether ``meta`` takes no inner steps yet, see ``client.meta_start``.
    learning : LearnerSettings
        What both learners are told.
    optimizers : OuterOptimizers
        What takes the outer steps.
    support_share : float
        lambda of ``milenas``.
    """

    number: int
    relaxed: Relaxed
    learner: str
    is_before_meta: bool
    learning: LearnerSettings
    optimizers: OuterOptimizers
    support_share: float


def read_round(config: Mapping[str, Any], experiment: Experiment) -> Round:
    """Read a message's settings; a strategy that does not search sends only the round.

    Parameters
    ----------
    config : mapping
        What :mod:`fedmetanas.strategies.wire` lists.
    experiment : Experiment
        Where all that is not in it stands.

    Raises
    ------
    ValueError
        If there is no such learner, or a number is out of its range.
    """
    plan, settings = experiment.plan, experiment.settings.client
    number = int(config.get("server-round", 1))
    learner = config.get("learner", "meta")
    if learner not in LEARNERS:
        raise ValueError(f"learner: expected one of {', '.join(LEARNERS)}; found {learner!r}")
    proximal_mu = float(config.get(wire.PROXIMAL_MU, 0.0))
    if not 0 <= proximal_mu < math.inf:
        raise ValueError(f"{wire.PROXIMAL_MU}: expected at least 0; found {proximal_mu!r}")
    mask = wire.mask_from_config(config, experiment.topology)
    tau = float(config.get("tau", plan.schedule(number)))
    alphas_learn = number > plan.warmup_rounds
    place = config.get("phase-round", number), config.get("phase-rounds", plan.rounds)
    return Round(
        number,
        experiment.relaxed(mask, tau, config.get("relaxation")),
        learner,
        number <= settings.meta_start * plan.rounds,
        LearnerSettings(
            settings.inner_lr,
            settings.inner_alpha_lr if alphas_learn else 0.0,
            settings.clip,
            settings.second_order,
            settings.outer_loss,
        ),
        OuterOptimizers(
            _outer_lr(settings, *place),
            settings.outer_alpha_lr if alphas_learn else 0.0,
            settings.momentum,
            settings.weight_decay,
            proximal_mu,
        ),
        float(config.get("support-share", 1.0)),
    )


def _outer_lr(settings: ClientSettings, number: int, rounds: int) -> float:
    """Return the step size of the weights in a round, the same for every client."""
    if settings.outer_lr_schedule == "constant":
        return settings.outer_lr
    return settings.outer_lr * 0.5 * (1 + math.cos(math.pi * (number - 1) / rounds))
