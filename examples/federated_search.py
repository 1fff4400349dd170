"""A whole federated search in plain PyTorch, to be read from top to bottom.

Huang and Gao, "Federated Neural Architecture Search with Model-Agnostic Meta Learning", 2025,
https://arxiv.org/abs/2504.06457. It computes what ``fedmetanas run`` does by default, and a test
holds the two together. Nothing is sent here, and what has died is computed all the same, times 0.

`theta` is all that is learnt, by name: the weights w of the supernet and four tensors of logits a,
alpha (E, O) of the operations on each edge and beta (P,) of the pairs of inputs of each node. The
mask of what is alive and the noise have the names and shapes of these four.
"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedmetanas.benchmarks.plain import plain_logits
from fedmetanas.experiments.experiment import Experiment, open_experiment
from fedmetanas.experiments.settings import Settings, load
from fedmetanas.search_space.supernet import NetworkShape

LOGITS = ("op_normal", "op_reduce", "input_normal", "input_reduce")
Named = dict[str, Tensor]
Batch = tuple[Tensor, Tensor, Named]  # images (B, C, H, W), labels (B,), noise of the forward pass
Episode = tuple[list[Batch], Batch]  # B_S for each of the M inner steps, and B_Q
Rounds = Iterable[list[tuple[int, list[Episode]]]]  # each client's n_k, its images, and episodes


class Round(NamedTuple):
    """What the server tells all clients, beside theta."""

    number: int
    tau: float  # temperature
    mask: Named
    shape: NetworkShape
    settings: Settings


def probabilities(theta: Named, now: Round, cell: str) -> tuple[Tensor, Tensor]:
    """Return z (E, O) of each edge's operations and s (P,) of each node's pairs; 0 for the dead."""
    names = f"op_{cell}", f"input_{cell}"
    alpha, beta = [(theta[name] / now.tau).masked_fill(~now.mask[name], -1e30) for name in names]
    s = torch.cat([beta[list(own)].softmax(dim=0) for own in now.shape.topology.node_pairs])
    return alpha.softmax(dim=1) * now.mask[names[0]], s * now.mask[names[1]]


def predict(theta: Named, now: Round, images: Tensor) -> Tensor:
    """Relaxation: node j is the sum of s_ik (o_ij(x_i) + o_kj(x_k)) over its pairs (i, k)."""
    coefficients = {}  # o_ij(x) = sum of z_o o(x): each o(x_i) is multiplied by u_ij z_o
    for cell in ("normal", "reduce"):
        z, s = probabilities(theta, now, cell)
        u = s @ now.shape.topology.incidence.to(s)  # sum of s over pairs that contain edge (i, j)
        coefficients[cell] = u[:, None] * z
    return plain_logits(now.shape, theta, coefficients, images)


def gradient(theta: Named, of: Named, now: Round, batch: Batch, graph: bool) -> Named:
    """Return the gradient of L(B; theta) with respect to `of`, that of the weights clipped."""
    images, labels, noise = batch  # Gumbel-Softmax: noise on the logits
    noisy = theta | {name: theta[name] + noise[name] for name in LOGITS}
    loss = nn.functional.cross_entropy(predict(noisy, now, images), labels)
    found = torch.autograd.grad(loss, [*of.values()], create_graph=graph, materialize_grads=True)
    slopes = dict(zip(of, found, strict=True))
    norm = torch.cat([slopes[name].flatten() for name in of if name not in LOGITS]).norm()
    scale = (now.settings.client.clip / norm).clamp(max=1.0)
    return {name: g if name in LOGITS else scale * g for name, g in slopes.items()}


def client_round(sent: Named, now: Round, episodes: list[Episode]) -> Named:
    """Run the episodes of a client and return the theta of its reply."""
    own, learn = now.settings.client, now.number > now.settings.search.warmup_rounds
    rates = dict.fromkeys(sent, own.inner_lr) | dict.fromkeys(LOGITS, own.inner_alpha_lr * learn)
    outer_lr = own.outer_lr * (1 + math.cos(math.pi * (now.number - 1) / now.settings.rounds)) / 2
    theta = {name: tensor.clone().requires_grad_() for name, tensor in sent.items()}
    weights = [tensor for name, tensor in theta.items() if name not in LOGITS]
    sgd = torch.optim.SGD(weights, outer_lr, own.momentum, weight_decay=own.weight_decay)
    adam = torch.optim.Adam([theta[name] for name in LOGITS], own.outer_alpha_lr * learn)
    for support, query in episodes:
        adapted = theta
        for batch in support:  # task learner: theta' <- theta' - lambda grad L(B_S; theta')
            slopes = gradient(adapted, adapted, now, batch, graph=own.second_order)
            adapted = {name: value - rates[name] * slopes[name] for name, value in adapted.items()}
        # Meta learner: theta <- outer optimisers(theta; grad L(B_Q; theta')). Without a graph the
        # slopes are constants, and so this is the gradient at theta': first order.
        for name, slope in gradient(adapted, theta, now, query, graph=False).items():
            theta[name].grad = slope
        sgd.step()
        adam.step()
    return {name: tensor.detach() for name, tensor in theta.items()}


def prune(theta: Named, now: Round, least_operation: float, least_pair: float) -> Named:
    """Soft pruning: what is improbable dies, but never the best of an edge or of a node."""
    pruned, topology = dict(now.mask), now.shape.topology
    for cell in ("normal", "reduce"):
        p, q = probabilities(theta, now, cell)
        operations = now.mask[f"op_{cell}"] & (p >= least_operation)
        operations[range(len(p)), p.argmax(dim=1)] = True
        pairs = now.mask[f"input_{cell}"] & (q >= least_pair)
        for own in topology.node_pairs:
            pairs[own[q[list(own)].argmax()]] = True
        operations &= (topology.incidence[pairs].sum(dim=0) > 0)[:, None]  # else in no living pair
        pruned |= {f"op_{cell}": operations, f"input_{cell}": pairs}
    return pruned


def search(theta: Named, now: Round, rounds: Rounds) -> Iterator[tuple[Named, Round]]:
    """Yield theta, and the mask and temperature that belong to it, after every round."""
    own = now.settings.search
    for number, clients in enumerate(rounds, start=1):
        done = min(1.0, (number - 1) / max(1, own.tau_rounds - 1))  # of the way down to tau_end
        now = now._replace(number=number, tau=own.tau_start ** (1 - done) * own.tau_end**done)
        replies = [(n, client_round(theta, now, episodes)) for n, episodes in clients]
        total = sum(n for n, _ in replies)  # w <- sum n_k w_k / sum n_k, and a likewise
        theta = {name: sum(n / total * reply[name] for n, reply in replies) for name in theta}
        if number > own.warmup_rounds:
            now = now._replace(mask=prune(theta, now, own.operation_threshold, own.pair_threshold))
        yield theta, now


TINY = [
    "rounds=10",
    "clients=3",
    "held_out_clients=0",
    "search.channels=8",
    "search.operations=[skip_connect, max_pool_3x3, sep_conv_3x3]",
    "client.episodes=8",
    "client.batch_size=32",
    "client.outer_lr=0.2",
    "client.momentum=0.9",
    "client.clip=5",
]


def draw_episodes(experiment: Experiment, client: int) -> list[Episode]:
    """Draw what a client sees in a round."""
    own = experiment.settings.client
    logits = experiment.initial_parameters()[1]

    def batch(part: str) -> Batch:
        indices = getattr(experiment.parts[client], part)
        chosen = indices[torch.randperm(len(indices))[: own.batch_size]]
        noise = {name: -torch.empty_like(a).exponential_().log() for name, a in logits.items()}
        return *experiment.batch(experiment.dataset.train, chosen), noise

    return [
        ([batch("support") for _ in range(own.inner_steps)], batch("query"))
        for _ in range(own.episodes)
    ]


def main() -> None:
    """Search on scikit-learn's handwritten digits, spread unevenly over three clients."""
    experiment = open_experiment(load("digits", TINY))
    torch.manual_seed(0)
    weights, alphas = experiment.initial_parameters()
    logits = dict(alphas.items())
    mask = {name: torch.ones_like(a, dtype=torch.bool) for name, a in logits.items()}
    start = Round(0, 1.0, mask, experiment.shape, experiment.settings)
    examples = [len(part.support) + len(part.query) for part in experiment.parts]
    rounds = (
        [(n, draw_episodes(experiment, client)) for client, n in enumerate(examples)]
        for _ in range(experiment.settings.rounds)
    )

    def report(what: str, theta: Named, now: Round) -> None:
        test = experiment.batches(experiment.dataset.test)
        with torch.no_grad():
            right = torch.cat([predict(theta, now, x).argmax(dim=1) == y for x, y in test])
        alive = sum(int(now.mask[name].sum()) for name in ("op_normal", "op_reduce"))
        print(f"{what}: test accuracy {right.float().mean():.3f}, {alive} operations alive")

    for theta, now in search(weights | logits, start, rounds):
        report(f"round {now.number}", theta, now)
    # What is still undecided is cut: one pair a node, one operation an edge.
    report("the network found", theta, now._replace(mask=prune(theta, now, 1.0, 1.0)))


if __name__ == "__main__":
    main()
