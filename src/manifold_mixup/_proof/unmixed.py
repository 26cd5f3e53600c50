"""What the unmixed model computes, with which mixed passes are compared."""

from collections.abc import Iterable
from contextlib import nullcontext, suppress

from torch import Tensor

from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._proof.bench import Bench, plan_at
from manifold_mixup._proof.distance import ROUNDING, TELLING, difference, distance, floor
from manifold_mixup._proof.errors import Inconclusive, NotFinite, OrderMatters
from manifold_mixup._proof.lookups import Lookups
from manifold_mixup._proof.partners import (
    most_different_padding,
    shifted,
    single_pass_partners,
    swapped,
)


class Unmixed:
    """The outputs of an unmixed model, plain and with reordered examples.

    Args:
        bench: the model, set up to run.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.perm = shifted(bench.examples.count)
        self.swap = swapped(bench.examples.count)
        self.kept = ""  # what the model keeps for each example besides its inputs
        # Whether random numbers treat examples differently by position.
        self.random_by_position = False
        # Partners by which each layer is then tested in one pass; None if two orders do that.
        self.partners: Tensor | None = None
        self.uses_lookups = False  # whether values of the examples, cast to integers, chose rows
        # Outputs of the plain pass whose rows are the examples.
        self.plain: dict[str, Tensor] = {}
        # For every output that differs between examples, its value if the examples are reordered.
        self.permuted: dict[str, Tensor] = {}
        self.rounding: dict[str, float] = {}
        self.difference: dict[str, float] = {}

    def calibrate(self, layer: str | None = None) -> None:
        """Measure how the unmixed model responds to reordered examples.

        Args:
            layer: a layer to be tested, at which they may be reordered once more in the same pass.

        Raises:
            Inconclusive: its outputs do not distinguish examples.
            OrderMatters: its outputs depend on the order of the examples.
        """
        try:
            self._calibrate(layer)
        except OrderMatters:
            # The model may pair examples at random, and then any pairs will do.
            self.bench.neutral = Neutral(reorders=False)
            self._calibrate()

    def _calibrate(self, layer: str | None = None) -> None:
        self.plain, self.permuted, self.rounding, self.difference = {}, {}, {}, {}
        plain, reordered = self._run_in_both_orders(layer)
        rows = {
            path: self._has_rows(path, output, reordered[path]) for path, output in plain.items()
        }
        again = plain if self._is_deterministic(plain, reordered, rows) else self.bench.unmixed()
        for path, output in plain.items():
            rounding = max(floor(output), distance(again[path], output))
            if rows[path]:
                self._calibrate_rows(path, output, reordered[path], rounding)
            elif (stays := distance(reordered[path], output)) > TELLING * rounding:
                # The batch is at another dimension; otherwise all orders give the same output.
                self._expect(path, reordered[path], rounding, stays)
        if not self.plain:
            raise Inconclusive(_ALIKE if any(rows.values()) else _NO_ROWS)

    def _calibrate_rows(
        self, path: str, output: Tensor, reordered: Tensor, unsteady: float
    ) -> None:
        """Measure how an output whose rows are the examples responds to reordered ones.

        Args:
            path: the output.
            output: its value in the plain pass.
            reordered: its value with reordered examples.
            unsteady: how much two plain passes differ, at least by rounding.
        """
        if not bool(output.isfinite().all()):
            raise NotFinite("the outputs are not finite with redrawn parameters")
        largest = ROUNDING * floor(output)
        order = distance(reordered, self._in_expected_order(output))
        # Random numbers may depend on the position in the batch; that is not an interaction.
        self.random_by_position |= self.bench.drew_outside_torch and order > largest
        order = 0.0 if self.bench.drew_outside_torch else order
        rounding, nearest = max(unsteady, order), difference(output, self.perm)
        if nearest == 0:
            return  # a constant output is not informative, but the others may be
        if nearest < TELLING * rounding:
            if unsteady > largest:
                raise Inconclusive(_UNSTEADY)
            if order > largest:
                raise OrderMatters("even unmixed, the outputs depend on the order of the examples")
            raise Inconclusive(f"the outputs of different examples differ by only {nearest:.1e}")
        self.plain[path] = output
        self._expect(path, output[self.perm], rounding, nearest)

    def calibrate_from(self, with_equal_states: "Unmixed", kept: Iterable[str]) -> None:
        """Calibrate by the same model, in which what it keeps is the same for all examples.

        Args:
            with_equal_states: the outputs of that model.
            kept: what the model keeps, in words.

        Raises:
            Inconclusive: no output has a row for each example.
        """
        self.kept = ", ".join(filter(None, kept)) or "a tensor"
        self.bench.neutral = with_equal_states.bench.neutral
        plain = self.bench.unmixed()
        for path in with_equal_states.plain:
            self.plain[path] = plain[path]
            self._expect(
                path,
                plain[path][self.perm],
                with_equal_states.rounding[path],
                with_equal_states.difference[path],
            )
        if not self.plain:
            raise Inconclusive(_KEPT.format(self.kept))

    def _run_in_both_orders(self, layer: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs of the examples and of the reordered ones, and note look-ups."""
        self.bench.extra_context = first = Lookups()
        plain = self.bench.unmixed()
        self.bench.extra_context = second = Lookups()
        reordered = None if layer is None else self._reordered_twice(plain, layer)
        if reordered is None:
            self.bench.extra_context = second = Lookups()
            reordered = self.bench.unmixed(self.perm)
        else:
            count, padding = self.bench.examples.count, self.bench.padding
            self.partners = single_pass_partners(
                count, *(most_different_padding(padding.valid) if padding else (0, 1))
            )
        self.bench.extra_context, self.uses_lookups = nullcontext(), first.differs(second)
        return plain, reordered

    def _is_deterministic(
        self, plain: dict[str, Tensor], reordered: dict[str, Tensor], rows: dict[str, bool]
    ) -> bool:
        """Return whether reordered examples show that the model draws no random numbers."""
        return (
            self.bench.thin  # a refusal tells for sure
            and not self.bench.drew_outside_torch
            and all(
                distance(reordered[path], self._in_expected_order(output))
                <= ROUNDING * floor(output)
                if rows[path]
                else distance(reordered[path], output) <= TELLING * floor(output)
                for path, output in plain.items()
            )
        )

    def _reordered_twice(self, plain: dict[str, Tensor], layer: str) -> dict[str, Tensor] | None:
        """Reorder the examples, and two of them once more at a layer.

        Returns:
            The outputs, with these two put back; None if they are not those of the plain pass.
        """
        bench, reordered = self.bench, {}
        if bench.of_graphs or any(len(end) != bench.examples.count for end in plain.values()):
            return None
        with (
            suppress(Exception),
            bench.run_pass(self.perm, plan_at(layer, 0.0, self.swap)) as mixed,
        ):
            for path, output in plain.items():
                wanted, made = output[self.perm], mixed[path].detach()[self.swap]
                padding = wanted - bench.padding.zero_padding(wanted, self.perm)
                reordered[path] = padding + bench.padding.zero_padding(made, self.perm)
                if not distance(reordered[path], wanted) <= ROUNDING * floor(output):
                    return None
        return reordered if len(reordered) == len(plain) and not bench.drew_outside_torch else None

    def _in_expected_order(self, output: Tensor) -> Tensor:
        """Return what an output must be if the examples are reordered; graphs are not."""
        return output if self.bench.of_graphs else output[self.perm]

    def _has_rows(self, path: str, output: Tensor, reordered: Tensor) -> bool:
        """Return whether the rows of an output are the examples, not equally many by chance."""
        graphs, rows = self.bench.of_graphs, self.bench.examples.count
        if output.ndim and graphs and len(output) != rows:
            raise Inconclusive(_NO_GRAPHS.format(path and f" {path!r}", tuple(output.shape)))
        if output.ndim == 0 or len(output) != rows:
            return False
        rounding = ROUNDING * floor(output)
        same_order = distance(reordered, output) <= rounding
        return graphs or not same_order or distance(reordered, output[self.perm]) <= rounding

    def visible_error(self, path: str) -> float:
        """Return from which error on an output differs more than by rounding."""
        return self.difference[path] / TELLING

    def why_not_permuted(self) -> str:
        """Return why the outputs of a mixed pass are not permuted."""
        return _KEPT.format(self.kept) if self.kept else "something bypasses the layer"

    def _expect(self, path: str, permuted: Tensor, rounding: float, difference: float) -> None:
        self.permuted[path] = permuted
        self.rounding[path] = rounding
        self.difference[path] = difference


_NO_ROWS = "no floating point output has the batch as its dimension 0"
_ALIKE = "all examples give the same outputs. Pass examples that differ"
_UNSTEADY = "two unmixed passes differ: the model draws random numbers that cannot be neutralised"
_KEPT = (
    "it depends on what the model keeps for each example besides its inputs, {}, which is not "
    "mixed. Mix a layer after that is read, or begin each batch without it. Or, if a batch "
    "continues the sequences of the last one, mix all of them by one plan, in mixup.using(plan), "
    "and set check=False"
)
_NO_GRAPHS = (
    "the output{} of shape {} has no row for each graph, and would stay unmixed. Name the outputs "
    "that the loss reads, as in outputs='0'"
)
