"""Whether the rows of a batch are examples of their own, by numbers, unmixed.

Recordings show operators by which rows may meet (`_meet`), or that a model runs with one batch size
only. Then the model is run on a few rows: reordered, they must give the same outputs reordered, and
no row may care what stands in another.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._aside import NotTraceable, aside, in_own_context
from manifold_mixup._inputs import map_inputs
from manifold_mixup._neutral import bind, operator_name
from manifold_mixup._plan import MixPlan
from manifold_mixup._prove import Inconclusive, OrderMatters, prepare
from manifold_mixup._stage import staged
from manifold_mixup._stand_ins import plain


@in_own_context
def meeting_rows(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    lead: str,
    outputs: Sequence[str] | None,
    doubts: Sequence[str],
) -> str:
    """Return why the rows of the batch are no examples of their own; nothing if they are.

    Args:
        model: the model; nothing of it changes.
        args: positional arguments of its forward, one batch.
        kwargs: keyword arguments of its forward.
        lead: name of the input whose dimension 0 is the batch.
        outputs: paths of what the loss reads of the model's output; None means all of it.
        doubts: operators by which rows may meet; none if the model runs with one batch size only,
            so that nothing could be seen.
    """
    try:
        with aside(model), staged(model) as stage:
            args, kwargs = map_inputs(lambda _, tensor: plain(tensor), model, args, kwargs)
            bench = prepare(stage, args, kwargs, _plainly, None, outputs, lead)
            met = bench.couples(FrozenNorms())
    except OrderMatters as error:
        return _reason(str(error), doubts)
    except (Inconclusive, NotTraceable) as error:
        return "" if doubts else _ONE_SIZE.format(error)
    return (
        _reason("the outputs of an example change with the other examples", doubts) if met else ""
    )


@contextmanager
def _plainly(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: MixPlan | None
) -> Iterator[Any]:
    yield model(*args, **kwargs)


def _reason(seen: str, doubts: Sequence[str]) -> str:
    through = f", through {doubts[0]}" if doubts else ""
    return (
        f"the rows of dimension 0 are no examples of their own: {seen}{through}. {CAUSES}. If they "
        f"are meant to meet, set check=False"
    )


CAUSES = (
    "Where dimension 0 is time, put the batch first (batch_first=True in recurrent and attention "
    "layers); give a single example a batch dimension; of the nodes of a graph, attach to the "
    "module that comes after their pooling"
)
_ONE_SIZE = (
    "the model runs with this one batch size only, so that its structure does not show whether "
    "rows are examples, and numbers do not either ({}). Give an example of the size it takes, or "
    "set check=False"
)


class FrozenNorms(TorchDispatchMode):
    """Let batch normalisation take fixed statistics: by its own, all examples meet."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
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
