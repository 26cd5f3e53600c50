"""Fill an environment with a package and its requirements, and nothing else.

    python .ci/only.py ENVIRONMENT torch
    python .ci/only.py ENVIRONMENT 'manifold-mixup[lab]'

The packages are links into the environment that runs this, since copies take gigabytes and minutes.
"""

import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = "manifold-mixup"  # not linked: the caller installs it


def required(package: str) -> dict[str, Distribution]:
    """Return a package and all its requirements by name, without manifold-mixup itself."""
    found: dict[str, Distribution] = {}
    waiting, seen = [Requirement(package)], set()
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        if (name, *sorted(one.extras)) not in seen:
            seen.add((name, *sorted(one.extras)))
            found[name] = distribution(name)
            waiting += _requirements(found[name], one.extras)
    found.pop(OURS, None)
    return found


def _requirements(package: Distribution, extras: set[str]) -> Iterator[Requirement]:
    """Yield the requirements of a package with some of its extras."""
    for one in map(Requirement, package.requires or []):
        chosen = ({"extra": extra} for extra in ("", *extras))
        if one.marker is None or any(map(one.marker.evaluate, chosen)):
            yield one


def parts(package: Distribution) -> set[str]:
    """Return the names of a package's files and folders in ``site-packages``."""
    return {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}


def main(environment: Path, package: str) -> None:
    """Link the packages into the ``site-packages`` of the environment."""
    (site,) = environment.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    packages = required(package)
    for one in packages.values():
        for part in parts(one):
            if not (site / part).exists():
                (site / part).symlink_to(here / part)
    print(f"{environment.name} has {', '.join(sorted(packages))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
