"""Two processes that train together, set up as torchrun does, for the tests of integrations.

The second is a fork of the first, since a new process would repeat all imports.
"""

import gc
import importlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import processes


def start(script: str, folder: Path) -> None:
    """Run a script that calls `run`, and raise its output if it fails."""
    done = subprocess.run(
        [sys.executable, script, str(folder), processes.free_port()],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run(main: Callable[[Path], None]) -> None:
    """Call ``main`` with the folder in two processes, and exit as the second does."""
    importlib.import_module("torch._dynamo")  # as DistributedDataParallel does after the fork
    gc.freeze()  # the Trainer collects garbage at its start
    warnings.simplefilter("ignore")
    folder, port = sys.argv[1:]
    second = os.fork()
    rank = "0" if second else "1"
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": "0"}
    try:
        main(Path(folder))
    except BaseException:
        if second:
            os.kill(second, signal.SIGKILL)  # otherwise it waits for this process
        raise
    if second:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
