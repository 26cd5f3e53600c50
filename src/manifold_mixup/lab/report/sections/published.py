"""The sections of the report on test sets that others published: CIFAR-C and CIFAR-10.1."""

from typing import Any

from manifold_mixup.lab.report.sections.section import (
    ByName,
    Grid,
    Methods,
    Section,
    by_method,
    evaluated,
    number,
)


def corrupted(methods: Methods) -> Section | None:
    """Return the error on CIFAR-10-C or CIFAR-100-C."""
    evaluations = evaluated(methods, "cifar-c")
    if not evaluations:
        return None
    rows = [
        row
        for by_name in evaluations.values()
        for seed_rows in by_name.values()
        for row in seed_rows
    ]
    images = ", ".join(f"{count:,}" for count in sorted({row["images"] for row in rows}))
    extra = {name: by_name for name, by_name in evaluations.items() if _is_extra(by_name)}
    main = {name: by_name for name, by_name in evaluations.items() if name not in extra}
    tables = [
        by_method("Error, mean over 5 severities, %", list(main), main, _error, 2),
        _by_severity(evaluations["mCE"]),
    ]
    if extra:
        tables.append(by_method("Further corruptions, not in mCE", list(extra), extra, _error, 2))
    return Section(
        "cifar-c",
        "Corrupted images",
        "The error on CIFAR-C (Hendrycks and Dietterich 2019). mCE is the mean over the 15 "
        "corruptions and 5 severities, not divided by that of another network. "
        f"Images at each severity: {images}.",
        tables=tables,
    )


def _is_extra(by_name: dict[str, list[dict[str, Any]]]) -> bool:
    return any(row.get("extra") for rows in by_name.values() for row in rows)


def _error(row: dict[str, Any]) -> float:
    return float(row["error"])


def _by_severity(by_name: dict[str, list[dict[str, Any]]]) -> Grid:
    rows = [
        (
            f"severity {k + 1}",
            [number([row["errors"][k] for row in rows], 2) for rows in by_name.values()],
        )
        for k in range(5)
    ]
    return Grid("Mean over the 15 corruptions, %", list(by_name), rows)


def new_images(methods: Methods) -> Section | None:
    """Return the error on CIFAR-10.1."""
    evaluations: ByName = evaluated(methods, "cifar-10.1")
    if not evaluations:
        return None
    counts = {
        name: next(iter(by_name.values()))[0]["images"] for name, by_name in evaluations.items()
    }
    labels = [f"{name}, {count:,} images" for name, count in counts.items()]
    return Section(
        "cifar-10.1",
        "New images",
        "The error on CIFAR-10.1 (Recht et al. 2018), new images that were collected as those of "
        "CIFAR-10 were. They are few: with 2,000 images, the 95 % interval of an error "
        "of 10 % reaches from 8.7 to 11.4 %.",
        tables=[by_method("Error, %", labels, evaluations, _error, 2)],
    )
