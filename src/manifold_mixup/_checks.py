"""The checks before a layer is mixed: by the model's structure, and numerically."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from torch import Tensor

from manifold_mixup._attach.attachment import Attachment
from manifold_mixup._batch_first import BatchFirstCall, called_batch_first
from manifold_mixup._dry_run.errors import NotTraceable, Sharded
from manifold_mixup._find import check_layers, present, rows_of
from manifold_mixup._inputs import named_inputs
from manifold_mixup._layers import unwrap
from manifold_mixup._proof.report import LayerProof, Report, require_proven
from manifold_mixup._structure.row import InputRow, LayerRow, together
from manifold_mixup._structure.table import LayerTable, remark
from manifold_mixup._warn import warn

_MOST_VALUES = 8
"""Values of an argument that are inspected, such as the names of tasks."""
_MOST_INSPECTIONS = 16
"""Batches that are inspected, if each has inputs that none before had."""


class CheckState(Enum):
    """The state of the checks."""

    PENDING = auto()  # until the first training batch
    PASSED = auto()
    SKIPPED = auto()  # check=False, or the model cannot be inspected


class Checks:
    """The checks of one attachment.

    Args:
        attachment: the attachment to check; it receives the findings.
        mask: name of the padding mask among the model's inputs; None for none.
        outputs: paths of the outputs that the loss reads; None for all.
        enabled: whether to refuse layers that cannot be mixed.
        batch_dim: the dimension of the inputs that holds the batch.
    """

    def __init__(
        self,
        attachment: Attachment,
        *,
        mask: str | None,
        outputs: Sequence[str] | None,
        enabled: bool,
        batch_dim: int = 0,
    ) -> None:
        self._attachment = attachment
        self._mask, self._outputs, self._enabled = mask, outputs, enabled
        self._batch_dim = batch_dim
        self.state = CheckState.PENDING if enabled else CheckState.SKIPPED
        self._inspected = False
        self._seen_inputs: set[str] = set()  # names of inputs of the batches that passed
        self._inspections = 0  # how often a batch had new ones
        # Vectors that were alike for all examples, such as lengths, if a state may be uneven.
        self._alike: set[str] | None = None
        # What a model that runs with one batch size only keeps of each example, and what differed.
        self._kept: set[str] | None = None
        self._plain = True  # whether all batches were one argument each
        # Where the model kept tensors before the first batch; None once the second was looked at.
        self._kept_before: set[tuple[int, str]] | None = set()
        self._any_mixed = False  # whether a batch was mixed
        self._stateful = False  # whether what the model keeps may be read in this batch

    def needs_inspection(
        self,
        inputs: Iterable[tuple[str, Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        rows: int,
        training: bool,
    ) -> bool:
        """Return whether this batch must be inspected before it is mixed.

        The first one must, one with an input that none before had, and the second if the model has
        kept something of the first: what forward does with it may go around a layer. So must one
        whose lists or arrays first have different values for its ``rows``, or whose lengths do, and
        one with a word or a flag that none before had.
        """
        padding = self._attachment.padding
        if not padding.known and padding.unknown(inputs):
            return True
        if not training or self.state is CheckState.SKIPPED:
            return False
        for name, _ in inputs:
            if name not in self._seen_inputs and self._is_new(name):
                return True
        alone = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        if not (alone and self._plain) and self._says_more(inputs, args, kwargs, rows):
            return True
        return self._kept_before is not None and self._keeps_more()

    def look_again(
        self, layers: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        """Check the layers after a pass that ran other operators than those before.

        Raises:
            ValueError: a layer cannot be mixed when these operators run.
        """
        sizes = self._attachment.passes.sizes
        if self.state is CheckState.SKIPPED:
            sizes.inspected()
            return tuple(layers)
        try:
            return self.first_batch(layers, args, kwargs)
        finally:
            sizes.refused()  # unless it was inspected

    def _says_more(
        self,
        inputs: Iterable[tuple[str, Tensor]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        rows: int,
    ) -> bool:
        """Return whether something first differs between the examples of this batch."""
        from manifold_mixup._said import (
            alike,
            flags,
            varying,
            varying_kept,
        )  # not to mix one tensor

        model = unwrap(self._attachment.model)
        if any(map(self._is_new, varying(model, args, kwargs, rows, self._seen_inputs))):
            return True
        if any(map(self._is_new_flag, flags(model, args, kwargs))):
            return True
        if self._kept is not None and not varying_kept(model, rows) <= self._kept:
            return True
        vectors = [(name, tensor) for name, tensor in inputs if name in (self._alike or ())]
        return len(alike(vectors, rows)) < len(vectors)

    def _keeps_more(self) -> bool:
        """Return whether the first batch left something that the second may read, as a state."""
        if not self._any_mixed:
            self._any_mixed = True
            return False
        before, self._kept_before = self._kept_before, None
        self._stateful = before is not None and not self._places_kept() <= before
        return self._stateful

    def _places_kept(self) -> set[tuple[int, str]]:
        """Return where the model keeps tensors."""
        from manifold_mixup._kept import places  # only two batches need it

        return places(self._attachment.model)

    def _is_new_flag(self, flag: str) -> bool:
        """Return whether no batch had this value of an argument, which has few values so far."""
        if flag in self._seen_inputs:
            return False
        name = flag.partition("=")[0] + "="
        if sum(seen.startswith(name) for seen in self._seen_inputs) < _MOST_VALUES:
            return self._is_new(flag)
        return False  # a file's name, for instance

    def _is_new(self, name: str) -> bool:
        """Return whether no batch had an input of this name, or in the same list."""
        if _of_list(name) not in self._seen_inputs:
            self._inspections += 1
            if self._inspections <= _MOST_INSPECTIONS:
                return True
            if self._inspections == _MOST_INSPECTIONS + 1:
                warn(_CHANGING.format(name, _MOST_INSPECTIONS))
        self._seen_inputs.add(name)
        return False

    def first_batch(
        self, layers: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        """Check the layers on a batch, and return them in order of execution.

        Raises:
            TypeError: an input to be mixed is not floating point.
            ValueError: a layer cannot be mixed.
            RuntimeError: a layer was replaced, or the modules that read the mask cannot be found.
        """
        from manifold_mixup._dry_run.snapshot import taken_once  # only a check needs it

        attachment, self._any_mixed = self._attachment, True
        for reason in attachment.layer_runs.placement.replaced(layers).values():
            raise RuntimeError(f"{reason}.")
        with taken_once():
            return self._check(layers, args, kwargs)

    def _check(
        self, layers: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, ...]:
        """Inspect the model on a batch, and test its layers as `first_batch` does."""
        attachment, mask = self._attachment, self._mask_in(args, kwargs)
        try:
            with attachment.visible():
                table = self._inspect(layers, args, kwargs, mask)
        except NotTraceable as error:
            if attachment.passes.sizes.changed and self.state is CheckState.PASSED:
                attachment.passes.sizes.inspected()  # it could be before, as before it was sharded
                return tuple(layers)
            self.state = CheckState.SKIPPED
            if mask is not None:
                raise NotTraceable(
                    f"the modules that read {mask!r} cannot be found: {error}"
                ) from error
            _warn_unchecked(layers, error)
            return tuple(layers)
        with attachment.visible():
            layers = self.accept(table, layers, args, kwargs)
        attachment.register_readers()
        return layers

    def accept(
        self,
        table: LayerTable,
        layers: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[str, ...]:
        """Store the findings about the layers, and return the layers in order of execution.

        Raises:
            TypeError: an input to be mixed is not floating point.
            ValueError: a layer cannot be mixed.
        """
        mask = self._mask_in(args, kwargs)
        before = tuple(layers)
        again = self.state is CheckState.PASSED  # then some layers may not run for its inputs
        layers = present(table, layers) if again else before
        layers = check_layers(table, layers) if self._enabled else layers
        self._attachment.passes.checked |= self._enabled
        self._record(table, layers)
        self._attachment.grids.require_mixable(layers)
        if self._enabled:
            self._require_proofs(table, layers, args, kwargs, mask)
        self._attachment.passes.sizes.inspected()
        self._attachment.padding.known |= mask is not None
        self.state = CheckState.PASSED if self._enabled else CheckState.SKIPPED
        if self._enabled and self._kept_before is not None:
            self._kept_before = self._places_kept()
        rows = rows_of(table, layers).values()
        uneven = any(getattr(row, "folded", False) for row in rows)
        self._remember(args, kwargs, uneven=uneven, once=table.once)
        return before if again else layers  # plans are drawn by their order

    def _remember(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, uneven: bool, once: bool
    ) -> None:
        """Remember what a batch that passed has shown of each example.

        Args:
            args: positional arguments of the model's forward.
            kwargs: keyword arguments of the model's forward.
            uneven: whether examples may have different numbers of rows in a state.
            once: whether the model runs with one batch size only, as if it kept something of each.
        """
        from manifold_mixup._said import alike, flags, varying, varying_kept  # only a check

        attachment, model = self._attachment, unwrap(self._attachment.model)
        inputs = named_inputs(model, args, kwargs)
        front = attachment.batch_first(inputs) if self._batch_dim else inputs
        rows = attachment.rows_in(attachment.leading(front))
        said = *varying(model, args, kwargs, rows), *flags(model, args, kwargs)
        for name in (*dict(inputs), *said):
            self._seen_inputs |= {name, _of_list(name)}
        now = alike(inputs, rows) if uneven else set[str]()
        self._alike = {name for name in now if self._alike is None or name in self._alike}
        self._plain = self._plain and len(args) + len(kwargs) == 1 and not once
        self._kept = varying_kept(model, rows) | (self._kept or set()) if once else self._kept

    def _require_proofs(
        self,
        table: LayerTable,
        layers: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mask: str | None,
    ) -> None:
        """Raise ValueError unless numbers prove the layers where the structure does not suffice."""
        rows = rows_of(table, layers)
        unusual = [name for name, row in rows.items() if not row.plain]
        if mask is not None or table.once or table.graphs or self._batch_dim:
            report = self._prove(layers, args, kwargs, mask)
            if mask is not None:
                _require_proof(report, mask, table)
            if table.once or table.graphs or self._batch_dim:
                require_proven(report, graphs=table.graphs)
        elif self._stateful:
            require_proven(self._prove(layers, args, kwargs, mask), states=True)
        elif unusual:
            _require_unusual(self._prove(unusual, args, kwargs, mask), rows)
        elif self._attachment.passes.sizes.changed:
            _require_none_failed(self._prove(layers, args, kwargs, mask))

    def verify(
        self,
        layers: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        progress: bool,
    ) -> Report:
        """Prove all layers numerically; see `ManifoldMixup.verify`."""
        attachment, mask = self._attachment, self._mask_in(args, kwargs)
        replaced = attachment.layer_runs.placement.replaced(layers)
        new = not self._inspected or (mask is not None and not attachment.padding.known)
        with attachment.visible():
            if new and not replaced:
                with suppress(NotTraceable):
                    self._record(self._inspect(layers, args, kwargs, mask), layers)
                    if attachment.attached:
                        attachment.register_readers()  # what is proven is what trains
            in_place = [name for name in layers if name not in replaced]
            refused = {**attachment.grids.why_not_mixable(in_place), **replaced}
            in_place = [name for name in in_place if name not in refused]
            proofs = self._prove(in_place, args, kwargs, mask, progress=progress).layers
        proven = {proof.layer: proof for proof in proofs}
        return Report(tuple(proven.get(n) or LayerProof(n, "failed", refused[n]) for n in layers))

    def _inspect(
        self,
        layers: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mask: str | None,
    ) -> LayerTable:
        from manifold_mixup._inspect import inspect_model  # only a check needs it

        arguments = self._attachment.model, layers, args, kwargs, mask, self._outputs
        return inspect_model(*arguments, batch_dim=self._batch_dim)

    def _prove(
        self,
        layers: Sequence[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mask: str | None,
        *,
        progress: bool = False,
    ) -> Report:
        attachment = self._attachment
        with called_batch_first(attachment.model, args, kwargs, self._batch_dim, mask) as call:
            return self._prove_batch_first(layers, call, mask, progress=progress)

    def _prove_batch_first(
        self, layers: Sequence[str], call: BatchFirstCall, mask: str | None, *, progress: bool
    ) -> Report:
        from manifold_mixup._proof.prove import prove  # only a check needs it

        attachment, args, kwargs = self._attachment, call.args, call.kwargs
        rows = [attachment.row(name) for name in layers]
        last_token = any(row is not None and row.ends for row in rows)
        how = attachment.run_on_stage, mask, self._outputs, attachment.lead
        report = prove(
            attachment.model,
            list(layers),
            args,
            kwargs,
            *how,
            graphs=attachment.graphs,
            last_token=last_token,
            progress=progress,
        )
        proofs = {proof.layer: proof for proof in report.layers}
        # The structure does not show the order of folded rows: if one fails, the other is tried.
        for name in [name for name, proof in proofs.items() if proof.verdict != "proven"]:
            row = attachment.row(name)
            if isinstance(row, LayerRow) and row.folded:
                attachment.record_rows({name: row.grouped()})
                (again,) = prove(
                    attachment.model, [name], args, kwargs, *how, last_token=last_token
                ).layers
                proofs[name] = again if again.verdict == "proven" else proofs[name]
                attachment.record_rows({} if again.verdict == "proven" else {name: row})
        return Report(tuple(proofs[name] for name in layers))

    def _record(self, table: LayerTable, layers: Sequence[str]) -> None:
        attachment, rows = self._attachment, rows_of(table, layers)
        if self.state is CheckState.PASSED:  # what a batch showed stays true of others of its kind
            rows = {name: together(attachment.row(name), row) for name, row in rows.items()}
        else:
            attachment.lead, attachment.graphs = table.lead, table.graphs
            attachment.input_shapes = {row.name: row.shape[1:] for row in table.inputs}
        attachment.record_rows(rows)
        attachment.passes.output_dim = table.output_dim
        self._inspected = True

    def _mask_in(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Return the name of the mask if the batch has one."""
        inputs = named_inputs(unwrap(self._attachment.model), args, kwargs)
        return next((name for name, _ in inputs if name == self._mask), None)


def _of_list(name: str) -> str:
    """Return the name of an input that all items of a list share."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


_CHANGING = (
    "the batch has an input {!r} that none before had. {} batches with new inputs were inspected; "
    "this and later ones are mixed without. Pass what changes from batch to batch as a list or a "
    "tensor, or set check=False."
)


def _warn_unchecked(layers: Sequence[str], error: NotTraceable) -> None:
    way_out = (
        " To have them checked, pass example=(one batch) when attaching, before anything is "
        "sharded; or set check=False."
        if isinstance(error, Sharded)
        else " Set check=False to mix at them anyway."
    )
    warn(f"the layers {list(layers)} were not checked: {error}.{way_out}")


def _require_unusual(report: Report, rows: Mapping[str, LayerRow | InputRow]) -> None:
    """Raise ValueError unless the layers are proven with all that they carry."""
    if not report.ok:
        mixed = "; ".join(
            f"{proof.layer!r} {remark(rows[proof.layer])}"
            for proof in report.layers
            if proof.verdict != "proven"
        )
        raise ValueError(
            f"not every layer could be proven ({mixed}):\n{report}\nChoose other layers, or set "
            f"check=False to mix anyway."
        )


def _require_none_failed(report: Report) -> None:
    """Raise ValueError if a layer is proven not to be mixable any more."""
    if any(proof.verdict == "failed" for proof in report.layers):
        raise ValueError(
            f"the model runs other operators than it did when it was inspected, and not every "
            f"layer can be mixed now:\n{report}\nName layers that can be, or set check=False."
        )


def _require_proof(report: Report, mask: str, table: LayerTable) -> None:
    """Raise ValueError unless all layers are proven; a skipped layer is not."""
    given = f"with mask={mask!r} mixed too"
    if any(proof.verdict == "failed" for proof in report.layers):
        raise ValueError(
            f"{given}, not every layer can be mixed:\n{report}\n"
            f"A nonzero mask entry means valid; in a bool or integer mask whose name contains "
            f"'pad', it means padding."
            f"{table.without_mask()}"
        )
    if not report.ok:
        raise ValueError(
            f"{given}, it could not be proven that every layer can be mixed:\n{report}\n"
            f"Pass a batch on which the proof succeeds, or set check=False to mix anyway."
        )
