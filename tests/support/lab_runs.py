"""What tests of the lab share: a command that is run, and results compared without their times."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from manifold_mixup.lab import cli
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Result


def run(*arguments: str | float | Path) -> int:
    """Run ``manifold-mixup``, and return its exit status."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, arguments)))
    return stop.value.code


def without_time(result: Result) -> Result:
    return replace(result, seconds=0)


def by_run(results: Iterable[Result]) -> dict[Recipe, Result]:
    return {result.run: without_time(result) for result in results}
