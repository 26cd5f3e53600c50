"""The permutation proof: with λ = 0, mixing at a valid layer permutes the model's outputs.

It does not use the model's structure, so it independently checks the results of `find_layers`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.side_effects import in_own_context, old_objects_kept
from manifold_mixup._dry_run.stage import staged_with
from manifold_mixup._inputs import leading, named_inputs
from manifold_mixup._progress import watched
from manifold_mixup._proof.bench import RunModel
from manifold_mixup._proof.errors import Inconclusive
from manifold_mixup._proof.kept import states_of_examples
from manifold_mixup._proof.layer_tests import UNION, LayerTests
from manifold_mixup._proof.prepare import Task, prepare
from manifold_mixup._proof.report import LayerProof, Report, Verdict
from manifold_mixup._proof.thin import large_parameters
from manifold_mixup._proof.unmixed import Unmixed

# What the weights are multiplied by where, without norms, they make scores too far apart.
_SMALLER = 0.5


@in_own_context
def prove(
    model: nn.Module,
    names: Sequence[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    run: RunModel,
    mask: str | None = None,
    outputs: Sequence[str] | None = None,
    lead: str | None = None,
    *,
    graphs: bool = False,
    last_token: bool = False,
    progress: bool = False,
) -> Report:
    """Test whether mixing at each layer mixes the outputs and nothing else.

    With λ = 0 all outputs of the mixed pass must be those of the plain pass, permuted: ``f(x | λ=0,
    perm at k) == f(x)[perm]``. Their gradient must reach the layers before the mix, if it does so
    without mixing. An output with the batch at another dimension must equal ``f(x[perm])``. The
    model is tested in train mode, with randomness neutralised and parameters redrawn, in float64 if
    its code allows.

    Args:
        model: the model; it runs on stand-ins and does not change.
        names: the layers to test.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        run: ``with run(model, args, kwargs, plan) as output`` runs a forward pass mixed by
            ``plan``, or unmixed if it is None. Inside the context, backward may recompute parts of
            the pass.
        mask: name of the padding mask that is mixed too, if there is one. The examples then differ
            in length, and just above λ = 0 the outputs must be close to those at 0. They are not if
            a module reads the union of both masks instead of the mixed mask.
        outputs: paths of the outputs that the loss reads; None means all outputs.
        lead: name of the input whose dimension 0 is the batch; None takes the likeliest.
        graphs: whether the examples are graphs, and ``lead`` holds the graph of each node.
        last_token: whether ids choose positions of the output, so that padding must have its ids.
        progress: whether to show a progress line.

    Returns:
        A verdict on every layer.
    """
    try:
        with old_objects_kept(), staged_with(model, args, kwargs) as (stage, args, kwargs):
            task = Task(run, mask, outputs, lead, graphs=graphs, last_token=last_token)
            rows = len(leading(list(named_inputs(stage.model, args, kwargs)), lead))
            kept = rows, set() if graphs else states_of_examples(stage, rows)
            ready = functools.partial(prepare, stage, args, kwargs, kept=kept)
            proofs = _proofs(names, ready, task, large_parameters(stage.model), progress)
            return Report(tuple(proofs[name] for name in names))
    except (Inconclusive, NotTraceable) as error:
        return Report(tuple(_unsuitable(name, error) for name in names))


def _proofs(
    names: Sequence[str],
    ready: Callable[..., Unmixed],
    task: Task,
    large: set[int],
    progress: bool,
) -> dict[str, LayerProof]:
    """Test layers; those that fail in a way that the drawn parameters may explain, once more.

    Args:
        names: the layers.
        ready: sets the model up, given a task.
        task: how to run it.
        large: parameters, by id, that may be thin.
        progress: whether to show a progress line.
    """
    tests = LayerTests(ready(task, large=large, layer=next(iter(names), None)))
    layers = watched(names, doing="proving", show=progress)
    proofs = {name: tests.prove(name) for name in layers}
    unproven = [name for name in names if proofs[name].verdict != "proven"]
    if unproven and tests.bench.thin:  # nothing is refused because parameters were thin
        proofs |= {proof.layer: proof for proof in _attempt(unproven, lambda: ready(task))}
    jumping = [name for name in names if proofs[name].reason == UNION]
    if jumping:  # outputs jump, too, if attention scores are too far apart for any mask
        smaller = _attempt(jumping, lambda: ready(replace(task, gain=_SMALLER)))
        proofs |= {proof.layer: proof for proof in smaller if proof.verdict == "proven"}
    return proofs


def _attempt(names: Sequence[str], ready: Callable[[], Unmixed]) -> list[LayerProof]:
    """Test layers of a model that is set up once more; if that fails, say so of each."""
    try:
        tests = LayerTests(ready())
    except (Inconclusive, NotTraceable) as error:
        return [_unsuitable(name, error) for name in names]
    return [tests.prove(name) for name in names]


def _unsuitable(name: str, error: Inconclusive | NotTraceable) -> LayerProof:
    verdict: Verdict = "inconclusive" if isinstance(error, Inconclusive) else "skipped"
    return LayerProof(name, verdict, str(error))
