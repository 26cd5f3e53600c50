"""Manifold Mixup in PyTorch Lightning: a callback."""

import weakref
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixedTarget
from manifold_mixup.integrations._lightning_parts import (
    Covered,
    before_finders,
    estimates_statistics,
    mixed_module,
    own_criterion,
)
from manifold_mixup.integrations._loaders import refuse_mixed
from manifold_mixup.integrations._options import split_options


class ManifoldMixupCallback(Callback):
    """Mix the hidden states of a module, and the targets to match, while a Trainer fits it.

    The callback attaches when a fit starts and detaches when it ends, also by an exception.
    Checkpoints contain the state of the stream of plans, so a resumed fit draws the same plans as
    an uninterrupted one. Trials of a Tuner, `LearningRateFinder` or `BatchSizeFinder` are mixed
    too, but do not advance the stream. The epoch in which `StochasticWeightAveraging` recomputes
    batch statistics is not mixed.

    Args:
        layers: the eligible layers of the module, see `ManifoldMixup`; None chooses them from
            ``example=`` or the LightningModule's ``example_input_array``.
        module: name of the submodule to mix; None is the LightningModule itself.
        criterion: name of the attribute (a module or another callable) with which ``training_step``
            computes its loss; None if it uses `target` instead.
        targets_at: index or key of the targets in a batch, for ``pairs`` and ``label``, which
            depend on them; None if ``training_step`` calls `batch` before each pass.
        log: at the steps that the Trainer logs, log λ (``mixup_lam``), the index of the layer in
            ``mixup.layers`` (``mixup_layer``; -1 for an unmixed batch) and, for classes, the
            accuracy on the mixed targets (``mixup_accuracy``). With several of these callbacks in
            a Trainer, the names end in that of the module.
        options: ``alpha``, ``p``, ``per_sample``, ``seed`` and all other options of
            `ManifoldMixup`; ``targets``, ``with_target`` and all other options of its `wrap`, for
            the criterion.

    Raises:
        ValueError: there are options of `wrap`, but ``criterion`` is None; or, when a fit starts,
            the module or the criterion cannot be mixed, or the data are already mixed.
        RuntimeError: in a fit, the module is in eval mode, or is never called in an epoch.
        TypeError: in a fit, a batch has no targets at ``targets_at``.
    """

    mixup: ManifoldMixup | None
    """The attachment of the running or latest fit."""

    def __init__(
        self,
        layers: str | nn.Module | Iterable[str | nn.Module] | None = None,
        *,
        module: str | None = "model",
        criterion: str | None = "criterion",
        targets_at: int | str | None = 1,
        log: bool = True,
        **options: Any,
    ) -> None:
        self.layers, self.module, self.criterion = layers, module, criterion
        self.targets_at = targets_at
        self.logs, (self.options, self.of_wrap) = log, split_options(options)
        if criterion is None and self.of_wrap:
            raise ValueError(
                f"{', '.join(self.of_wrap)} needs a criterion, but criterion is None. Pass it "
                f"where the loss is computed: callback.target(y, output, ...).loss(...)."
            )
        self.mixup = None
        self._state: dict[str, int] = {}
        self._covered: Covered | None = None  # the module's criterion, during a fit
        self._fitted: LightningModule | None = None
        self._unmixed = ExitStack()  # holds `paused` while nothing is to be mixed
        self._batches = self._begun_at = 0  # batches in this fit; step at its start
        self._finds = self._notes = False
        self._noted: tuple[Tensor, Tensor, int] | None = None  # for the accuracy

    def target(self, y: Any, output: Any = None, **options: Any) -> MixedTarget:
        """Return the targets, mixed the way the forward pass behind ``output`` was.

        The loss is ``callback.target(y, output).loss(criterion, output)``. Outside a fit, this is
        the plain loss. The options are those of `ManifoldMixup.target`.
        """
        if self.mixup is None:
            return MixedTarget(y, None, **options)
        return self.mixup.target(y, output, **options)

    def batch(self, y: Any) -> None:
        """Give the targets of the next pass, see `ManifoldMixup.batch`; nothing outside a fit."""
        if self.mixup is not None and self._fitted is not None:
            self.mixup.batch(y)

    # Called by the Trainer, in this order

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Continue the plans of the latest fit if the Trainer continues that fit."""
        if stage == "fit":
            for each in [each for each in _ATTACHED if each._fitted is pl_module]:
                each._detach(pl_module)  # a failed learning rate finder does not restore callbacks
            self._state = self.state_dict() if trainer.global_step else {}
            self._finds = before_finders(trainer, self)

    @property
    def state_key(self) -> str:
        """The key of the state in a checkpoint: one for each module and criterion."""
        names = {"module": self.module, "criterion": self.criterion}
        return self._plain_key if names == _DEFAULT else self._generate_state_key(**names)

    @property
    def _plain_key(self) -> str:
        return type(self).__qualname__

    def on_load_checkpoint(
        self, trainer: Any, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue with the plans of a checkpoint from before callbacks had keys of their own."""
        alone = [each for each in trainer.callbacks if type(each) is type(self)] == [self]
        states = checkpoint["callbacks"]
        if alone and self.state_key not in states and states.get(self._plain_key):
            self.load_state_dict(states[self._plain_key])

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue with the plans of a checkpoint."""
        self._state = state_dict
        if self.mixup is not None:  # sharded models are restored after the fit has started
            self.mixup.load_state_dict(state_dict)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the module, and mix the criterion's targets."""
        module = mixed_module(trainer, pl_module, self.module)
        if self._finds:
            self._require_train_mode(module)
        self._refuse_shared_criterion(pl_module)
        plain = None if self.criterion is None else own_criterion(pl_module, self.criterion)
        options = dict(self.options)
        if self.layers is None:
            example = options.get("example", pl_module.example_input_array)
            options["example"] = pl_module.transfer_batch_to_device(example, pl_module.device, 0)
        self.mixup = ManifoldMixup(module, self.layers, **options)
        self._fitted = pl_module
        _ATTACHED.add(self)
        if self._state:
            self.mixup.load_state_dict(self._state)
        if plain is not None and self.criterion is not None:
            mixed = self.mixup.wrap(plain, **self.of_wrap)
            if self.logs:
                note = torch.compiler.disable(self._note)  # it keeps tensors for later
                mixed.register_forward_hook(note, with_kwargs=True)
            self._covered = Covered(pl_module, self.criterion, mixed)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a module in eval mode and data that is already mixed."""
        self._require_train_mode(mixed_module(trainer, pl_module, self.module))
        refuse_mixed(trainer.train_dataloader)
        self._batches, self._begun_at = 0, self.state_dict().get("step", 0)

    def _refuse_shared_criterion(self, pl_module: LightningModule) -> None:
        for each in (each for each in _ATTACHED if each._fitted is pl_module and each._covered):
            if each.criterion == self.criterion and each.module != self.module:
                raise ValueError(
                    f"the callbacks of module={each.module!r} and module={self.module!r} both name "
                    f"criterion={self.criterion!r}, but a criterion mixes the targets for one "
                    f"module. Give each module its own: self.{self.criterion}_2 = "
                    f'nn.CrossEntropyLoss() and criterion="{self.criterion}_2".'
                )

    def _require_train_mode(self, module: nn.Module) -> None:
        if not module.training:
            raise RuntimeError(
                f"module={self.module!r} is in eval mode, as pretrained models are by default, and "
                f"the Trainer leaves it so: nothing would be mixed. Before the fit, call its "
                f"train(), then eval() of the parts that stay frozen."
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mix nothing in an epoch that only recomputes batch statistics, as `update_bn` does."""
        if self.mixup is not None and estimates_statistics(trainer):
            self._unmixed.enter_context(self.mixup.paused())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Record outputs for the accuracy (not in a finder), and give the targets to the plans."""
        self._notes = self.logs
        if self.mixup is None or not self.mixup.needs_targets or self.targets_at is None:
            return
        if not estimates_statistics(trainer):
            self.mixup.batch(self._targets_in(batch))

    def _targets_in(self, batch: Any) -> Any:
        try:
            return batch[self.targets_at]
        except (KeyError, IndexError, TypeError) as error:
            raise TypeError(
                f"pairs and label depend on the targets, but the batch, a {type(batch).__name__}, "
                f"has none at {self.targets_at!r}. Name their place, targets_at=, or use "
                f"targets_at=None and call callback.batch(y) in training_step before the model."
            ) from error

    def _note(self, criterion: nn.Module, args: Any, options: Any, loss: Any) -> None:
        """Keep output and target for the accuracy until the end of the batch."""
        if not self._notes:
            return
        output, y = _output_and_target(*args, **options)
        if isinstance(output, Tensor) and isinstance(y, Tensor) and not y.is_floating_point():
            self._noted = output, y, getattr(criterion.criterion, "ignore_index", -100)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any
    ) -> None:
        """Log what was mixed, at the steps that the Trainer logs, without synchronisation."""
        noted, self._noted, self._notes = self._noted, None, False
        self._batches += 1
        if self._batches == 1 and not self._has_mixed():
            self._require_train_mode(mixed_module(trainer, pl_module, self.module))
        every: int = trainer.log_every_n_steps if self.logs else 0  # type: ignore[attr-defined]
        if self.mixup is None or every == 0 or trainer.global_step % every:
            return
        plan = self.mixup.plan
        layer = -1 if plan is None else self.mixup.layers.index(plan.layer)
        values = {
            "mixup_lam": torch.tensor(1.0) if plan is None else plan.lam.mean(),
            "mixup_layer": torch.tensor(float(layer)),  # a number would be copied to the device
        }
        if noted is not None:
            with suppress(ValueError):  # the output is not class scores
                output, y, ignored = noted
                values["mixup_accuracy"] = self.target(y, output).accuracy(output, ignored)
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        several = sum(isinstance(each, ManifoldMixupCallback) for each in callbacks) > 1
        of = f"_{self.module}" if several else ""
        pl_module.log_dict({f"{name}{of}": value for name, value in values.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise if nothing was mixed."""
        self._unmixed.close()
        if self._batches and not self._has_mixed() and not estimates_statistics(trainer):
            raise RuntimeError(
                f"an epoch ended, but module={self.module!r} was never called in training. Name "
                f"the module that training_step calls, and call the module itself, not its forward "
                f"method."
            )

    def _has_mixed(self) -> bool:
        """Return whether a forward pass of this fit has drawn a plan."""
        return self.state_dict().get("step", 0) != self._begun_at

    def state_dict(self) -> dict[str, int]:
        """Return the state of the stream of plans."""
        return {} if self.mixup is None else self.mixup.state_dict()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Detach, and explain errors of this library in terms of the callback."""
        unmixed = ("targets were not mixed", "forward pass of the attached model")
        if any(words in str(exception) for words in unmixed):
            exception.add_note(
                f"For ManifoldMixupCallback: training_step must call module={self.module!r}, and "
                f"compute its loss with criterion={self.criterion!r}, an attribute of the "
                f"LightningModule, or with callback.target(y, output).loss(...)."
            )
        self._detach(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Detach."""
        self._detach(pl_module)

    def _detach(self, pl_module: LightningModule) -> None:
        self._unmixed.close()
        if self.mixup is not None:
            self.mixup.remove()
        if self._covered is not None:
            self._covered.uncover(pl_module)
        self._covered = self._noted = self._fitted = None
        _ATTACHED.discard(self)


# Lightning's own key belongs to these names, so that checkpoints of old versions have it.
_DEFAULT = {"module": "model", "criterion": "criterion"}
# Callbacks whose fit has not ended.
_ATTACHED: weakref.WeakSet[ManifoldMixupCallback] = weakref.WeakSet()


def _output_and_target(*args: Any, **named: Any) -> tuple[Any, Any]:
    """Return the output and target of a criterion's call; None for those that are not found."""
    output = args[0] if args else named.get("output", named.get("input"))
    return output, args[1] if len(args) > 1 else named.get("target")
