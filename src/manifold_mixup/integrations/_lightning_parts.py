"""Find the parts of a LightningModule to mix, or explain why they are missing."""

import sys
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn


def _is(callback: Callback, *names: str) -> bool:
    """Return whether a callback is of one of these classes of Lightning.

    Lightning is published as two packages, each with classes of its own: `lightning` and
    `pytorch_lightning`.
    """
    packages = ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks")
    loaded = [sys.modules[name] for name in packages if name in sys.modules]
    return isinstance(callback, tuple(getattr(each, name) for each in loaded for name in names))


def before_finders(trainer: Any, callback: Callback) -> bool:
    """Move a callback before a Trainer's finders, and return whether there are any.

    Finders run trial trainings when the fit starts, before the callbacks that come after them. A
    Tuner puts its finder first, and the Trainer does the same with finders it is given.
    """
    finders = [c for c in trainer.callbacks if _is(c, "BatchSizeFinder", "LearningRateFinder")]
    if finders:
        others = [each for each in trainer.callbacks if each is not callback]
        place = others.index(finders[0])
        trainer.callbacks = [*others[:place], callback, *others[place:]]
    return bool(finders)


def estimates_statistics(trainer: Any) -> bool:
    """Return whether this epoch only recomputes batch statistics for averaged weights.

    For this, `StochasticWeightAveraging` adds an epoch without backward passes.
    """
    averaging = (c for c in trainer.callbacks if _is(c, "StochasticWeightAveraging"))
    return any(trainer.current_epoch > each.swa_end for each in averaging)


def mixed_module(trainer: Trainer, pl_module: LightningModule, name: str | None) -> nn.Module:
    """Return the named submodule, or the LightningModule itself if ``name`` is None."""
    kind = type(pl_module).__name__
    if name is None:
        if trainer.model is not pl_module:
            raise ValueError(
                f"with this strategy the Trainer wraps {kind} and calls it around training_step, "
                f"so {kind} itself cannot be mixed. Move its layers into a submodule, "
                f'self.model, and name it: module="model".'
            )
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError:
        known = [child for child, _ in pl_module.named_children()]
        raise ValueError(
            f"{kind} has no submodule {name!r} to mix. Set module= to the one that training_step "
            f"calls, one of {known}; or set module=None for {kind} itself, if training_step calls "
            f"self(x). The submodule must exist when the fit starts."
        ) from None


def own_criterion(pl_module: LightningModule, name: str) -> Callable[..., Any]:
    """Return the attribute with which a LightningModule computes its loss."""
    found: Any = getattr(pl_module, name, None)
    if not callable(found):
        raise ValueError(
            f"{type(pl_module).__name__} has no {name!r} to compute the loss. Set self.{name} = "
            f"nn.CrossEntropyLoss() in __init__ and call it in training_step; or name another "
            f"attribute with criterion=; or set criterion=None and compute the loss with "
            f"callback.target(y, output).loss(nn.functional.cross_entropy, output)."
        )
    return found  # type: ignore[no-any-return]


class Covered:
    """The criterion of a LightningModule, shadowed by a mixed criterion.

    The mixed criterion is in the instance's ``__dict__``, where Python looks first. A criterion
    that is a module stays registered, so the keys of checkpoints do not change.
    """

    def __init__(self, pl_module: LightningModule, name: str, mixed: nn.Module) -> None:
        own = vars(pl_module)
        self.name, self.mixed = name, mixed
        self.before = {key: own[key] for key in own.keys() & {name}}  # none if it is a module
        own[name] = mixed

    def uncover(self, pl_module: LightningModule) -> None:
        """Remove the mixed criterion, unless other code has replaced it."""
        own = vars(pl_module)
        if own.get(self.name) is self.mixed:
            del own[self.name]
            own.update(self.before)
