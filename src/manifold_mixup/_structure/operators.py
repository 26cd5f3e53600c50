"""The operators of a pass, as what they read and made, and which of the dimensions correspond."""

import functools
import re
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from manifold_mixup._structure.operation import Operation

Pairs = tuple[tuple[int, int], ...]


class View(NamedTuple):
    """A tensor as a part of the memory of a node, in elements.

    Attributes:
        node: the node.
        shape: its shape.
        stride: its strides.
        start: the place of its first element.
    """

    node: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int = 0

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions along which its memory extends, the outermost first."""
        return _extended(self.shape, self.stride)

    def span(self, dim: int) -> tuple[int, int]:
        """Return the stride of a dimension, and that times its length."""
        return self.stride[dim], self.stride[dim] * self.shape[dim]


class Operator(NamedTuple):
    """One call of an operator.

    Attributes:
        name: its name.
        pointwise: whether it treats each element alone.
        reads: the tensors that its result depends on, in the order of its arguments.
        made: its results, and what it wrote into.
        along: the dimensions that it was given.
        keepdim: whether it keeps those as dimensions of length 1.
        normalized: the shape that it normalises over.
    """

    name: str
    pointwise: bool
    reads: tuple[View, ...]
    made: tuple[View, ...]
    along: tuple[int, ...]
    keepdim: bool
    normalized: int

    @property
    def base(self) -> str:
        """Its name without the underscore of an in-place operator."""
        return self.name.removesuffix("_")

    @property
    def product(self) -> bool:
        """Whether it multiplies its last two operands as matrices."""
        return self.base in _PRODUCTS and len(self.reads) > 1

    @property
    def attends(self) -> bool:
        """Whether it is scaled dot product attention."""
        return self.name.startswith("_scaled_dot_product") and len(self.reads) > 2

    @property
    def reduces(self) -> bool:
        """Whether it is a mean, a sum or similar along dimensions."""
        return self.name in _REDUCTIONS and bool(self.reads and self.along)

    @property
    def keeps(self) -> bool:
        """Whether the dimensions of its result are those of its operands."""
        return self.pointwise or self.base in _ALIGNED or self.name in ("cat", "stack")

    @property
    def reorders(self) -> bool:
        """Whether it changes the order of positions."""
        return self.base in ("roll", "flip")

    @property
    def recurrent(self) -> bool:
        """Whether it is a fused recurrent layer."""
        return "rnn" in self.name and len(self.reads) > 1

    @property
    def spatial(self) -> int:
        """Number of dimensions, the last ones, of its first operand that it slides over."""
        if not self.reads or not _SPATIAL.search(self.name):
            return 0
        ndim = len(self.reads[0].shape)
        found = _SIDES.search(self.name)
        return int(found[1]) if found else ndim - 2

    def pairs(self, number: int, made: View) -> Pairs:
        """Return which dimensions of an operand are which of a result; empty if that is unknown.

        Args:
            number: the operand, as its place in ``reads``.
            made: the result.
        """
        read = self.reads[number]
        if self.pointwise or self.base in _ALIGNED:
            return _from_the_right(read, made)
        if self.product:
            return self._factors(number, made)
        if self.name in _REDUCTIONS and number == 0:
            return self._kept(read, made)
        return self._named_pairs(number, made)

    def _named_pairs(self, number: int, made: View) -> Pairs:
        """Return the pairs of dimensions of an operator of its own kind."""
        whole = tuple((dim, dim) for dim in range(len(self.reads[number].shape)))
        if self.attends and made == self.made[0]:
            # The positions of the result are those of the query, its channels the value's.
            return {0: ((0, 0), (1, 1), (2, 2)), 2: ((0, 0), (1, 1), (3, 3))}.get(number, ())
        if self.recurrent and number == 0 and made == self.made[0]:
            return ((0, 0), (1, 1))
        if (self.name == "embedding" and number == 1) or self.name == "cat":
            return whole if len(whole) <= len(made.shape) else ()
        if self.name == "stack":
            at = self.along[0] % len(made.shape)
            return tuple((dim, dim + (dim >= at)) for dim, _ in whole)
        return ()

    def reduced(self) -> set[int]:
        """Return the dimensions of the first operand over which it reduces."""
        ndim = len(self.reads[0].shape)
        return {dim % ndim for dim in self.along} if ndim else set()

    def _kept(self, read: View, made: View) -> Pairs:
        gone = self.reduced()
        if not gone:
            return ()
        kept = [dim for dim in range(len(read.shape)) if dim not in gone]
        if self.keepdim:
            return tuple((dim, dim) for dim in kept)
        return tuple(zip(kept, range(len(made.shape)), strict=False))

    def _factors(self, number: int, made: View) -> Pairs:
        """Return the pairs of dimensions of a product of matrices."""
        read, last = self.reads[number], len(made.shape) - 1
        side = number - len(self.reads)
        if side == -2:
            return tuple((dim, dim) for dim in range(len(read.shape) - 1))
        if side == -1:
            batches = tuple((dim, dim) for dim in range(len(read.shape) - 2))
            return (*batches, (len(read.shape) - 1, last)) if len(read.shape) > 1 else ()
        return _from_the_right(read, made)  # what is added to the product


def operator(call: Operation, reads: Iterable[View], made: Iterable[View]) -> Operator:
    """Describe a call of an operator by its arguments."""
    named = (call.named or {}) if call.signature.shaped else {}
    along = named.get("dim", named.get("dims", ()))
    along = (along,) if isinstance(along, int) else tuple(along or ())
    return Operator(
        call.name,
        call.signature.pointwise,
        tuple(reads),
        tuple(made),
        along if all(type(dim) is int for dim in along) else (),
        bool(named.get("keepdim")),
        len(named.get("normalized_shape") or ()),
    )


def view(tensor: Tensor, node: int) -> View | None:
    """Describe a tensor as a part of a node's memory.

    None if it has no strides, as a sparse tensor, or if a functional transform, such as vmap, hides
    some of its dimensions. Then nothing is known of its positions.
    """
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return None
    try:
        return View(node, tensor.shape, tensor.stride(), int(tensor.storage_offset()))
    except (NotImplementedError, RuntimeError):
        return None


def views(tensors: Iterable[tuple[Tensor, int]]) -> list[View] | None:
    """Describe tensors and their nodes; None if one of them cannot be described."""
    found = []
    for tensor, node in tensors:
        described = view(tensor, node)
        if described is None:
            return None
        found.append(described)
    return found


@functools.lru_cache(maxsize=4096)  # most tensors of a model have one of a few forms
def _extended(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    extended = [dim for dim, n in enumerate(shape) if n > 1 and stride[dim]]
    return tuple(sorted(extended, key=lambda dim: -stride[dim]))


def _from_the_right(read: View, made: View) -> Pairs:
    shift = len(made.shape) - len(read.shape)
    if shift < 0:
        return ()
    return tuple((dim, dim + shift) for dim in range(len(read.shape)))


_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
_REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "logsumexp", "prod"}
_REDUCTIONS |= {"linalg_vector_norm", "norm"}
# Operators that slide over positions, or treat them alike for each channel.
_SPATIAL = re.compile(
    r"convolution|conv[123]d|pool[123]d|upsample|_pad[123]d|batch_norm|group_norm|grid_sampler"
)
_SIDES = re.compile(r"(?:pool|_pad|upsample\w*|sampler_)([123])d")
# Operators whose result has the dimensions of their operands, beside the pointwise ones.
_ALIGNED = {"clone", "_to_copy", "copy", "lift_fresh", "native_dropout", "_fused_dropout"}
_ALIGNED |= {"_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "logcumsumexp"}
_ALIGNED |= {"masked_fill", "glu", "constant_pad_nd", "roll", "flip"}
_ALIGNED |= {"native_layer_norm", "_fused_rms_norm", "native_group_norm", "native_batch_norm"}
_ALIGNED |= {"cudnn_batch_norm", "_native_batch_norm_legit", "_batch_norm_with_update"}
_ALIGNED |= {"_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training"}
_ALIGNED |= {"rrelu_with_noise", "log_sigmoid_forward", "_prelu_kernel"}
