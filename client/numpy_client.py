"""A client of Flower around the two learners: NumPy arrays in, NumPy arrays out."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from flwr.client import NumPyClient
from torch import Tensor

from fedmetanas.experiments.experiment import Experiment
from fedmetanas.experiments.randomness import torch_generator
from fedmetanas.search_space.alphas import Alphas, Noise
from fedmetanas.search_space.kernels.transfer import all_to_device
from fedmetanas.search_space.prediction import evaluate
from fedmetanas.strategies import wire

from .batch_loss import BatchLoss
from .cuda_graphs import STEPS
from .learner import Episode, Loss, Runner, meta_learner, one_by_one, task_learner
from .local_data import batches
from .milenas_learner import BatchPair, milenas_learner
from .parameters import Parameters
from .round import Round, read_round
from .sgd_learner import sgd_learner


class MetaClient(NumPyClient):
    """One client of an experiment.

    Parameters
    ----------
    experiment : Experiment
        Data, supernet and settings.
    partition_id : int
        Which client it is, from 0.
    keys : list of str
        The names of the arrays it gets, in their order, see :mod:`fedmetanas.strategies.wire`.
    """

    def __init__(self, experiment: Experiment, partition_id: int, keys: list[str]) -> None:
        self.experiment = experiment
        self.partition_id = partition_id
        self.keys = keys
        self.data = experiment.client(partition_id)
        self.split = self.data.split

    def fit(
        self, parameters: list[Any], config: dict[str, Any]
    ) -> tuple[list[Any], int, dict[str, Any]]:
        """Run the episodes of a round.

        Parameters
        ----------
        parameters : list of array
            Weights and alphas, in the order of `keys`.
        config : dict
            ``server-round`` and what else :mod:`fedmetanas.strategies.wire` lists.

        Returns
        -------
        parameters, num_examples, metrics
            Arrays in the same order, n_k (the images of support and query), and loss, accuracy
            (of the query batches; those of ``sgd`` are of all) and seconds.
        """
        started = time.perf_counter()
        theta, history = self.learn(parameters, config)
        arrays = wire.to_arrays(*theta)
        loss, accuracy = history.mean(dim=0).tolist()
        metrics = {
            "loss": loss,
            "accuracy": accuracy,
            "seconds": time.perf_counter() - started,
        }
        return [arrays[key] for key in self.keys], self._examples, metrics

    def learn(self, parameters: list[Any], config: dict[str, Any]) -> tuple[Parameters, Tensor]:
        """Run the learner that the server asked for.

        Nothing in it waits for the device but the making of a recording, and ``gumbel-hard``.
        Whichever it is, it sees as many batches a round as the meta learner does.

        Parameters
        ----------
        parameters, config
            As those of :meth:`fit`.

        Returns
        -------
        theta, history
            See :func:`fedmetanas.client.learner.meta_learner`; on the experiment's device.

        Raises
        ------
        ValueError
            See :func:`fedmetanas.client.round.read_round`.
        """
        this_round = read_round(config, self.experiment)
        learning, optimizers = this_round.learning, this_round.optimizers
        theta = self._theta(parameters)
        run = self._runner(this_round)
        if this_round.learner == "sgd":
            return sgd_learner(theta, self._steps(this_round), optimizers, learning.clip, run)
        if this_round.learner == "milenas":
            pairs, share = self._pairs(this_round), this_round.support_share
            return milenas_learner(theta, pairs, optimizers, learning.clip, share, run)
        return meta_learner(theta, self._episodes(this_round), learning, optimizers, run)

    def _runner(self, this_round: Round) -> Runner:
        """Return what runs the steps: on a GPU recordings, where all run the same kernels."""
        if self.experiment.device.type != "cuda" or not this_round.relaxed.is_fixed:
            return one_by_one
        plan = (
            self.experiment.settings.client,
            this_round.relaxed.identity,
            this_round.learner,
            this_round.support_share,
            this_round.learning,
            replace(this_round.optimizers, lr=0.0),  # which is with the optimisers' state
            this_round.is_before_meta,
        )
        return partial(STEPS.run, plan)

    def evaluate(
        self, parameters: list[Any], config: dict[str, Any]
    ) -> tuple[float, int, dict[str, Any]]:
        """Measure accuracy on this client's test part before and after adaptation.

        Adaptation is the task learner with `adapt_steps` steps on support batches, without noise.
        """
        started = time.perf_counter()
        settings = self.experiment.settings.client
        this_round = read_round(config, self.experiment)
        theta = self._theta(parameters)
        loss, before = self._test(theta, this_round)
        support = self._batches("support", this_round.number)
        steps = (self._loss(this_round, next(support), None) for _ in range(settings.adapt_steps))
        learning = replace(this_round.learning, second_order=False)
        adapted = task_learner(theta, steps, learning)
        metrics = {
            "accuracy-before": before,
            "accuracy-after": self._test(adapted, this_round)[1],
            "seconds": time.perf_counter() - started,
        }
        return loss, len(self.split.test), metrics

    @torch.no_grad()
    def compare(
        self, parameters: list[Any], config: dict[str, Any]
    ) -> tuple[list[float], int, float]:
        """Measure the losses of some networks with the supernet's weights, on one query batch.

        All on the same batch, so that they differ by the networks alone.

        Parameters
        ----------
        parameters : list of array
            As that of :meth:`fit`.
        config : dict
            ``server-round`` and the networks, see
            :func:`fedmetanas.strategies.wire.finalists_config`.

        Returns
        -------
        losses, num_examples, seconds
            One loss for each network, n_k as of :meth:`fit`, and the time it took.
        """
        started = time.perf_counter()
        experiment, theta = self.experiment, self._theta(parameters)
        batch = next(self._batches("query", int(config["server-round"])))
        masks = wire.finalists_from_config(config, experiment.topology)
        networks = [experiment.relaxed(mask, 1.0) for mask in masks]
        losses = torch.stack([BatchLoss(network, *batch, None)(theta)[0] for network in networks])
        return losses.tolist(), self._examples, time.perf_counter() - started

    @property
    def _examples(self) -> int:
        """n_k: the images of support and query part."""
        return len(self.split.support) + len(self.split.query)

    def _theta(self, parameters: list[Any]) -> Parameters:
        # Where all is decided no alphas are sent, and any will do.
        arrays = wire.to_arrays({}, Alphas.equal(self.experiment.topology))
        arrays |= dict(zip(self.keys, parameters, strict=True))
        theta = Parameters(*wire.from_arrays(arrays))
        return theta.with_tensors(all_to_device(theta.tensors(), self.experiment.device))

    def _episodes(self, this_round: Round) -> Iterator[Episode]:
        """Draw the episodes of a round: batches, and noise for each forward pass.

        Before ``client.meta_start`` every batch is an episode without inner steps: federated
        averaging first, meta-learning after it, as in Jiang et al., "Improving Federated Learning
        Personalization via Model Agnostic Meta Learning", 2019, https://arxiv.org/abs/1909.12488.
        """
        experiment, settings = self.experiment, self.experiment.settings.client
        number, client = this_round.number, self.partition_id
        generator = torch_generator("noise", experiment.settings.seed, number, client)

        def loss(batch: tuple[Tensor, Tensor]) -> Loss:
            noise = Noise.draw(experiment.topology, generator, torch.float32)
            return self._loss(this_round, batch, noise.to(experiment.device))

        if this_round.is_before_meta:
            for batch in islice(self._batches("train", number), self._count()):
                yield Episode([], loss(batch))
            return
        support = self._batches("support", number)
        query = self._batches("query", number)
        for _ in range(settings.episodes):
            inner = [loss(next(support)) for _ in range(settings.inner_steps)]
            yield Episode(inner, loss(next(query)))

    def _steps(self, this_round: Round) -> Iterator[Loss]:
        """Draw the batches of plain SGD, from support and query part alike."""
        for batch in islice(self._batches("train", this_round.number), self._count()):
            yield self._loss(this_round, batch, None)

    def _pairs(self, this_round: Round) -> Iterator[BatchPair]:
        """Draw the pairs of batches of MiLeNAS; its relaxation has no noise."""
        support = self._batches("support", this_round.number)
        query = self._batches("query", this_round.number)
        for _ in range(max(1, self._count() // 2)):
            of_support = self._loss(this_round, next(support), None)
            yield BatchPair(of_support, self._loss(this_round, next(query), None))

    def _count(self) -> int:
        """Return how many batches a round has, whoever learns from them."""
        settings = self.experiment.settings.client
        return settings.episodes * (settings.inner_steps + 1)

    def _batches(self, part: str, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        support, query = self.split.support, self.split.query
        indices = {
            "support": support,
            "query": query,
            "train": np.sort(np.concatenate([support, query])),
        }[part]
        return batches(self.experiment, indices, number, self.partition_id, part)

    def _loss(self, this_round: Round, batch: tuple[Tensor, Tensor], noise: Noise | None) -> Loss:
        return BatchLoss(this_round.relaxed, *batch, noise)

    def _test(self, theta: Parameters, this_round: Round) -> tuple[float, float]:
        """Return loss and accuracy on the test part."""
        relaxed = this_round.relaxed
        return evaluate(
            lambda images: relaxed.predict(theta.weights, theta.alphas, images),
            self.experiment.batches(self.data.test, self.split.test),
        )
