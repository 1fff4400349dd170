"""The SuperExec of a site: a message gets a copy of a process that has imported all it needs."""

import subprocess
import sys

FORKING = """
import os, sys
from flwr.supercore.superexec.executor import ExecutionSpec
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supernode.runtime import run_clientapp as flower
from fedmetanas.experiments.sites import superexec

def answer(**asked):
    ready = "torch" in sys.modules and "fedmetanas" not in sys.modules
    print(os.getpid(), ready, asked["token"], asked["insecure"], flush=True)
    if asked["token"] == "fails":
        raise RuntimeError("a fault of Flower's")
    sys.exit(0)

flower.run_clientapp = answer
superexec.fork_for_each_message()
for token in ("one", "fails", "two"):
    spec = ExecutionSpec(
        "flwr-clientapp", "127.0.0.1:1", token, True, None, False, os.getpid(), False, 1
    )
    print(os.getpid(), SubprocessExecutor().launch(spec).status, flush=True)
    try:
        os.wait()
    except ChildProcessError:  # all have ended, and none waits for somebody to ask how
        pass
"""

OTHER_NAMES = """
import sys
import flwr.supercore.cli
from fedmetanas.experiments.sites import superexec

flower = sys.modules["flwr.supercore.cli.flower_superexec"]
flower.flower_superexec = lambda: print("as Flower does")
sys.modules["flwr.supercore.superexec.executor.subprocess_executor"] = None
superexec.main()
"""


def said(program: str) -> tuple[list[list[str]], str]:
    """Run a program; return the words of the lines that it printed, and what it complained of."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()], done.stderr


def test_each_message_has_a_process_of_its_own_that_need_not_import_anything() -> None:
    lines, errors = said(FORKING)

    own = [line for line in lines if line[1] == "accepted"]
    others = [line for line in lines if line[1] != "accepted"]
    assert [line[1:] for line in others] == [
        ["True", token, "True"] for token in ("one", "fails", "two")
    ]
    assert len({line[0] for line in own}) == 1
    assert len({line[0] for line in (own[0], *others)}) == 4
    assert "a fault of Flower's" in errors


def test_with_other_names_inside_flower_it_is_flowers_own() -> None:
    assert said(OTHER_NAMES)[0] == [["as", "Flower", "does"]]
