"""Memory does not grow over rounds and messages."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny

from fedmetanas.experiments.data.registry import DATASETS, Dataset, Images, Source, register
from fedmetanas.server.loop import RoundResult, SearchResult, SearchState
from fedmetanas.server.record import Record

IMAGES_A_CLIENT = 6


@pytest.fixture
def many() -> Iterator[Callable[[int], None]]:
    """Register a dataset of enough small images for a number of clients."""

    def add(clients: int) -> None:
        source = np.random.default_rng(0)

        def part(count: int) -> Images:
            pixels = source.integers(0, 255, (count, 8, 8, 1), np.uint8)
            return Images(pixels, np.arange(count, dtype=np.int64) % 3)

        @register("many-clients")
        def load(where: Source) -> Dataset:
            return Dataset(part(IMAGES_A_CLIENT * clients), part(30), ("a", "b", "c"))

    yield add
    del DATASETS["many-clients"]


class Peak:
    """A hook that notes the peak of memory after every round, in kB, from the start of the run."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self.rounds: list[int] = []

    def on_round(self, result: RoundResult, state: SearchState) -> None:
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        self.rounds.append(int(peak))

    def on_end(self, result: SearchResult) -> None:
        pass


@pytest.mark.parametrize(
    ("clients", "drawn", "rounds"),
    [(20, 4, 20), pytest.param(1000, 20, 100, marks=pytest.mark.soak)],
)
def test_the_peak_of_memory_is_reached_early(
    clients: int, drawn: int, rounds: int, many: Callable[[int], None], tmp_path: Path
) -> None:
    many(clients)
    overrides = (
        *("data.dataset=many-clients", "data.partition=iid", "data.min_client_size=3"),
        *(f"clients={clients}", f"clients_per_round={drawn}", f"rounds={rounds}"),
        *("evaluation.every=9", "client.batch_size=2"),
    )
    strategy = tiny.strategy_of(*overrides)
    record, peak = Record(tmp_path, tiny.experiment_of(*overrides), strategy), Peak()

    tiny.run_search(*overrides, strategy=strategy, hooks=[record, peak])

    assert peak.rounds[-1] <= 1.05 * peak.rounds[9]
