"""Runs of two phases, search and training, in each of which the steps of the weights fall."""

from typing import Any


def rounds_of_search(share: float, rounds: int) -> int:
    """Return after how many rounds the search is over.

    Parameters
    ----------
    share : float
        How much of all rounds is search, greater than 0 and less than 1.
    rounds : int
        How many rounds there are; each phase gets at least one.

    Raises
    ------
    ValueError
        If the share is impossible, or there are fewer than two rounds.
    """
    if not 0 < share < 1:
        raise ValueError(f"search_share: expected greater than 0 and less than 1; found {share!r}")
    if rounds < 2:
        raise ValueError("expected rounds at least 2: one to search, one to train")
    return min(max(round(share * rounds), 1), rounds - 1)


def place_in_phase(server_round: int, search_rounds: int, rounds: int) -> dict[str, Any]:
    """Return what nodes are told of a round's place in its phase."""
    if server_round <= search_rounds:
        return {"phase-round": server_round, "phase-rounds": search_rounds}
    return {"phase-round": server_round - search_rounds, "phase-rounds": rounds - search_rounds}
