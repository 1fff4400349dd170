"""What a supernet predicts under given architecture parameters, and how well it does."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from .alphas import CELL_TYPES, Alphas, Mask, Noise
from .relaxation import Coefficients, relax
from .supernet import Alive, Network, NetworkShape, Weights, call

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Relaxed:
    """A supernet as it stands in a round: what is alive, the temperature, the relaxation.

    Attributes
    ----------
    network : Network
        The supernet.
    shape : NetworkShape
        Its shape.
    mask : Mask
        What is alive.
    tau : float
        Temperature, > 0.
    relaxation : str
        See :func:`fedmetanas.search_space.relaxation.relax`. On a GPU ``gumbel-hard`` waits for
        what was drawn in every forward pass, since the host decides what to run.
    device : torch.device
        Where weights, alphas and images are.
    """

    network: Network
    shape: NetworkShape
    mask: Mask
    tau: float
    relaxation: str
    device: torch.device = CPU

    @cached_property
    def alive(self) -> Alive:
        """What the mask leaves alive, by name."""
        return self.mask.alive(self.shape.topology)

    @cached_property
    def decided(self) -> bool:
        """Whether the mask is one-hot, so that alphas say nothing more."""
        return self.mask.is_one_hot(self.shape.topology)

    @property
    def is_fixed(self) -> bool:
        """Whether every forward pass runs the same operations."""
        return self.decided or self.relaxation != "gumbel-hard"

    @cached_property
    def identity(self) -> Hashable:
        """What predictions depend on other than their arguments, to compare by."""
        mask = b"".join(tensor.numpy().tobytes() for tensor in self.mask.tensors())
        return self.shape, mask, None if self.decided else (self.relaxation, self.tau)

    @cached_property
    def _mask(self) -> Mask:
        return self.mask.to(self.device)

    def predict(
        self, weights: Weights, alphas: Alphas, images: Tensor, noise: Noise | None = None
    ) -> Tensor:
        """Return the logits (B, classes) of images (B, channels, H, W); no noise in evaluation."""
        topology = self.shape.topology
        if self.decided:  # all coefficients are 1: leave out what would only multiply by it
            return call(self.network, weights, images, None, self.alive)
        coefficients = relax(alphas, self._mask, topology, self.tau, self.relaxation, noise)
        hard = self.relaxation == "gumbel-hard" and noise is not None
        alive = _drawn(coefficients, self.shape) if hard else self.alive
        return call(self.network, weights, images, coefficients, alive)


def _drawn(coefficients: Coefficients, shape: NetworkShape) -> Alive:
    """Return only the operations with a coefficient other than zero: the others need not run."""
    drawn = Mask(
        **{f"op_{t}": coefficients[t].detach() != 0 for t in CELL_TYPES},
        **{f"input_{t}": torch.ones(0, dtype=torch.bool) for t in CELL_TYPES},
    )
    return drawn.alive(shape.topology)


def loss_and_accuracy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean cross-entropy and the share of right answers (without graph), scalars."""
    right = (logits.detach().argmax(dim=1) == labels).float().mean()
    return F.cross_entropy(logits, labels), right


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float]:
    """Return the mean loss and the accuracy over all images of some batches."""
    loss, right, count = 0.0, 0, 0
    for images, labels in batches:
        logits = predict(images)
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(dim=1) == labels).sum())
        count += len(labels)
    return loss / count, right / count
