"""Check numerically, without mixing, that the rows of a batch are independent examples.

This is needed if a recording shows operators by which rows may interact (see
`manifold_mixup._structure.interactions`), or if the model runs with one batch size only. The model
then runs on a few rows: reordered rows must give reordered outputs, and no row may depend on
another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.neutral import bind, operator_name
from manifold_mixup._dry_run.side_effects import in_own_context
from manifold_mixup._dry_run.stage import staged_with
from manifold_mixup._plan import MixPlan
from manifold_mixup._proof.distance import ROUNDING, distance
from manifold_mixup._proof.errors import Inconclusive, OrderMatters
from manifold_mixup._proof.graphs import Graphs
from manifold_mixup._proof.prepare import Task, prepare
from manifold_mixup._proof.unmixed import Unmixed


@in_own_context
def why_rows_depend(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    lead: str,
    outputs: Sequence[str] | None,
    doubts: Sequence[str],
) -> str:
    """Return why the rows of the batch are not independent examples; empty if they are.

    Args:
        model: the model; it does not change.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        lead: name of the input whose dimension 0 is the batch.
        outputs: paths of the outputs that the loss reads; None means all outputs.
        doubts: operators by which rows may interact; empty if the model runs with one batch size
            only.
    """
    try:
        with _prepared(model, args, kwargs, lead, outputs) as unmixed:
            interact = _rows_interact(unmixed)
    except OrderMatters as error:
        return _reason(str(error), doubts)
    except (Inconclusive, NotTraceable) as error:
        return "" if doubts else _ONE_SIZE.format(error)
    return (
        _reason("the outputs of an example change with the other examples", doubts)
        if interact
        else ""
    )


@in_own_context
def why_graphs_depend(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    lead: str,
    outputs: Sequence[str] | None,
) -> str:
    """Return why the rows of the outputs are not the graphs of a batch; empty if they are.

    If other features of a graph's nodes change its row of the outputs, and no other row, these are.

    Args:
        model: the model; it does not change.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        lead: name of the input that holds the graph of each node.
        outputs: paths of the outputs that the loss reads; None means all outputs.
    """
    try:
        with _prepared(model, args, kwargs, lead, outputs, graphs=True) as unmixed:
            count = unmixed.bench.examples.count
            for graph in (0, count // 2, count - 1):
                changed = _changed_rows(unmixed, graph)
                if not changed[graph]:
                    return _NOT_ITS_OWN.format(lead, graph)
                if int(changed.sum()) > 1:
                    return _GRAPHS_DEPEND.format(lead, graph)
    except (Inconclusive, NotTraceable) as error:
        return _NO_GRAPHS.format(lead, error)
    return ""


_NOT_ITS_OWN = (
    "the input {!r} looks like the graph of each node, but other features of the nodes of graph {} "
    "do not change its row of the outputs"
)
_GRAPHS_DEPEND = (
    "the graphs that {!r} numbers are not independent examples: other features of the nodes of "
    "graph {} change the outputs of other graphs. A norm over all nodes of a batch does that; "
    "pass it the batch vector. If they are meant to interact, set check=False"
)
_NO_GRAPHS = (
    "the input {!r} looks like the graph of each node, but it cannot be shown that the rows of the "
    "outputs are these graphs: {}"
)


@contextmanager
def _prepared(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    lead: str,
    outputs: Sequence[str] | None,
    *,
    graphs: bool = False,
) -> Iterator[Unmixed]:
    """Set the model up on stand-ins, to run without mixing; the errors are those of `prepare`."""
    with staged_with(model, args, kwargs) as (stage, args, kwargs):
        yield prepare(stage, args, kwargs, Task(_run_unmixed, None, outputs, lead, graphs=graphs))


def _rows_interact(unmixed: Unmixed) -> bool:
    """Return whether an example's outputs depend on the other examples."""
    bench = unmixed.bench
    bench.extra_context = FrozenNorms()
    plain = bench.unmixed()
    for index in (0, bench.examples.count - 1):
        others = torch.arange(bench.examples.count, device="cpu")
        others[index] = others[index - 1]
        kept = others != others[index]
        changed = bench.unmixed(others)
        for path in unmixed.plain:
            if distance(changed[path][kept], plain[path][kept]) > _tolerance(unmixed, path):
                return True
    return False


def _changed_rows(unmixed: Unmixed, graph: int) -> Tensor:
    """Return which rows of the outputs change if the nodes of one graph do."""
    bench = unmixed.bench
    if not isinstance(bench.examples, Graphs):
        raise TypeError("the examples are no graphs")
    bench.extra_context = FrozenNorms()
    plain, rows = bench.unmixed(), torch.zeros(bench.examples.count, dtype=torch.bool)
    with bench.run_pass(None, None, call=bench.examples.replaced(bench.model, graph)) as changed:
        for path in unmixed.plain:
            change = (changed[path].detach() - plain[path]).abs().flatten(1).amax(1).cpu()
            rows |= ~(change <= _tolerance(unmixed, path))
    return rows


def _tolerance(unmixed: Unmixed, path: str) -> float:
    """Return the largest change of an output that counts as none."""
    return max(ROUNDING * unmixed.rounding[path], unmixed.visible_error(path))


@contextmanager
def _run_unmixed(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: MixPlan | None
) -> Iterator[Any]:
    yield model(*args, **kwargs)


def _reason(seen: str, doubts: Sequence[str]) -> str:
    through = f", through {doubts[0]}" if doubts else ""
    return (
        f"the rows of dimension 0 are not independent examples: {seen}{through}. {CAUSES}. If they "
        f"are meant to interact, set check=False"
    )


CAUSES = (
    "If dimension 0 is time, set batch_dim=1, or put the batch first (batch_first=True in "
    "recurrent and attention layers). If there is a single example, give it a batch dimension. If "
    "the rows are nodes of a graph, they exchange messages, and only graphs can be mixed, in a "
    "layer after the pooling"
)
_ONE_SIZE = (
    "the model runs with this one batch size only, so neither its structure nor a numerical check "
    "can show that rows are independent examples ({}). Pass an example of the batch size it needs, "
    "or set check=False. Nodes of a graph, which exchange messages, are not independent"
)


class FrozenNorms(TorchDispatchMode):
    """Make batch normalisation use fixed statistics, because batch statistics mix all examples."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator, with fixed statistics if it is batch normalisation."""
        kwargs = dict(kwargs or {})
        if "batch_norm" not in operator_name(func) or "backward" in operator_name(func):
            return func(*args, **kwargs)
        named = bind(func, args, kwargs)
        x = named["input"]
        mean, var = named.get("running_mean"), named.get("running_var")
        mean = x.new_zeros(x.shape[1]) if mean is None else mean
        var = x.new_ones(x.shape[1]) if var is None else var
        eps = named.get("eps", named.get("epsilon"))
        normal = torch.ops.aten.native_batch_norm.default
        made = normal(x, named["weight"], named["bias"], mean, var, False, 0.0, eps)
        more = len(func._schema.returns) - len(made)
        return (*made, *(x.new_empty(0, dtype=torch.uint8) for _ in range(more)))
