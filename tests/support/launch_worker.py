"""One of two processes that train one run, as ``accelerate launch`` sets them up.

For tests/lab/launch/test_launch.py.
"""

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from manifold_mixup.lab import cli
from manifold_mixup.lab.training import job


def main(rank: int, port: str, arguments: list[str], output: Path, *, sharded: bool) -> None:
    """Run ``manifold-mixup`` with its output in a file."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    torch.set_num_threads(1)
    if sharded:
        job.Accelerator = _sharding
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    cli.main(arguments)


def _sharding(*args: object, **kwargs: object) -> Accelerator:
    """Return an Accelerator in the state of --use_fsdp, which otherwise needs GPUs."""
    accelerator = Accelerator(*args, **kwargs)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    state = {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    AcceleratorState._shared_state.update(state)
    return accelerator
