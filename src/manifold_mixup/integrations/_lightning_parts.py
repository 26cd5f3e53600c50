"""The parts of a LightningModule that are to be mixed, or a word on why they are not there."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from torch import nn


def before_finders(trainer: Any, callback: Callback) -> bool:
    """Put a callback before the finders of a Trainer, and return whether there are any.

    They try out a training as the fit starts, without the callbacks, which are called in order. A
    Tuner puts a finder first, and the Trainer does so with those that it is given.
    """
    finders = [c for c in trainer.callbacks if isinstance(c, BatchSizeFinder | LearningRateFinder)]
    if finders:
        others = [each for each in trainer.callbacks if each is not callback]
        place = others.index(finders[0])
        trainer.callbacks = [*others[:place], callback, *others[place:]]
    return bool(finders)


def estimates_statistics(trainer: Any) -> bool:
    """Return whether this epoch only takes the batch statistics of averaged weights anew.

    `StochasticWeightAveraging` has the Trainer do so in one epoch more, without backward passes.
    """
    averaging = (c for c in trainer.callbacks if isinstance(c, StochasticWeightAveraging))
    return any(trainer.current_epoch > each.swa_end for each in averaging)


def mixed_module(trainer: Trainer, pl_module: LightningModule, name: str | None) -> nn.Module:
    """Return the submodule of a name; for None the LightningModule, unless the Trainer wraps it."""
    kind = type(pl_module).__name__
    if name is None:
        if trainer.model is not pl_module:
            raise ValueError(
                f"with this strategy the Trainer wraps {kind} and calls it around training_step, "
                f"so that it cannot be mixed itself. Put its layers into a module of its own, "
                f'self.model, and name that: module="model".'
            )
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        known = [child for child, _ in pl_module.named_children()]
        raise ValueError(
            f"{kind} has no submodule {name!r} to mix. Name the one that training_step calls: "
            f"module= one of {known}; or say module=None for {kind} itself, which training_step "
            f"calls as self(x). It must be there when the fit starts."
        ) from None


def own_criterion(pl_module: LightningModule, name: str) -> Callable[..., Any]:
    """Return the attribute by which a LightningModule computes its loss."""
    found: Any = getattr(pl_module, name, None)
    if not callable(found):
        raise ValueError(
            f"{type(pl_module).__name__} has no {name!r} to compute the loss by. Set it in "
            f"__init__, self.{name} = nn.CrossEntropyLoss(), and have training_step call it; name "
            f"another attribute by criterion=; or say criterion=None and compute the loss by "
            f"callback.target(y, output).loss(nn.functional.cross_entropy, output)."
        )
    return found  # type: ignore[no-any-return]


class Covered:
    """The criterion of a LightningModule, with a mixed one before it.

    The mixed one is in the instance's ``__dict__``, where it is found first. A module stays
    registered where it is, so that checkpoints of the fit have the keys of any other.
    """

    def __init__(self, pl_module: LightningModule, name: str, mixed: nn.Module) -> None:
        own = vars(pl_module)
        self.name, self.mixed = name, mixed
        self.before = {key: own[key] for key in own.keys() & {name}}  # none if it is a module
        own[name] = mixed

    def uncover(self, pl_module: LightningModule) -> None:
        """Take the mixed one away, unless somebody has put another there."""
        own = vars(pl_module)
        if own.get(self.name) is self.mixed:
            del own[self.name]
            own.update(self.before)
