"""Run a program of Flower's so that its process ends when it does, and when its parent does.

A SuperNode that has given up its connection goes on serving this machine, and so neither works nor
ends. ``python -m fedmetanas.experiments.sites.to_the_end PROGRAM ARGUMENT...`` runs it.
"""

import ctypes
import os
import runpy
import signal
import sys
import traceback

PR_SET_PDEATHSIG = 1  # of Linux: which signal a process gets when its parent dies


def main() -> int:
    """Run the program named by the arguments of this process; return its exit code."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    del sys.argv[0]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # whatever threads are left
