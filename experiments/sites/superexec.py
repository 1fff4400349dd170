"""Flower's SuperExec, in a process that has imported what every message needs.

The SuperNode starts a program ``flower-superexec``, and this starts a process for each message,
which spends 2.5 seconds of a core on the import of Flower and PyTorch. Here they are imported once,
and a message gets a copy of this process, which then reads the app and the images as any other
would. If another version of Flower has other names inside, it works as Flower does without us.
"""

import contextlib
import os
import signal
import sys
import traceback
from typing import Any

PROGRAM = "flower-superexec"


def main() -> None:
    """Be ``flower-superexec``, with its arguments."""
    with contextlib.suppress(ImportError, AttributeError):
        fork_for_each_message()
    from flwr.supercore.cli.flower_superexec import flower_superexec

    flower_superexec()


def fork_for_each_message() -> None:
    """Let Flower's SuperExec fork this process where it would start a program.

    Raises
    ------
    ImportError, AttributeError
        If this version of Flower has no such names.
    """
    import flwr.clientapp  # noqa: F401
    import torch  # noqa: F401
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supernode.runtime import run_clientapp  # noqa: F401

    start_program = SubprocessExecutor.launch

    def launch(self: SubprocessExecutor, spec: Any) -> LaunchResult:
        if spec.task_type != TaskType.CLIENT_APP:
            return start_program(self, spec)
        if os.fork() == 0:
            _be_client(spec)
        return LaunchResult.accepted()

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    SubprocessExecutor.launch = launch  # type: ignore[method-assign]


def _be_client(spec: Any) -> None:
    """Answer one message, as ``flwr-clientapp`` does, and end this process."""
    from flwr.supercore.tls import validate_and_resolve_root_certificates
    from flwr.supernode.runtime.run_clientapp import run_clientapp

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The app that was sent has a package of this name, and must not be answered from this one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "fedmetanas"]:
        del sys.modules[name]
    code: Any = 1
    try:
        run_clientapp(
            runtime_api_address=spec.runtime_api_address,
            token=spec.token,
            insecure=spec.insecure,
            certificates=validate_and_resolve_root_certificates(
                spec.root_certificates_path, spec.insecure
            ),
            parent_pid=spec.parent_pid,
            runtime_dependency_install=spec.runtime_dependency_install,
        )
    except SystemExit as end:
        code = end.code
    except BaseException:  # it must not go on as what it is a copy of
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
