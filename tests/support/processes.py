"""Helpers to start processes with slow imports, and to find a port for them."""

import multiprocessing
import socket
from typing import Any

# Constructing DistributedDataParallel imports torch._dynamo, which takes a second per process.
_IMPORTED = ["manifold_mixup.lab.commands.train", "manifold_mixup._inspect"]
_IMPORTED += ["torch.distributed.fsdp", "torch._dynamo"]


def context() -> Any:
    """Return a context that forks from a server with these imports, if the system supports it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_IMPORTED)
    return found


def free_port() -> str:
    """Return a free port."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return str(one.getsockname()[1])
