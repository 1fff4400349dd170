"""The loss of a batch as a function of the parameters: what a learner learns from."""

from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import register_pytree_node

from fedmetanas.search_space.alphas import Alphas, Noise
from fedmetanas.search_space.prediction import Relaxed, loss_and_accuracy

from .parameters import Parameters


@dataclass(frozen=True)
class BatchLoss:
    """L(B; theta) and, for the record, the accuracy.

    Attributes
    ----------
    relaxed : Relaxed
        The supernet as it stands.
    images, labels : Tensor
        B, (count, channels, H, W) and (count,).
    noise : Noise, optional
        That of this forward pass.
    """

    relaxed: Relaxed
    images: Tensor
    labels: Tensor
    noise: Noise | None

    def __call__(self, theta: Parameters) -> tuple[Tensor, Tensor]:
        """Return loss and accuracy under some parameters, two scalars."""
        logits = self.relaxed.predict(theta.weights, theta.alphas, self.images, self.noise)
        return loss_and_accuracy(logits, self.labels)


# So that the tensors in an episode can be listed, and replaced by others.
register_pytree_node(
    BatchLoss,
    lambda loss: ([loss.images, loss.labels, loss.noise], loss.relaxed),
    lambda parts, relaxed: BatchLoss(relaxed, *parts),
)
register_pytree_node(Alphas, lambda a: (a.tensors(), None), lambda t, _: Alphas(*t))
register_pytree_node(Noise, lambda n: (n.tensors(), None), lambda t, _: Noise(*t))
