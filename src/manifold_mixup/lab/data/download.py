"""Data sets that torchvision downloads and verifies."""

from pathlib import Path
from typing import Any


def torchvision(kind: str, root: Path, **options: Any) -> Any:
    """Open a data set of torchvision, which is downloaded into ``root`` if it is not there.

    Raises:
        OSError: it is not there and cannot be downloaded.
    """
    import torchvision.datasets

    try:
        return getattr(torchvision.datasets, kind)(str(root), download=True, **options)
    except (RuntimeError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise OSError(
            f"{kind} is not in {root} and could not be downloaded ({reason}). If you have a copy, "
            f"unpacked as torchvision does it, give its folder: --root FOLDER."
        ) from error
