"""Parts that attack the model."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate.attacks import (
    SPACES,
    Attack,
    attack_all,
    authors_fgsm,
    one_step,
    pgd,
    std_of,
    without_gradient,
)
from manifold_mixup.lab.evaluate.battery.subject import Job, Row, Subject
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.metrics import error
from manifold_mixup.lab.evaluate.robustness import SHARES


def attacks(subject: Subject) -> Iterator[Job]:
    """The accuracy under each attack."""
    settings, data = subject.settings, subject.data

    def row(attack: Attack) -> Row:
        x = attack_all(
            subject.model,
            data.x_test,
            data.y_test,
            attack,
            bounds=data.bounds,
            std=settings.std,
            generator=subject.generator(),
        )
        done = replace(attack, clipped=attack.clipped and data.bounds is not None)
        space = _space(attack, data)
        return {
            "accuracy": 100 - error(logits(subject.model, x), subject.y),
            "stated": done.stated(space),
            **asdict(done),
            "space": space,
            **_blind(subject, attack),
        }

    chosen = _usual_attacks(subject) if settings.attacks is None else settings.attacks
    for attack in chosen:
        yield attack.name, partial(row, attack)


def strength(subject: Subject) -> Iterator[Job]:
    """FGSM from ε = 0 to twice the ε of the data."""
    data = subject.data

    def row() -> Row:
        eps = [share * data.eps for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)]
        accuracy = [100 - error(subject.clean, subject.y)]
        for size in eps[1:]:
            x = attack_all(
                subject.model, data.x_test, data.y_test, one_step(size), bounds=data.bounds
            )
            accuracy.append(100 - error(logits(subject.model, x), subject.y))
        result = {"eps": eps, "accuracy": accuracy, "space": data.space}
        return result | _blind(subject, one_step(data.eps))

    yield "FGSM", row


def _blind(subject: Subject, attack: Attack) -> Row:
    """Return a note if correct examples have no gradient that an attack could follow."""
    data = subject.data
    blind = without_gradient(subject.model, data.x_test, data.y_test, attack)
    right = subject.clean.argmax(1) == subject.y
    count = int((blind & right).sum())
    if not count:
        return {}
    return {
        "note": f"{attack.name}: the gradient is zero or NaN on {count} of the {int(right.sum())} "
        f"examples that are predicted right. Steps along it lead nowhere, so they may count as "
        f"withstanding it, and the accuracy is no measure of robustness."
    }


def robustness(subject: Subject) -> Iterator[Job]:
    """APGD and Square with the ε of the data, and the checks for masked gradients."""
    attacked, data, budget = subject.attacked, subject.data, subject.settings.budget
    by_apgd = {"eps": data.eps, "space": data.space, "steps": budget.steps}
    of_starts = by_apgd | {"restarts": budget.restarts}
    by_square = {"eps": data.eps, "space": data.space, "queries": budget.queries}
    yield "no attack", lambda: attacked.row(attacked.right, white=False)
    yield "APGD", lambda: attacked.row(attacked.by_apgd, white=True) | of_starts
    if subject.images:
        yield "Square", lambda: attacked.row(attacked.by_square, white=False) | by_square
        yield (
            "APGD and Square",
            lambda: (
                attacked.row(attacked.by_apgd & attacked.by_square, white=True)
                | attacked.compared()
                | of_starts
                | by_square
            ),
        )
    yield "APGD without a bound", lambda: attacked.free_row() | by_apgd | {"eps": None}


def apgd(subject: Subject) -> Iterator[Job]:
    """APGD from ε = 0 to twice the ε of the data."""
    attacked, data = subject.attacked, subject.data

    def row() -> Row:
        pairs = zip(SHARES, attacked.at_shares, strict=True)
        rows = [attacked.row(survives, white=share > 0) for share, survives in pairs]
        notes = [result["note"] for result in rows if "note" in result]
        return {
            "eps": [share * data.eps for share in SHARES],
            **{key: [result[key] for result in rows] for key in ("accuracy", "low", "high")},
            "images": len(attacked.y),
            "space": data.space,
            **({"note": notes[0]} if notes else {}),
        }

    yield "APGD", row


def _usual_attacks(subject: Subject) -> tuple[Attack, ...]:
    eps = subject.data.eps
    usual = one_step(eps), pgd(eps)
    std_is_known = subject.settings.std is not None or std_of(subject.model) is not None
    return (*usual, authors_fgsm()) if std_is_known else usual


def _space(attack: Attack, data: Data) -> str:
    return data.space if attack.space == "data" else SPACES[attack.space]
