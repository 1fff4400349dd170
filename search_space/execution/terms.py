"""The terms of a cell's sums: those that leave one state, computed together.

In value each is its coefficient times its operation on the state. Together they cost less:

- separable convolutions on small states, and what is added to the same sums: :mod:`.bundles`
- separable convolutions on a GPU: :mod:`.wide`
- operations that nothing but coefficients tells apart are computed once, and added to all sums in
  one pass: :func:`fedmetanas.search_space.kernels.sums.spread`
- all others one by one, but for the beginnings that they share: :mod:`.steps`
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from fedmetanas.search_space.kernels.sums import Sum, spread
from fedmetanas.search_space.modules import RELU, SeparableConv

from .bundles import bundle, is_small, kind
from .steps import Source, Step
from .wide import is_on_gpu, wide

#: An edge of a cell and the name of an operation on it.
Place = tuple[int, str]


class Factors:
    """The coefficients of a cell's operations, for each place.

    Parameters
    ----------
    matrix : Tensor or None
        (E, O); None: each is 1.
    columns : mapping of str to int
        The column of each operation.
    channels : int
        C, of the cell.
    """

    def __init__(self, matrix: Tensor | None, columns: Mapping[str, int], channels: int) -> None:
        self.matrix = matrix
        self.columns = columns
        if matrix is not None:
            size = (*matrix.shape, channels)
            self.rows = [
                row.unbind() for row in matrix[..., None].expand(size).contiguous().unbind()
            ]

    def __call__(self, place: Place) -> Tensor | None:
        """Return the factors of the channels of a term, (C,); None: 1."""
        return None if self.matrix is None else self.rows[place[0]][self.columns[place[1]]]

    def numbers(self, places: Sequence[Place]) -> Tensor | None:
        """Return the coefficients of some terms, a number each; None: 1."""
        if self.matrix is None:
            return None
        edges = torch.tensor([edge for edge, _ in places])
        return self.matrix[edges, torch.tensor([self.columns[name] for _, name in places])]


class Terms:
    """The operations of a cell, and how those on one state are computed.

    Parameters
    ----------
    operations : mapping of Place to nn.Module
        All operations of the cell.
    ends : mapping of Place to int
        The number of the state to whose sum each belongs.

    Attributes
    ----------
    together : bool
        Whether convolutions on one state may be computed together. If not, each module is called
        by itself, and so are the hooks on it.
    """

    def __init__(self, operations: Mapping[Place, nn.Module], ends: Mapping[Place, int]) -> None:
        self.ends = ends
        self.steps = {place: Step(operation) for place, operation in operations.items()}
        self.separable = {
            place: operation
            for place, operation in operations.items()
            if type(operation) is SeparableConv  # a subclass may compute something else
        }
        self.kinds = {place: (kind(conv), place) for place, conv in self.separable.items()}
        self.together = True

    def add(
        self, source: Source, places: Sequence[Place], factors: Factors, sums: Sequence[Sum]
    ) -> None:
        """Add the terms on a state to the sums of the states to which they lead.

        Parameters
        ----------
        source : Source
            The state.
        places : sequence of Place
            The operations on it.
        factors : Factors
            Their coefficients.
        sums : sequence of Sum
            That of each state of the cell.
        """
        convs = self._sorted(places) if self.together else []
        if convs and is_small(source.state):
            together = [p for p in places if p in self.separable or self.steps[p].is_shared]
            places = [place for place in places if place not in together]
            self._add_bundle(source, together, factors, sums)
        elif convs and is_on_gpu(source.state):
            places = [place for place in places if place not in convs]
            self._add_wide(source, convs, factors, sums)
        for shared, alike in self._alike(places):
            scales = [factor for factor in map(factors, alike) if factor is not None]
            if scales:
                places = [place for place in places if place not in alike]
                spread(source.through(*shared), scales, [sums[self.ends[p]] for p in alike])
        for place in places:
            sums[self.ends[place]].add(self.steps[place](source, factors(place)))

    def _sorted(self, places: Sequence[Place]) -> list[Place]:
        """Return those of separable convolutions, sorted by kind."""
        return sorted(self.separable.keys() & places, key=self.kinds.__getitem__)

    def _alike(self, places: Sequence[Place]) -> list[tuple[tuple[nn.Module, ...], list[Place]]]:
        """Return the operations that nothing but factors tells apart, each with where it is."""
        found: dict[tuple[nn.Module, ...], list[Place]] = {}
        for place in places:
            if self.steps[place].is_shared:
                found.setdefault(self.steps[place].shared, []).append(place)
        return list(found.items())

    def _add_wide(
        self, source: Source, places: Sequence[Place], factors: Factors, sums: Sequence[Sum]
    ) -> None:
        """Add separable convolutions of a state, sorted, those of each kind computed as one."""
        x = source.through(RELU)
        for _, group in groupby(places, key=lambda place: self.kinds[place][0]):
            own = list(group)
            scales = [factor for factor in map(factors, own) if factor is not None]
            results = wide(x, [self.separable[place] for place in own], scales or None)
            for place, term in zip(own, results, strict=True):
                sums[self.ends[place]].add(term)

    def _add_bundle(
        self, source: Source, places: Sequence[Place], factors: Factors, sums: Sequence[Sum]
    ) -> None:
        """Add many operations on a state, for each sum the total of what belongs to it."""
        convs = self._sorted(places)
        others = [place for place in places if place not in self.separable]
        shared = list(dict.fromkeys(self.steps[place].shared for place in others))
        of_others = [len(convs) + shared.index(self.steps[place].shared) for place in others]
        places = convs + others
        ends = sorted({self.ends[place] for place in places})
        rows = torch.tensor([ends.index(self.ends[place]) for place in places])
        columns = torch.tensor([*range(len(convs)), *of_others])
        weights = source.state.new_zeros(len(ends), len(convs) + len(shared))
        values = factors.numbers(places)
        values = weights.new_ones(()) if values is None else values
        totals = bundle(
            source.through(RELU),
            [self.separable[place] for place in convs],
            [source.through(*modules) for modules in shared],
            weights.index_put((rows, columns), values, accumulate=True),
        )
        for end, total in zip(ends, totals.unbind(), strict=True):
            sums[end].add(total)
