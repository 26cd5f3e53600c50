"""How tests start processes that import much, and let them find one another."""

import multiprocessing
import socket
from typing import Any

# DistributedDataParallel imports torch._dynamo when it is made: a second per process.
_IMPORTED = ["manifold_mixup.lab.training.job", "torch.distributed.fsdp", "torch._dynamo"]


def context() -> Any:
    """Fork from a server that has imported all this once, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_IMPORTED)
    return found


def free_port() -> str:
    """Find a port that nobody has."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return str(one.getsockname()[1])
