"""The results of `evaluate` as tables for a terminal of 80 columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Row = Mapping[str, Any]

_SHOWN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # the λ to show; the file has the whole curve
_TITLES = {
    "selective": "selective, error % by coverage",
    "attacks": "attacks, accuracy %",
    "strength": "FGSM by ε, accuracy %",
    "robustness": "robustness, accuracy % under attack",
    "apgd": "APGD by ε, accuracy %",
    "cifar-c": "CIFAR-C, error % by severity",
    "cifar-10.1": "CIFAR-10.1, error %",
    "outliers": "outliers, AUROC and FPR95 in %",
    "interpolation": "interpolation, NLL",
}
_CALIBRATION = {
    "temperatures": "temperatures of the halves",
    "nll": "NLL, nats",
    "ece": "ECE, %",
    "ece_if_calibrated": "  the same if calibrated",
    "rms_gap": "RMS gap, debiased, %",
    "rms_low": "  95 % interval, from",
    "rms_high": "  95 % interval, to",
    "adaptive_ece": "adaptive ECE, %",
    "classwise_ece": "classwise ECE, %",
}


def battery_table(part: str, rows: Sequence[Row]) -> Table:
    """Return the rows of a part as a table of their numbers and settings."""
    shorter: dict[str, Callable[[Row], Row]] = {
        "attacks": _attack,
        "selective": _risk,
        "cifar-c": _severities,
        "cifar-10.1": _new_images,
        "outliers": _separations,
        "strength": _rising,
        "robustness": _survived,
        "apgd": _rising,
        "interpolation": _curve,
        "spectra": _flatness,
    }
    rows = [{key: value for key, value in row.items() if key != "note"} for row in rows]
    rows = _transposed(rows) if part == "calibration" else rows
    lines = [dict(_flat(shorter.get(part, dict)(row))) for row in rows]
    names = list(dict.fromkeys(name for line in lines for name in line))
    table = Table(title=_TITLES.get(part, part), title_justify="left", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="left" if name == "name" else "right")
    for line in lines:
        table.add_row(*(_text(line.get(name)) for name in names))
    return table


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what the rows say about numbers that could not be computed."""
    return list(dict.fromkeys(row["note"] for row in rows if "note" in row))


def _transposed(rows: Sequence[Row]) -> list[Row]:
    """Return a row for each number, with a column for each of the given rows."""
    return [
        {"name": label} | {row["name"]: _listed(row.get(key)) for row in rows}
        for key, label in _CALIBRATION.items()
    ]


def _listed(value: Any) -> Any:
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else value


def _risk(row: Row) -> Row:
    risk_at = {
        round(100 * share): risk for share, risk in zip(row["coverage"], row["risk"], strict=True)
    }
    return {
        "name": row["name"],
        **{f"{share} %": risk_at[share] for share in (50, 70, 80, 90, 100) if share in risk_at},
        "AURC": row["aurc"],
        "best": row["best_aurc"],
        "excess": row["excess_aurc"],
    }


def _separations(row: Row) -> Row:
    scores = ("confidence", "entropy", "energy", "distance")
    return {"name": row["name"], "kind": row["kind"]} | {
        score: f"{row[score]['auroc']:.1f} {row[score]['fpr95']:5.1f}"
        for score in scores
        if score in row
    }


def _attack(row: Row) -> Row:
    return {"name": row["stated"], "": row["accuracy"]}


def _curve(row: Row) -> Row:
    nll_at = {round(lam, 6): nll for lam, nll in zip(row["lam"], row["nll"], strict=True)}
    return {"name": row["name"]} | {f"λ = {lam:g}": nll_at[lam] for lam in _SHOWN if lam in nll_at}


def _rising(row: Row) -> Row:
    """Turn a row with lists into columns, with the ε of pixels in 255ths."""
    pixels = "pixel" in row["space"]
    named = (f"{255 * eps:g}/255" if pixels else f"{eps:g}" for eps in row["eps"])
    return {"name": "ε in pixels" if pixels else f"ε in {row['space']}"} | dict(
        zip(named, row["accuracy"], strict=True)
    )


def _severities(row: Row) -> Row:
    name = f"{row['name']} (extra)" if row.get("extra") else row["name"]
    by_severity = {str(k): error for k, error in enumerate(row["errors"], start=1)}
    return {"name": name, "mean": row["error"], **by_severity, "images": row["images"]}


def _new_images(row: Row) -> Row:
    return {
        "name": row["name"],
        "error": row["error"],
        "95 % interval": f"{row['error_low']:.1f} to {row['error_high']:.1f}",
        "images": row["images"],
    }


def _survived(row: Row) -> Row:
    """Return the accuracy with its interval, and what the attack was allowed."""
    eps = row.get("eps")
    budget = [f"{row['steps']:,} steps"] if "steps" in row else []
    budget += [f"x {row['restarts']}"] if "restarts" in row else []
    budget += [f"{row['queries']:,} queries"] if "queries" in row else []
    known = row["accuracy"] is not None
    return {
        "name": row["name"],
        "accuracy": row["accuracy"] if known else "not known",
        "95 % interval": f"{row['low']:.1f} to {row['high']:.1f}" if known else "",
        "images": row["images"],
        "ε": "" if eps is None else f"{eps:.4g}",
        "budget": " ".join(budget) if len(budget) < 3 else "both",
    }


def _flatness(row: Row) -> Row:
    """Return the numbers that fit in a line; the file has all."""
    classifier = {"% of it seen": row["seen"]} if "seen" in row else {}
    return {
        "name": row["name"],
        "s1": row["uncentred"]["s1"],
        "rest": row["uncentred"]["rest"],
        "% within classes": row["within"],
        **classifier,
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
