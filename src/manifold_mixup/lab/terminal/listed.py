"""The lists that ``--data list``, ``--model list`` and similar options print."""

from collections.abc import Mapping

from manifold_mixup.lab.terminal.help_page import table, wrap


def listed(kind: str) -> str:
    """Return the list of all data sets, models, tables, recipes or kinds of mixing.

    Args:
        kind: ``"data"``, ``"models"``, ``"tables"``, ``"recipes"`` or ``"mixing"``.
    """
    title, entries = _entries(kind)
    return "\n".join([wrap(title), *table(list(entries.items()))])


def _entries(kind: str) -> tuple[str, Mapping[str, str]]:
    # Each of these modules takes seconds to import.
    if kind == "data":
        from manifold_mixup.lab import data

        return "data sets:", data.ABOUT
    if kind == "models":
        from manifold_mixup.lab import models

        return "models:", models.ABOUT
    if kind == "tables":
        from manifold_mixup.lab import paper

        titles = {name: make().title for name, make in paper.TABLES.items()}
        return "tables and figures of the paper:", titles
    from manifold_mixup.lab.recipes import catalog

    return (
        ("recipes:", catalog.RECIPES) if kind == "recipes" else ("kinds of mixing:", catalog.MIXING)
    )
