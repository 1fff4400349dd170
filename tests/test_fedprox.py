"""FedProx's proximal term: what clients do with ``proximal-mu``."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import experiment_of, run_search
from torch import Tensor

from fedmetanas.client.learner import Episode, LearnerSettings, Loss, meta_learner
from fedmetanas.client.milenas_learner import BatchPair, milenas_learner
from fedmetanas.client.numpy_client import MetaClient
from fedmetanas.client.optimizers import OuterOptimizers
from fedmetanas.client.parameters import Parameters
from fedmetanas.client.round import read_round
from fedmetanas.client.sgd_learner import sgd_learner
from fedmetanas.search_space.alphas import Alphas, Mask
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState
from fedmetanas.strategies import wire

# Two steps by hand, on one weight w and one alpha a


LR, ALPHA_LR, MOMENTUM, DECAY, MU = 0.2, 0.05, 0.9, 0.01, 3.0
INNER_LR, INNER_ALPHA_LR, SHARE, NO_CLIP = 0.3, 0.1, 0.5, 1e9
W, A = 0.7, -1.1
SUPPORT, QUERY = (2.0, 0.5, 3.0, -0.25), (1.5, -0.3, 0.5, 0.9)


def slopes(batch: tuple[float, ...], w: float, a: float) -> tuple[float, float]:
    """The gradient of c (w - t)^2 / 2 + d (a - s)^2 / 2 + w a."""
    c, t, d, s = batch
    return c * (w - t) + a, d * (a - s) + w


def loss_of(batch: tuple[float, ...]) -> Loss:
    def loss(theta: Parameters) -> tuple[Tensor, Tensor]:
        c, t, d, s = batch
        w, a = theta.weights["w"], theta.alphas.op_normal
        value = c * (w - t) ** 2 / 2 + d * (a - s) ** 2 / 2 + w * a
        return value.sum(), torch.zeros((), dtype=torch.float64)

    return loss


class ByHand:
    """w and a with the moments of their optimisers, in Python's own numbers."""

    def __init__(self) -> None:
        self.w, self.a = W, A
        self.velocity = self.first = self.second = 0.0
        self.count = 0

    def step_w(self, slope: float) -> None:
        self.velocity = MOMENTUM * self.velocity + slope + DECAY * self.w
        moved = self.w - LR * self.velocity
        self.w = W + (moved - W) / (1 + LR * MU)

    def step_a(self, slope: float) -> None:
        self.count += 1
        self.first = 0.9 * self.first + 0.1 * slope
        self.second = 0.999 * self.second + 0.001 * slope**2
        mean, square = self.first / (1 - 0.9**self.count), self.second / (1 - 0.999**self.count)
        self.a -= ALPHA_LR * mean / (math.sqrt(square) + 1e-8)

    def meta(self) -> None:
        of_w, of_a = slopes(SUPPORT, self.w, self.a)
        of_w, of_a = slopes(QUERY, self.w - INNER_LR * of_w, self.a - INNER_ALPHA_LR * of_a)
        self.step_w(of_w)
        self.step_a(of_a)

    def sgd(self) -> None:
        self.step_w(slopes(SUPPORT, self.w, self.a)[0])

    def milenas(self) -> None:
        of_query, of_support = (slopes(batch, self.w, self.a)[1] for batch in (QUERY, SUPPORT))
        self.step_a(of_query + SHARE * of_support)
        self.step_w(slopes(SUPPORT, self.w, self.a)[0])


def learn(learner: str, steps: int) -> Parameters:
    w, a, nothing = (torch.full((1, 1), value, dtype=torch.float64) for value in (W, A, 0.0))
    theta = Parameters({"w": w}, Alphas(a, nothing, nothing[0], nothing[0]))
    outer = OuterOptimizers(LR, ALPHA_LR, MOMENTUM, DECAY, MU)
    support, query = loss_of(SUPPORT), loss_of(QUERY)
    if learner == "meta":
        settings = LearnerSettings(INNER_LR, INNER_ALPHA_LR, NO_CLIP)
        return meta_learner(theta, [Episode([support], query)] * steps, settings, outer)[0]
    if learner == "sgd":
        return sgd_learner(theta, [support] * steps, outer, NO_CLIP)[0]
    return milenas_learner(theta, [BatchPair(support, query)] * steps, outer, NO_CLIP, SHARE)[0]


@pytest.mark.parametrize("learner", ["meta", "sgd", "milenas"])
def test_each_outer_step_is_held_back_to_what_was_sent(learner: str) -> None:
    by_hand = ByHand()
    for _ in range(2):
        getattr(by_hand, learner)()

    trained = learn(learner, steps=2)

    assert float(trained.weights["w"]) == pytest.approx(by_hand.w, rel=1e-12)
    assert float(trained.alphas.op_normal) == pytest.approx(by_hand.a, rel=1e-12)


# A client


def fit(learner: str, **config: Any) -> dict[str, np.ndarray[Any, Any]]:
    experiment = experiment_of()
    arrays = wire.to_arrays(*experiment.initial_parameters())
    told = wire.round_config(1.0, Mask.full(experiment.topology))
    told |= {"server-round": 2, "learner": learner, **config}
    client = MetaClient(experiment, 1, list(arrays))
    trained, _, _ = client.fit([array.copy() for array in arrays.values()], told)
    return {key: after - arrays[key] for key, after in zip(arrays, trained, strict=True)}


def norm(arrays: dict[str, np.ndarray[Any, Any]], prefix: str) -> float:
    own = [array.ravel() for key, array in arrays.items() if key.startswith(prefix)]
    return float(np.linalg.norm(np.concatenate(own).astype(np.float64)))


@pytest.mark.parametrize("learner", ["meta", "sgd", "milenas"])
def test_a_great_mu_holds_the_weights_and_not_the_alphas(learner: str) -> None:
    free, held = fit(learner), fit(learner, **{wire.PROXIMAL_MU: 1e5})

    assert 0 < norm(held, wire.WEIGHTS) < 1e-3 * norm(free, wire.WEIGHTS)
    assert norm(held, wire.ALPHAS) == pytest.approx(norm(free, wire.ALPHAS), rel=0.1)
    assert (norm(free, wire.ALPHAS) > 0) is (learner != "sgd")


def test_a_recorded_step_is_of_one_mu_and_of_any_step_size() -> None:
    on_gpu = replace(experiment_of(), device=torch.device("cuda"))
    client = MetaClient(on_gpu, 1, [])

    def plan(mu: float, phase_round: int) -> Any:
        config = {"server-round": 2, wire.PROXIMAL_MU: mu, "phase-round": phase_round}
        return client._runner(read_round(config, on_gpu)).args

    assert plan(0.5, 1) == plan(0.5, 2)
    assert plan(0.5, 1) != plan(1.0, 1)


def test_the_keys_of_the_wire_format_are_those_that_are_read() -> None:
    read = set()

    class Told(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            read.add(key)
            return super().__getitem__(key)

        def get(self, key: str, default: Any = None) -> Any:
            read.add(key)
            return super().get(key, default)

    read_round(Told(wire.round_config(1.0, Mask.full(experiment_of().topology))), experiment_of())

    masks = {key for key in read if key.startswith(wire.MASK)}
    elsewhere = {"partition-id", "phase"}  # by the ClientApp; by the server, for its record
    assert masks
    assert read - masks | elsewhere == set(wire.CONFIG_KEYS)


@pytest.mark.parametrize("mu", [-0.5, math.nan, math.inf])
def test_a_mu_that_is_none_is_named(mu: float) -> None:
    with pytest.raises(ValueError, match="proximal-mu: expected at least 0"):
        fit("sgd", **{wire.PROXIMAL_MU: mu})


# A run of Flower's own strategy


class Last:
    """A hook that keeps the weights of the last round."""

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        arrays = wire.from_record(state.arrays)
        self.weights = {k: a for k, a in arrays.items() if k.startswith(wire.WEIGHTS)}

    def on_end(self, result: SearchResult) -> None:
        pass


def run(name: str, mu: float | None = None) -> dict[str, np.ndarray[Any, Any]]:
    options = [] if mu is None else [f"strategy.options.proximal_mu={mu}"]
    last = Last()
    run_search(f"strategy.name=flwr.serverapp.strategy:{name}", *options, hooks=[last])
    return last.weights


def test_a_run_with_fedprox() -> None:
    fedavg = run("FedAvg")
    none, some, much = (run("FedProx", mu) for mu in (0.0, 1.0, 1e5))
    weights, alphas = experiment_of().initial_parameters()
    sent = wire.to_arrays(weights, alphas)

    def moved(weights: dict[str, np.ndarray[Any, Any]]) -> float:
        return norm({k: a - sent[k] for k, a in weights.items()}, wire.WEIGHTS)

    assert all(none[key].tobytes() == fedavg[key].tobytes() for key in fedavg)
    assert 0 < moved(much) < moved(some) < moved(fedavg)
    assert moved(much) <= 1e-3 * norm(sent, wire.WEIGHTS)
