"""Work on many files: on all cores, with a bar if it takes long."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCH = 16  # files that a thread takes at once
PATIENCE = 1.0  # seconds, after which a person wants to see a bar


def on_all_cores(work: Callable[[Item], Result], items: Sequence[Item], words: str) -> list[Result]:
    """Return what `work` makes of each item, in the order of the items.

    Threads do: Pillow works without Python's lock, and nothing need be started or sent. If this is
    interrupted, or `work` raises, what was not begun is left.

    Parameters
    ----------
    work : callable
        From an item to a result.
    items : sequence
        What to work on.
    words : str
        What is done, for the bar that a terminal shows.
    """
    batches = [items[first : first + BATCH] for first in range(0, len(items), BATCH)]
    results: list[Result] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, _bar(words, len(items)) as advance:
        for done in pool.map(lambda batch: [work(item) for item in batch], batches):
            results += done
            advance(len(done))
    return results


@contextmanager
def _bar(words: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar, after a while and in a terminal; yield what moves it on."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    begun = time.monotonic()
    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(words, total=total)

    def advance(count: int) -> None:
        bar.advance(task, count)
        if time.monotonic() > begun + PATIENCE:
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
