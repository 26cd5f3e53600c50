"""Where torch computes."""

import torch


def find_device(name: str) -> torch.device:
    """Return a device by name.

    Raises:
        ValueError: there is none of this name here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"cannot compute on device {name!r}: {reason}. Left out, it is {usual_device()!r} here."
        ) from None
    return device


def usual_device() -> str:
    """Return where to compute if nothing is said: a GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def emulates_bf16(device: str) -> bool:
    """Say whether a device computes bfloat16 by way of float32, which takes it longer than float32.

    PyTorch needs AVX-512 for it on x86.
    """
    return device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
