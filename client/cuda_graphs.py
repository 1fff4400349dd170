"""A learner's steps as CUDA graphs: recorded once, then replayed with one launch each.

A step of the supernet is thousands of kernels of some microseconds, and PyTorch takes several times
longer to launch them than a GPU to run them. Where steps run the same kernels on other numbers (one
mask, one temperature, batches of one size), the first is run as it is, recorded, and replayed for
all that follow: copy in what is new, launch. Parameters and optimisers stay in the recording's own
tensors from step to step; nothing waits for the GPU.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .learner import Step
from .optimizers import OuterState
from .parameters import Parameters

#: Takes a function that changes tensors in place, without calling it as far as these can tell;
#: returns one that does what it would have done, as often as it is called.
Record = Callable[[Callable[[], None]], Callable[[], None]]

KEPT = 8  # recordings: clients with few images have batches of a size of their own


class RecordedSteps:
    """Runs learners' steps by recordings, each made where it is missing.

    Parameters
    ----------
    recorder : callable
        Makes what records, anew for each plan.
    """

    def __init__(self, recorder: Callable[[], Record]) -> None:
        self.recorder = recorder
        self.forget()

    def forget(self) -> None:
        """Drop all recordings, and give their memory back to the GPU."""
        self.plan: Hashable = None
        self.recordings: OrderedDict[Hashable, _Recording] = OrderedDict()
        torch.cuda.empty_cache()  # does nothing where no GPU was used

    def run(
        self, plan: Hashable, step: Step, theta: Parameters, state: OuterState, items: Iterable[Any]
    ) -> tuple[Parameters, Tensor]:
        """Run a step for each of at least one item.

        See :func:`fedmetanas.client.learner.one_by_one`.

        Parameters
        ----------
        plan : hashable
            All that a step depends on but the tensors it is given: whoever comes with an equal plan
            and tensors of equal shapes and types, weights of equal names in the same order, is
            served by the same recording. Another plan drops those of the one before.
        step, theta, state, items
            As there; items differ in nothing but the values of their tensors.
        """
        if plan != self.plan:
            self.forget()
            self.plan, self.record = plan, self.recorder()
        items = iter(items)
        first = next(items)
        history = []
        forms = ((tensor.shape, tensor.dtype) for tensor in _tensors((theta, state, first)))
        key = (*theta.weights, *forms)
        recording = self.recordings.pop(key, None)
        if recording is None:
            # What is made once and kept for good, by us or by a library, is made here.
            theta, state, measured = step(theta, state, first)
            history.append(measured)
            recording = _Recording(step, theta, state, first, self.record)
        else:
            items = chain([first], items)
        self.recordings[key] = recording
        if len(self.recordings) > KEPT:
            self.recordings.popitem(last=False)
        theta, measured_by_it = recording.run(theta, state, items)
        return theta, torch.stack([*history, *measured_by_it])


class _Recording:
    """A step on tensors of its own, which it leaves ready for the next."""

    def __init__(
        self, step: Step, theta: Parameters, state: OuterState, item: Any, record: Record
    ) -> None:
        leaves, structure = tree_flatten((theta, state, item))
        own = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.theta, self.state, self.item = tree_unflatten(own, structure)
        self.measured = next(iter(theta.weights.values())).new_empty(2)

        def take_step() -> None:
            *after, measured = step(self.theta, self.state, self.item)
            _copy((self.theta, self.state, self.measured), (*after, measured))

        self.take_step = record(take_step)

    def run(
        self, theta: Parameters, state: OuterState, items: Iterable[Any]
    ) -> tuple[Parameters, list[Tensor]]:
        """Run a step for each item; return the parameters after all and what each measured."""
        _copy((self.theta, self.state), (theta, state))
        history = []
        for item in items:
            _copy(self.item, item)
            self.take_step()
            history.append(self.measured.clone())
        return tree_map(torch.clone, self.theta), history


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _copy(to: Any, values: Any) -> None:
    """Copy the tensors of one tree into those of another, all of a type at once."""
    pairs = list(zip(_tensors(to), _tensors(values), strict=True))
    for dtype in {tensor.dtype for tensor, _ in pairs}:
        ours, theirs = zip(*(pair for pair in pairs if pair[0].dtype == dtype), strict=True)
        torch._foreach_copy_(ours, theirs)


def cuda_graphs() -> Record:
    """Return what records CUDA graphs, which share the memory of what they compute on the way.

    They may: they run one after the other, and leave nothing there that is read later.
    """
    pool = torch.cuda.graph_pool_handle()

    def record(function: Callable[[], None]) -> Callable[[], None]:
        torch.cuda.empty_cache()  # what the step before has used, the graph can use
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            function()
        return graph.replay

    return record


#: Those of this process.
STEPS = RecordedSteps(cuda_graphs)
