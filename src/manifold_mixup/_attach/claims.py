"""Track the outputs of a mixed pass: backward may use only those whose targets were mixed.

If the model returns one tensor with a graph, its node there has a hook. Of several, each becomes
an alias with a node of its own, and only a use of the returned tensor goes through that node. If
the model also returns a hidden state, the gradient of the logits flows through that state but not
through its alias.
"""

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef

from manifold_mixup import _autograd
from manifold_mixup._outputs import is_named
from manifold_mixup._plan import MixPlan
from manifold_mixup._storage import memory_of, storage_of
from manifold_mixup._tree import leaves, map_leaves


@dataclass(slots=True, eq=False, repr=False, match_args=False)
class Leaf:
    """One tensor of an output, with an autograd graph.

    Attributes:
        path: its path in the output.
        scalar: whether it is a single number for the whole batch.
        read_by_loss: whether the loss may read it, according to ``outputs=``.
        claimed: whether targets were mixed for it.
        views: leaves that are views of it, whose gradients also reach it.
        base: whether it is no output, but what outputs are views of.
    """

    path: str
    scalar: bool
    read_by_loss: bool
    claimed: bool = False
    views: tuple["Leaf", ...] = ()
    base: bool = False


class Watch:
    """What is known of a pass of which it is looked for what should be mixed and is not.

    Args:
        output: what the model returned.
        mixed: the numbers of nodes since the state was mixed: from, and up to.
        look: called when backward comes to the outputs.

    Attributes:
        values: copies of what was returned, by nodes, as far as it is small.
        losses: the numbers of nodes that wrapped criteria made.
    """

    def __init__(
        self, output: Any, mixed: tuple[int, int], look: Callable[["Outputs"], None]
    ) -> None:
        self.mixed = mixed
        self.look = weakref.WeakMethod(look)
        self.losses: list[tuple[int, int]] = []
        self.values = {
            _autograd.number_of(tensor): tensor.detach().clone()
            for _, tensor in leaves(output)
            if tensor.grad_fn is not None and tensor.numel() <= _SMALL
        }


class Outputs:
    """The tensors that a mixed pass returned.

    Args:
        plan: the plan of the pass; None if it was not mixed.
        loss_paths: paths of the outputs that the loss reads; None for all of them.
        exempt_scalars: whether a single number needs no claim if another output has one. Without a
            check of the layers, it may be a loss of labels that were passed to the model.
    """

    def __init__(
        self,
        plan: MixPlan | None,
        loss_paths: Sequence[str] | None = None,
        *,
        exempt_scalars: bool = False,
    ) -> None:
        self.plan = plan
        self.loss_paths = loss_paths
        self.exempt_scalars = exempt_scalars
        self.leaves: dict[int, Leaf] = {}  # by the sequence number of their node
        self.claimed = False  # whether all leaves are claimed
        # Without a gradient, and made of the inputs without the mixed layer: the examples' own.
        self.plain: list[Tensor] = []
        # By whom it is claimed for now, and the nodes; None means all leaves.
        self.provisional_claims: dict[object, Collection[int] | None] = {}
        self.watch: Watch | None = None  # if it is looked for what should be mixed and is not
        self.handed_out = False
        self.begin = 0  # the first sequence number of the pass

    def hand_out(self, output: Any, keep_alive: object, begin: int) -> Any:
        """Return the output, with hooks that notice if backward uses one of its tensors.

        Args:
            output: what the model returned.
            keep_alive: an object that must live as long as the graph.
            begin: the first sequence number of the pass.
        """
        self.handed_out, self.begin = True, begin
        if self.plan is None:  # plain targets are always right: only keep the pass alive
            for _, tensor in leaves(output):
                if tensor.grad_fn is not None:
                    tensor.register_hook(_keeping_alive(keep_alive))
            return output
        try:
            only = ("", output) if isinstance(output, Tensor) else _only_with_graph(output)
            if only is not None and self._watch_only(*only, keep_alive):
                return output
            return self._aliased(output, keep_alive)
        except Exception:  # the user's container cannot be rebuilt
            for path, tensor in leaves(output):
                if tensor.grad_fn is not None:
                    self._hook(path, tensor, keep_alive)
            return output

    def keep_plain(self, output: Any, paths: Collection[str]) -> None:
        """Keep the tensors at these paths that the mixed layer did not change, such as a mask."""
        found = [leaf for path, leaf in leaves(output) if path in paths]
        self.plain = [leaf for leaf in found if leaf.grad_fn is None]

    def _watch_only(self, path: str, tensor: Tensor, keep_alive: object) -> bool:
        """Put a hook on the node of the only tensor with a graph; return False if it cannot be.

        All that uses this tensor uses what the model returned, so it needs no alias. But the node
        of a view no longer takes part once something is written into it, and that of a tensor which
        the model only passes on is not the pass's own.
        """
        node = tensor.grad_fn
        if node is None or tensor._is_view() or _autograd.in_transform():
            return False
        number = node._sequence_nr()
        if number < self.begin:
            return False
        leaf, place = self._leaf(path, tensor), tensor.output_nr
        self.leaves[number] = leaf

        def check(grads: tuple[Tensor | None, ...], keep_alive: object = keep_alive) -> None:
            if grads[place] is not None:
                self.require_claim(leaf)

        node.register_prehook(check)
        return True

    def _aliased(self, output: Any, keep_alive: object) -> Any:
        if isinstance(output, Tensor):
            return output if output.grad_fn is None else self._alias("", output, keep_alive)
        known: dict[int, Tensor] = {}
        views = self._views(output, keep_alive)

        def alias(path: str, tensor: Tensor) -> Tensor:
            if tensor.grad_fn is None or id(tensor) in views:
                return tensor
            if id(tensor) not in known:  # one tensor at two paths is one leaf
                known[id(tensor)] = self._alias(path, tensor, keep_alive)
            return known[id(tensor)]

        return map_leaves(alias, output)

    def _views(self, output: Any, keep_alive: object) -> set[int]:
        """Put hooks on tensors that share memory with each other, and return their ids.

        Aliases would hide from autograd that writing into one changes the other.
        """
        sharing: dict[StorageWeakRef, dict[int, tuple[str, Tensor]]] = {}
        for path, tensor in leaves(output):
            storage = None if tensor.grad_fn is None else storage_of(tensor)
            if storage is not None:
                sharing.setdefault(storage, {}).setdefault(id(tensor), (path, tensor))
        views: set[int] = set()
        for same in sharing.values():
            if len(same) > 1:
                views.update(same)
                self._watch_views(list(same.values()), keep_alive)
        return views

    def _watch_views(self, same: list[tuple[str, Tensor]], keep_alive: object) -> None:
        for path, tensor in same:
            self._hook(path, tensor, keep_alive)
        for _, tensor in same:
            number = _autograd.number_of(tensor)
            views = [_autograd.number_of(other) for _, other in same if _reaches(other, number)]
            self.leaves[number].views = tuple(self.leaves[other] for other in views)

    def claim(self, nodes: Collection[int] | None = None) -> None:
        """Note that targets were mixed for the leaves with these nodes; None means all leaves."""
        if nodes is None or not self.handed_out:  # claimed while the pass is still running
            self.claimed = True
            return
        for node in nodes:
            if node in self.leaves:
                self.leaves[node].claimed = True

    def claim_provisionally(self, by: object, nodes: Collection[int] | None = None) -> None:
        """Note a claim that `withdraw_claim` can undo, by the same key."""
        self.provisional_claims[by] = None if not self.handed_out else nodes

    def withdraw_claim(self, by: object) -> None:
        """Undo the claims that `claim_provisionally` noted by this key."""
        self.provisional_claims.pop(by, None)

    def _is_claimed(self, leaf: Leaf) -> bool:
        if self.claimed or leaf.claimed:
            return True
        return any(
            nodes is None or any(self.leaves.get(number) is leaf for number in nodes)
            for nodes in self.provisional_claims.values()
        )

    def unclaimed(self) -> set[int]:
        """Return the nodes of the leaves for which no targets were mixed."""
        return {number for number, leaf in self.leaves.items() if not self._is_claimed(leaf)}

    def require_claim(self, leaf: Leaf) -> None:
        """Raise RuntimeError if no targets were mixed for a leaf that backward uses."""
        if not (leaf.read_by_loss or any(other.read_by_loss for other in leaf.views)):
            raise RuntimeError(_unnamed(leaf.path))
        if self.claimed or leaf.claimed or any(map(self._is_claimed, (leaf, *leaf.views))):
            if self.watch is not None and (look := self.watch.look()) is not None:
                look(self)
            return
        beside = any(self._is_claimed(one) and not one.scalar for one in self.leaves.values())
        if not (leaf.scalar and self.exempt_scalars and beside):
            layer = "" if self.plan is None else self.plan.layer
            raise RuntimeError(_unclaimed(leaf.path, layer, beside=beside))

    def _alias(self, path: str, tensor: Tensor, keep_alive: object) -> Tensor:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            handed = tensor.view_as(tensor)  # functional transforms reject such a Function
            self._hook(path, handed, keep_alive)
            return handed
        leaf = self._leaf(path, tensor)
        handed = _HandOut.apply(tensor, self, leaf, keep_alive)
        self.leaves[_autograd.number_of(handed)] = leaf
        return handed  # type: ignore[no-any-return]

    def _hook(self, path: str, tensor: Tensor, keep_alive: object) -> None:
        leaf = self._leaf(path, tensor)
        self.leaves[_autograd.number_of(tensor)] = leaf

        def check(grad: Tensor, keep_alive: object = keep_alive) -> None:
            self.require_claim(leaf)

        tensor.register_hook(check)
        if tensor._is_view() and not _autograd.in_transform():
            self._watch_base(leaf, tensor, keep_alive)

    def _watch_base(self, leaf: Leaf, view: Tensor, keep_alive: object) -> None:
        """Put a hook on the node that made the base of a view, for writes into the base.

        Such a write takes the nodes of the views out of the graph, and their hooks with them.
        """
        node = None if view._base is None else view._base.grad_fn
        if node is None or node._sequence_nr() < self.begin:
            return
        number, version, memory = node._sequence_nr(), view._version, view.detach()
        known = self.leaves.setdefault(
            number, Leaf(leaf.path, leaf.scalar, leaf.read_by_loss, base=True)
        )
        known.read_by_loss |= known.base and leaf.read_by_loss

        def check(grads: Any, keep_alive: object = keep_alive) -> None:
            if memory._version != version:
                self.require_claim(self.leaves[number])

        node.register_prehook(check)

    def _leaf(self, path: str, tensor: Tensor) -> Leaf:
        scalar = tensor.ndim == 0 or (tensor.numel() == 1 and not self._has_one_row())
        return Leaf(path, scalar, self.loss_paths is None or is_named(path, self.loss_paths))

    def _has_one_row(self) -> bool:
        return self.plan is not None and self.plan.batch == 1


def _only_with_graph(output: Any) -> tuple[str, Tensor] | None:
    """Return the path and the tensor if a container has one tensor with a graph."""
    made = [(path, tensor) for path, tensor in leaves(output) if tensor.grad_fn is not None]
    return made[0] if len(made) == 1 else None


class _HandOut(torch.autograd.Function):
    """The identity, which requires a claim when a gradient flows back through it.

    The result shares memory and version counter with the tensor but is not a view of it. So
    in-place writes by a criterion are still detected, and the gradient still flows through this
    node.
    """

    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, outputs: Outputs, leaf: Leaf, keep_alive: object
    ) -> Tensor:
        ctx.outputs, ctx.leaf, ctx.keep_alive = outputs, leaf, keep_alive
        ctx.set_materialize_grads(False)
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if grad is not None:
            ctx.outputs.require_claim(ctx.leaf)
        return grad, None, None, None


_SMALL = 2**24
"""Elements of an output that is kept for a comparison."""
_FEW = 16
"""Outputs that are remembered before it is asked which are still in use.

A few, because the garbage collector runs when many more objects were made than were dropped.
"""


class MemoryIndex:
    """Maps memory to the output it belongs to, so that a detached tensor can be recognised."""

    def __init__(self) -> None:
        # The memory of a tensor, its output, and its node. Searched only if there is no graph.
        self._known: list[tuple[weakref.ref[UntypedStorage], Outputs, int | None]] = []
        self._limit = _FEW

    def note(self, output: Any, outputs: Outputs) -> None:
        """Remember the memory of an output's tensors while it is in use."""
        known = self._known
        tensors = [("", output)] if isinstance(output, Tensor) else leaves(output)
        for _, tensor in tensors:
            memory = memory_of(tensor)
            if memory is not None:
                node = tensor.grad_fn
                number = None if node is None else node._sequence_nr()
                known.append((weakref.ref(memory), outputs, number))
        if len(known) > self._limit:
            # A tensor that lives long, such as a parameter, may be returned by every pass.
            alive = [(memory(), of) for memory, of, _ in known]
            latest = {id(memory): of for memory, of in alive if memory is not None}
            entries = zip(alive, known, strict=True)
            self._known = [one for (memory, of), one in entries if latest.get(id(memory)) is of]
            self._limit = max(_FEW, 2 * len(self._known))

    def of(self, value: Any) -> list[tuple[Outputs, set[int]]]:
        """List the outputs, with their nodes, whose memory holds a value's detached tensors.

        Tensors with a graph are left out: a graph, as of a reentrant checkpoint, is more reliable
        than memory.
        """
        detached = (tensor for _, tensor in leaves(value) if tensor.grad_fn is None)
        found = (self._latest(memory_of(tensor)) for tensor in detached)
        return [one for one in found if one is not None]

    def _latest(self, memory: UntypedStorage | None) -> tuple[Outputs, set[int]] | None:
        """Return the latest output in this memory, and the nodes of its tensors there."""
        same = [entry for entry in self._known if memory is not None and entry[0]() is memory]
        if not same:
            return None
        _, outputs, _ = same[-1]
        return outputs, {node for _, of, node in same if of is outputs and node is not None}


def _keeping_alive(keep_alive: object) -> Callable[[Tensor], None]:
    """Return a tensor hook that only keeps an object alive."""

    def hook(grad: Tensor, keep_alive: object = keep_alive) -> None:
        pass

    return hook


def _reaches(tensor: Tensor, number: int) -> bool:
    """Return whether a tensor was computed from the result of the node with this number."""
    met: set[int] = set()

    def note(node: int) -> bool:
        met.add(node)
        return node == number

    _autograd.search([tensor], number, note)
    return number in met and _autograd.number_of(tensor) != number


def _unnamed(path: str) -> str:
    return (
        f"backward used the model output {path!r}, which outputs= does not name, so it was not "
        f"checked that everything it depends on is mixed. Name it in outputs= as well, or remove "
        f"it from the loss."
    )


def _unclaimed(path: str, layer: str, *, beside: bool) -> str:
    message = (
        f"backward reached the output{path and f' {path!r}'} of a forward pass that mixed the "
        f"hidden state at {layer!r}, but its targets were not mixed. Compute the loss with "
        f"mixup.wrap(criterion) or mixup.target(y, output)."
    )
    no_target = (
        "For an output without a target (the mean and variance of a VAE, a regularization term), "
        "call mixup.target(None, output) before backward."
    )
    if beside:
        return f"{message} Each output that a loss reads needs its own targets. {no_target}"
    return (
        f"{message} A loss inside the model (labels= passed to it) must move out; for the "
        f"Transformers Trainer, manifold_mixup.integrations.transformers.add_to_trainer does this, "
        f"unless a subclass of Trainer overrides compute_loss: then wrap the criterion there. "
        f"For a backward pass without a target, such as a gradient penalty before the loss, call "
        f"mixup.target(y, output) first or run the forward pass in mixup.paused(). {no_target}"
    )
