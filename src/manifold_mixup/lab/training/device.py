"""The device of a training."""

import torch


def find_device(name: str) -> torch.device:
    """Return a device by name.

    Raises:
        ValueError: this machine has no such device.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"cannot use device {name!r}: {reason}. The default here is {usual_device()!r}."
        ) from None
    return device


def usual_device() -> str:
    """Return the default device: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def emulates_bf16(device: str) -> bool:
    """Return whether a device emulates bfloat16 with float32, which is slower than float32.

    On x86, PyTorch needs AVX-512 for native bfloat16.
    """
    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
