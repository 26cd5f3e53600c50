"""``manifold-mixup`` on a CPU with what accelerate does for FSDP, which it reads for GPUs only."""

import sys

from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from manifold_mixup.lab import cli, job


def sharding(*args: object, **kwargs: object) -> Accelerator:
    """Return an Accelerator in the state that --use_fsdp brings it into on a GPU."""
    accelerator = Accelerator(*args, **kwargs)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    state = {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    AcceleratorState._shared_state.update(state)
    return accelerator


if __name__ == "__main__":
    job.Accelerator = sharding
    cli.main(sys.argv[1:])
