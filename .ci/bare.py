"""Fill an empty environment with PyTorch, what PyTorch requires, and nothing else.

    python .ci/bare.py ENVIRONMENT

They are links into the environment that runs this: another copy takes gigabytes and minutes.
"""

import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(name: str) -> dict[str, Distribution]:
    """Return a package and all that it requires here, by name."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        if (name := waiting.pop()) in found:
            continue
        found[name] = distribution(name)
        requirements = map(Requirement, found[name].requires or [])
        waiting += [one.name for one in requirements if _applies(one)]
    return found


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def parts(package: Distribution) -> Iterator[str]:
    """Name the files and folders of a package in ``site-packages``."""
    tops = {file.parts[0] for file in package.files or []}
    yield from tops - {"..", "__pycache__"}


def main(environment: Path) -> None:
    """Link the packages into the environment's ``site-packages``."""
    (site,) = environment.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    packages = required("torch")
    for package in packages.values():
        for part in parts(package):
            if not (site / part).exists():
                (site / part).symlink_to(here / part)
    print(f"{environment.name} has {', '.join(sorted(packages))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
