"""Time and memory of functions, compared in one run and in turns, on a CPU or a GPU."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from fedmetanas.search_space.prediction import CPU


@dataclass(frozen=True)
class Comparison:
    """A figure of the plain reference and ours.

    Attributes
    ----------
    case : str
        What was measured.
    unit : str
        Of `plain` and `ours`.
    plain, ours : float
        Medians.
    spread : float
        Half the range of ours over its median.
    flop : float
        Floating point operations of the mathematics; 0 where that says nothing.
    """

    case: str
    unit: str
    plain: float
    ours: float
    spread: float
    flop: float = 0.0

    @property
    def ratio(self) -> float:
        """How many times more the plain reference takes."""
        return self.plain / self.ours


def in_turns(
    functions: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device = CPU
) -> dict[str, list[float]]:
    """Return the seconds of every call; call each once before, the first call takes longer.

    Machines are slower at one time than at another: calls that are compared alternate.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(_seconds(function, device))
    return seconds


def _seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Time a call, on a GPU by events in its own queue: it runs on when the host is done."""
    if device.type == "cpu":
        started = time.perf_counter()
        function()
        return time.perf_counter() - started
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def compare(
    case: str,
    plain: Callable[[], Any],
    ours: Callable[[], Any],
    repeats: int,
    flop: float = 0.0,
    device: torch.device = CPU,
) -> Comparison:
    """Time two functions in turns."""
    plain()
    ours()
    return of_seconds(case, in_turns({"plain": plain, "ours": ours}, repeats, device), flop)


def count_flop(function: Callable[[], Any]) -> float:
    """Return the floating point operations of a call, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return float(counter.get_total_flops())


def of_seconds(case: str, seconds: Mapping[str, list[float]], flop: float = 0.0) -> Comparison:
    """Return the comparison of the seconds of ``plain`` and ``ours``."""
    plain, ours = (statistics.median(seconds[name]) for name in ("plain", "ours"))
    spread = (max(seconds["ours"]) - min(seconds["ours"])) / 2 / ours
    return Comparison(case, "s", plain, ours, spread, flop)


def peak_memory(function: Callable[..., Any], *arguments: Any) -> float:
    """Return the MB that calling what a function returns adds to a new process's greatest memory.

    Once a process uses a GPU, it is the memory there that counts.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_peak, args=(sender, function, arguments))
    process.start()
    peak: float = receiver.recv()
    process.join()
    return peak


def _send_peak(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    prepared = function(*arguments)
    before = _greatest_memory()
    prepared()
    sender.send(_greatest_memory() - before)


def _greatest_memory() -> float:
    """Return the greatest memory of this process so far, in MB."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 1e6
    # getrusage would count that of the process which started this one, too.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e6


def convolution_peak(device: torch.device = CPU) -> float:
    """Return the GFLOP/s of a dense 3x3 convolution of 64 channels on this machine."""
    count = 16 if device.type == "cpu" else 1024
    x, weight = (
        torch.randn(*size, device=device) for size in ((count, 64, 32, 32), (64, 64, 3, 3))
    )
    seconds = in_turns({"peak": lambda: F.conv2d(x, weight, padding=1)}, 15, device)["peak"]
    flop: float = 2.0 * count * 32 * 32 * weight.numel()
    return flop / statistics.median(seconds) / 1e9
