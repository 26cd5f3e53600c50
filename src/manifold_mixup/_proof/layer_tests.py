"""Test a layer: with λ = 0, mixing there permutes the outputs."""

import torch
from torch import Tensor

from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._inputs import named_inputs
from manifold_mixup._layers import is_input
from manifold_mixup._proof.bench import backward_from, plan_at
from manifold_mixup._proof.distance import ROUNDING
from manifold_mixup._proof.gradient_watch import GradientWatch
from manifold_mixup._proof.padding_tests import PaddingTests
from manifold_mixup._proof.report import LayerProof, Verdict
from manifold_mixup._proof.unmixed import Unmixed

# A λ so near to 0, and one so near to 1, that only a discontinuity can change the outputs.
_BARELY = 1e-30
_NEARLY = 1 - 1e-6


class LayerTests:
    """Tests of the layers of a model, in order of execution.

    Args:
        unmixed: the outputs of the unmixed model.
    """

    def __init__(self, unmixed: Unmixed) -> None:
        self.unmixed = unmixed
        self.bench = unmixed.bench
        self.padding = PaddingTests(unmixed) if self.bench.padding else None
        # The λ at which the outputs must be those of λ = 0, or nearly so.
        self.smallest_lam = _BARELY if self.padding and self.bench.thin else 0.0
        # Whether all modules after a layer use the weights between λ = 0 and 1.
        self.weights_proven = False

    def prove(self, layer: str) -> LayerProof:
        """Test one layer."""
        try:
            path, error, verdict, reason = self._test_at_zero(layer)
            if verdict == "failed" and self.padding:
                reason = self.padding.why(path) or reason
            if verdict == "proven" and (fault := self._fault_between(layer)):
                verdict, reason = "failed", fault
        except NotTraceable as failed:
            return LayerProof(layer, "skipped", str(failed))
        except Exception as failed:  # from our hooks, or from the model on the mixed state
            of_booleans = "boolean" in str(failed).lower() and self._has_boolean_mask()
            reason = f"{type(failed).__name__}: {failed}"
            return LayerProof(layer, "failed", reason + of_booleans * _AS_INTEGERS)
        scale = self.unmixed.difference[path], self.unmixed.rounding[path]
        return LayerProof(layer, verdict, reason, error, *scale)

    def _has_boolean_mask(self) -> bool:
        inputs = named_inputs(self.bench.model, *self.bench.examples.inputs)
        return any(n == self.bench.padding.mask and t.dtype == torch.bool for n, t in inputs)

    def _test_at_zero(self, layer: str) -> tuple[str, float, Verdict, str]:
        """Test a layer at λ = 0; return the worst output, its error, the verdict and the reason."""
        unmixed, partners = self.unmixed, self.unmixed.partners
        path, error, lost = self._mix_at_zero(layer, unmixed.perm if partners is None else partners)
        verdict, reason = self._judge(path, error)
        if verdict == "proven" and lost and not self._loses_gradient(layer):
            return path, error, "failed", "no gradient flows back through the mixed state"
        if verdict == "proven" and partners is None and unmixed.plain:
            swapped = {path: end[unmixed.swap] for path, end in unmixed.plain.items()}
            with self.bench.run_pass(None, plan_at(layer, 0.0, unmixed.swap)) as mixed:
                other, another = self._worst(mixed, swapped, unmixed.swap)
            if another / unmixed.rounding[other] > error / unmixed.rounding[path]:
                path, error = other, another
            verdict, reason = self._judge(path, error)
        return path, error, verdict, reason

    def _mix_at_zero(self, layer: str, perm: Tensor) -> tuple[str, float, bool]:
        """Mix a layer by λ = 0.

        Args:
            layer: the layer.
            perm: the partners.

        Returns:
            The output that is farthest from its expected value; its error; and whether that is
            small, but no gradient reaches the layer.
        """
        expected = self.unmixed.permuted
        if perm is self.unmixed.partners:
            expected = {path: output[perm] for path, output in self.unmixed.plain.items()}
        watch = GradientWatch(layer)
        with self.bench.run_pass(None, plan_at(layer, self.smallest_lam, perm), watch) as mixed:
            path, error = self._worst(mixed, expected, perm)
            if error <= self._tolerance(path) and not is_input(layer):
                backward_from([mixed[path] for path in self.unmixed.permuted])
        return path, error, watch.lost

    def _worst(
        self, mixed: dict[str, Tensor], expected: dict[str, Tensor], perm: Tensor
    ) -> tuple[str, float]:
        """Return the output that is farthest from its expected value, and its error."""
        padding = self.bench.padding
        errors = {path: padding.error(mixed[path], end, perm) for path, end in expected.items()}
        path = max(errors, key=lambda path: errors[path] / self._tolerance(path))
        return path, errors[path]

    def _tolerance(self, path: str) -> float:
        """Return up to which error an output counts as equal."""
        rounding = ROUNDING * self.unmixed.rounding[path]
        return min(rounding, self.unmixed.visible_error(path)) if self.smallest_lam else rounding

    def _judge(self, path: str, error: float) -> tuple[Verdict, str]:
        output = f"the output {path!r}" if path else "the output"
        if error <= self._tolerance(path):
            return "proven", ""
        if self.unmixed.random_by_position:
            return "inconclusive", _DREW
        if error > self.unmixed.visible_error(path):
            why = self.unmixed.why_not_permuted()
            return "failed", f"{output} is not permuted correctly: {why}"
        return "inconclusive", f"the error of {output} is larger than rounding"

    def _loses_gradient(self, layer: str) -> bool:
        """Return whether the model itself detaches the layer's state, even without mixing."""
        watch = GradientWatch(layer)
        with self.bench.run_pass(None, None, watch) as outputs:
            backward_from([outputs[path] for path in self.unmixed.permuted])
        return watch.lost

    def _fault_between(self, layer: str) -> str:
        """Return what is wrong between λ = 0 and 1, although both ends are right."""
        if (
            self.padding
            and not self.smallest_lam
            and self._jumps(layer, _BARELY, self.unmixed.permuted)
        ):
            return UNION
        if self.padding and not self.weights_proven:  # layers come in order
            if fault := self.padding.misread(layer):
                return fault
            self.weights_proven = True
        if self.unmixed.uses_lookups and self._jumps(layer, _NEARLY, self.unmixed.plain):
            return _IDS
        return ""

    def _jumps(self, layer: str, lam: float, expected: dict[str, Tensor]) -> bool:
        """Return whether outputs jump at ``lam``, which is very near the λ of ``expected``."""
        perm = self.unmixed.perm
        partners = perm if lam < 0.5 else torch.arange(len(perm), device="cpu")
        with self.bench.run_pass(None, plan_at(layer, lam, perm)) as mixed:
            return any(
                self.bench.padding.error(mixed[path], end, partners)
                > self.unmixed.visible_error(path)
                for path, end in expected.items()
            )


_DREW = (
    "the model draws from Python's or NumPy's generator by the position of an example in the "
    "batch, so outputs cannot be compared. Choose a layer after that, or turn the randomness off "
    "for the proof"
)
_IDS = (
    "the outputs jump as soon as a small share of a partner is mixed in: the state holds category "
    "ids, which forward casts to integers that choose rows. Mix a layer after that lookup"
)
_AS_INTEGERS = (
    ". A mixed boolean mask is additive, and a module computes with it. Pass the mask as integers, "
    "mask.long(), and let the module take mask.bool()"
)
UNION = (
    "the outputs jump as soon as a small share of a partner is mixed in: a module does not use the "
    "mixed mask as weights, but treats every nonzero entry as fully valid. Pass it an additive "
    "mask, or a mask of weights"
)
