"""What ``--data list``, ``--model list`` and their like show."""

from collections.abc import Mapping

from manifold_mixup.lab.terminal.help_page import table, wrap


def listed(kind: str) -> str:
    """Return what there is of a kind: data sets, models, tables, recipes or kinds of mixing.

    Args:
        kind: ``"data"``, ``"models"``, ``"tables"``, ``"recipes"`` or ``"mixing"``.
    """
    title, entries = _entries(kind)
    return "\n".join([wrap(title), *table(list(entries.items()))])


def _entries(kind: str) -> tuple[str, Mapping[str, str]]:
    # Each takes seconds to load.
    if kind == "data":
        from manifold_mixup.lab import data

        return "data sets:", data.ABOUT
    if kind == "models":
        from manifold_mixup.lab import models

        return "models:", models.ABOUT
    if kind == "tables":
        from manifold_mixup.lab import paper

        return "tables and figures of the paper:", {
            n: make().title for n, make in paper.TABLES.items()
        }
    from manifold_mixup.lab.recipes import catalog

    return (
        ("recipes:", catalog.RECIPES) if kind == "recipes" else ("kinds of mixing:", catalog.MIXING)
    )
