"""The benchmarks: they compare the same mathematics, and their figures mean what they say."""

import json
import os
import sys
import time

import pytest
import torch
from helpers import make_shape

from fedmetanas.benchmarks import cases, measure, rounds
from fedmetanas.benchmarks.cases import Search
from fedmetanas.client.parameters import leaves
from fedmetanas.search_space.alphas import Topology
from fedmetanas.search_space.supernet import NetworkShape

SHAPE = make_shape(nodes=2, layers=3, in_channels=3, norm="batch")


def relative_error(ours: torch.Tensor, plain: torch.Tensor) -> float:
    return float((ours - plain).norm() / plain.norm())


# Rounding decides ReLU and maxima of what is near zero or a tie: with an error of 1e-6 in one of a
# million values, the gradient moves by 1e-3. Exactness is tested in double precision elsewhere.
@pytest.mark.parametrize(("norm", "error"), [("batch", 1e-2), ("group", 1e-4)])
def test_what_is_compared_is_equal_in_single_precision(norm: str, error: float) -> None:
    shape = NetworkShape(3, 10, 8, 5, Topology(3, SHAPE.topology.operations), norm)
    run = Search.of(shape, 8, 16)
    theta = leaves(run.theta)
    slopes = []
    values = []
    for loss in (run.our_loss(run.query), run.plain_loss(run.query)):
        value, _ = loss(theta)
        values.append(float(value.detach()))
        slopes.append(torch.autograd.grad(value, theta.tensors()))

    assert abs(values[0] - values[1]) < 1e-5
    flat = [torch.cat([slope.flatten() for slope in of_one]) for of_one in slopes]
    assert relative_error(*flat) < error


def test_a_step_lowers_the_loss() -> None:
    run = Search.of(SHAPE, 8, 8)
    loss = run.our_loss(run.query)

    moved = cases.weight_step(run, loss)()

    assert float(loss(moved)[0]) < float(loss(run.theta)[0])


def test_calls_alternate_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)  # a clock that only calls move on

    def call(name: str, seconds: list[float]) -> None:
        nonlocal now
        calls.append(name)
        now += seconds.pop(0)

    plain, ours = [100.0, 5.0, 7.0, 6.0], [100.0, 2.0, 1.0, 9.0]
    row = measure.compare(
        "case", lambda: call("plain", plain), lambda: call("ours", ours), 3, flop=1.0
    )

    assert calls == ["plain", "ours"] * 4
    assert (row.plain, row.ours, row.ratio) == (6.0, 2.0, 3.0)
    assert row.spread == (9 - 1) / 2 / 2


def test_the_command_line_knows_all_cases() -> None:
    from fedmetanas.experiments.commands.main import BENCH_CASES

    assert list(BENCH_CASES) == list(cases.CASES)


def test_floating_point_operations_of_a_product() -> None:
    first, second = torch.ones(3, 5), torch.ones(5, 7)

    assert measure.count_flop(lambda: first @ second) == 2 * 3 * 5 * 7


def _allocates() -> object:
    return lambda: torch.ones(50_000_000)  # 200 MB


def test_peak_memory_is_that_of_the_call() -> None:
    ballast = torch.ones(30_000_000)

    peak = measure.peak_memory(_allocates)

    assert 190 < peak < 230
    assert len(ballast) > 0


def test_the_masks_of_a_search_only_lose() -> None:
    masks = rounds.masks_of_a_search()

    assert sum(count for _, count in masks) == 30
    alive = [mask.counts() for mask, _ in masks]
    assert alive[0] == (2 * 14 * 7, 2 * 20)
    assert alive == sorted(alive, reverse=True)
    assert alive[-1][0] <= 2 * 14


def test_the_command_prints_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fedmetanas.experiments.commands.main import main

    monkeypatch.setattr(cases, "LARGE", SHAPE)
    threads = torch.get_num_threads()

    assert main(["bench", "step", "--batch-size", "4", "--repeats", "1", "--json"]) == 0

    torch.set_num_threads(threads)
    printed = json.loads(capsys.readouterr().out)
    assert [row["case"] for row in printed["rows"]] == ["step, full supernet", "step, digits"]
    assert all(row["plain"] > 0 and row["flop"] > 0 for row in printed["rows"])
    assert printed["peak_gflops"] > 0


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_nobody_need_read_what_it_prints(form: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fedmetanas.experiments.commands.main import main

    monkeypatch.setattr(cases, "LARGE", SHAPE)
    threads = torch.get_num_threads()
    end, start = os.pipe()
    os.close(end)

    with open(start, "w", buffering=1) as closed:  # as of a command behind a pipe that has ended
        monkeypatch.setattr(sys, "stdout", closed)
        assert main(["bench", "step", "--batch-size", "4", "--repeats", "1", *form]) == 0

    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["step", "--repeats", "0"], ["step", "--device", "gpu"]]
)
def test_bad_arguments_end_with_2(arguments: list[str]) -> None:
    from fedmetanas.experiments.commands.main import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])

    assert ended.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    from fedmetanas.experiments.commands.main import main

    assert main(["bench", "step", "--device", "cuda"]) == 2

    error = "fedmetanas: --device: cuda was asked for, but PyTorch finds no CUDA device\n"
    assert capsys.readouterr().err == error
