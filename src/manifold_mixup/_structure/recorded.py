"""A recorded forward pass: values, and the modules that receive and return them."""

import sys
from dataclasses import dataclass, field
from typing import Any

from manifold_mixup._structure.interactions import Interaction
from manifold_mixup._structure.operation import PRODUCTS
from manifold_mixup._structure.operators import Operator, View


@dataclass(slots=True)
class Node:
    """A value.

    Attributes:
        parents: the nodes it was computed from.
        indices: the parents that only chose rows of a table (token ids in an embedding).
        codes: the parents that chose rows in any way.
        kind: ``"move"``, a copy of the values of its parents; ``"cast"``, floating values cast to
            integers; ``"range"``, row numbers; ``"blank"``, memory that is not yet written;
            ``"gradient"``, a derivative taken inside forward; ``"unseen"``, a value that no
            operator explains; otherwise empty.
        integer: whether its dtype is an integer type.
        call: index of the innermost call that was running; -1 in the model's own code.
        over: the node that was overwritten in place; -1 for a new tensor.
        operator: name of the operator that computed it; empty for what no operator computed.
        biases: the parents that the operator adds to attention scores.
        learned: whether it is a parameter.
        flops: floating point operations of the operator, for the first of its results.
        conditions: the parents that choose where it fills in another value; empty if that is a
            number that forbids nothing.
    """

    parents: tuple[int, ...] = ()
    indices: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    kind: str = ""
    integer: bool = False
    call: int = -1
    over: int = -1
    operator: str = ""
    biases: tuple[int, ...] = ()
    learned: bool = False
    flops: int = 0
    conditions: tuple[int, ...] = ()

    @property
    def product(self) -> bool:
        """Whether it is a product of matrices, or a convolution."""
        return self.operator in PRODUCTS


@dataclass(slots=True)
class Leaf:
    """A tensor in a nested value at one moment: its node is the value that it held then."""

    path: str
    shape: tuple[int, ...]
    floating: bool
    node: int
    boolean: bool = False
    view: View | None = None  # None if it cannot be described

    @property
    def quoted(self) -> str:
        """Its path for a message, after a space; empty for a value that is not nested."""
        return f" {self.path!r}" if self.path else ""


@dataclass(slots=True)
class Run:
    """One run of one layer.

    Attributes:
        layer: name of the layer.
        number: how many runs of the layer had ended before.
        leaves: its output.
        flops: floating point operations done when it ended.
        steps: number of operators run when it ended.
        weights: number of parameters used when it ended.
        checkpointed: whether an activation checkpoint called it.
        in_front: whether its output is taken before the hooks of others on it, because they only
            read it; what they keep is then mixed too.
        function: name of the `torch.autograd.Function` that runs it, and has a backward of its own;
            empty if there is none.
    """

    layer: str
    number: int
    leaves: list[Leaf]
    flops: int
    steps: int
    weights: int
    checkpointed: bool
    in_front: bool = False
    function: str = ""


@dataclass(slots=True)
class Call:
    """One call of one layer, and its arguments.

    Attributes:
        layer: name of the layer.
        steps: number of operators run when it began.
        enclosing_calls: indices of the calls around it.
        masks: the arguments that depend on side inputs alone, each as a value of its own; a path
            begins with 0 for positional and 1 for keyword arguments.
        given: all tensors among the arguments, as the values that the caller holds.
        first: number of the first node that it made.
        last: number of the first node after it.
        returned: its output.
    """

    layer: str
    steps: int
    enclosing_calls: tuple[int, ...]
    masks: list[Leaf]
    given: list[Leaf] = field(default_factory=list)
    first: int = 0
    last: int = sys.maxsize
    returned: list[Leaf] = field(default_factory=list)


@dataclass
class Trace:
    """A recorded forward pass, with its nodes and operators in execution order."""

    batch: int
    nodes: list[Node] = field(default_factory=list)
    inputs: list[Leaf] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    outputs: list[Leaf] = field(default_factory=list)
    first_computed: int = 0  # the first node that is no input and no tensor of the model
    interactions: list[Interaction] = field(default_factory=list)
    functions: list[Any] = field(default_factory=list)  # all operators that ran
    ranged: set[int] = field(default_factory=set)  # the steps that chose rows by their numbers
    operators: list[Operator] = field(default_factory=list)
    flops: int = 0
    steps: int = 0
    weights: int = 0
    called: bool = False  # whether the hooks of the model itself ran
