"""The results of `evaluate` as tables for a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]

_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # the λ to show; the file has the whole curve
_TITLES = {
    "attacks": "attacks, accuracy %",
    "strength": "FGSM by ε, accuracy %",
    "interpolation": "interpolation, NLL",
}


def battery_table(part: str, rows: Sequence[Row]) -> Table:
    """Return the rows of a part as a table of their numbers and settings."""
    shorter: dict[str, Callable[[Row], Row]] = {
        "attacks": _attack,
        "strength": _rising,
        "interpolation": _curve,
        "spectra": _flatness,
    }
    lines = [dict(_flat(shorter.get(part, dict)(row))) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = Table(title=_TITLES.get(part, part), title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "name" else "right")
    for line in lines:
        table.add_row(*(_text(line.get(name)) for name in names))
    return table


def _attack(row: Row) -> Row:
    return {"name": row["stated"], "": row["accuracy"]}


def _curve(row: Row) -> Row:
    at = {round(lam, 6): nll for lam, nll in zip(row["lam"], row["nll"], strict=True)}
    return {"name": row["name"]} | {f"λ = {lam:g}": at[lam] for lam in _SHOWN if lam in at}


def _rising(row: Row) -> Row:
    """Turn a row with lists into columns, with the ε of pixels in 255ths."""
    pixels = "pixel" in row["space"]
    named = (f"{255 * eps:g}/255" if pixels else f"{eps:g}" for eps in row["eps"])
    return {"name": "ε in pixels" if pixels else f"ε in {row['space']}"} | dict(
        zip(named, row["accuracy"], strict=True)
    )


def _flatness(row: Row) -> Row:
    """Return the numbers that fit in a line; the file has all."""
    seen = {"% of it seen": row["seen"]} if "seen" in row else {}
    return {
        "name": row["name"],
        "s1": row["uncentred"]["s1"],
        "rest": row["uncentred"]["rest"],
        "% within classes": row["within"],
        **seen,
    }


def _flat(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict) and name != "reliability":
            yield from _flat(value, f"{prefix}{name} ")
        elif not isinstance(value, dict):
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
