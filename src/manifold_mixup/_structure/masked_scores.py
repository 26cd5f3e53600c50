"""Find how a module applies a mask to attention scores, and whether a mixed mask can do the same.

A mixed mask multiplies what attention gives a position by a weight: the logarithm of the weight is
added to the scores. It is right only as the last thing that happens to them, once.
"""

from manifold_mixup._structure.flow import Flow, data_sources, side_colour
from manifold_mixup._structure.recorded import Call

_SUMS = {"add", "add_", "sub", "sub_", "baddbmm"}
_SCALES = {"mul", "mul_", "div", "div_"}
_FILLS = {"masked_fill", "masked_fill_", "where"}
# Operators between scores and their softmax.
_ON_SCORES = _SUMS | _SCALES | _FILLS | {"_unsafe_view"}
_SOFTMAX = {"_softmax", "_safe_softmax", "_log_softmax", "logsumexp"}
_FLEX = "flex_attention"
# What fused attention, which may run as a sum and a softmax, itself makes of a boolean mask.
_MADE_BY_FUSED = _FILLS | {"logical_not", "bitwise_not"}
# What makes an additive mask of weights.
_MADE_OF_WEIGHTS = {"log", "clamp", "clamp_min"}


class MaskedScores:
    """The scores, in one call of a module, that meet what a mask alone says.

    Args:
        call: the call.
        source: index of the mask among the inputs.
        flow: the flow of the recording.
        boolean: whether the call receives the mask as booleans.
    """

    def __init__(self, call: Call, source: int, flow: Flow, *, boolean: bool) -> None:
        self._flow, self._alone = flow, side_colour(source)
        self._inside = range(call.first, min(call.last, len(flow.nodes)))
        self._made = _MADE_BY_FUSED if boolean else _MADE_OF_WEIGHTS
        self._met = {number for number in self._inside if self._meets(number)}
        ways = {number: self._way(number) for number in self._met}
        computed = [number for number in self._met if self._is_computed(number)]
        #: Whether scores meet what the module computes from the mask, and a softmax follows each
        #: time. What is added as it is given can simply be given as weights.
        self.forbids = bool(computed) and all(ways[number] is not None for number in computed)
        #: Why a mixed mask cannot do the same; empty if it can.
        self.fault = next(filter(None, ways.values()), "") or self._flex()

    def _flex(self) -> str:
        """Say that scores are forbidden by a function, if they are."""
        for number in self._inside:
            node = self._flow.nodes[number]
            masks = [self._flow.colours[parent] == self._alone for parent in node.parents]
            if node.operator == _FLEX and any(masks):
                return (
                    f"gives it to {_FLEX}, whose functions read it as yes or no: pass it to "
                    f"scaled_dot_product_attention as attn_mask"
                )
        return ""

    def _meets(self, number: int) -> bool:
        node = self._flow.nodes[number]
        masks = (*node.conditions, *self._added(number))
        data = bool(data_sources(self._flow.colours[number]))
        return data and any(self._flow.colours[mask] == self._alone for mask in masks)

    def _added(self, number: int) -> tuple[int, ...]:
        node = self._flow.nodes[number]
        return (*node.biases, *(node.parents if node.operator in _SUMS else ()))

    def _is_computed(self, number: int) -> bool:
        """Return whether the module computes what is filled or added from the mask."""
        node = self._flow.nodes[number]
        return any(self._flow.colours[mask] == self._alone for mask in node.conditions) or any(
            self._flow.colours[mask] == self._alone and not self._is_given(mask)
            for mask in self._added(number)
        )

    def _is_given(self, number: int) -> bool:
        """Return whether the call was given a value, perhaps in another form."""
        node = self._flow.nodes[number]
        if number not in self._inside:
            return True
        if node.kind != "move" and node.operator not in self._made:
            return False
        parents = [parent for parent in (*node.parents, *node.codes) if self._flow.colours[parent]]
        return all(map(self._is_given, parents))

    def _way(self, number: int) -> str | None:
        """Follow scores to their softmax; return None if there is none, or what is wrong."""
        if self._flow.nodes[number].biases:
            return ""  # fused attention, with its softmax
        faults = {number: ""}
        for later in range(number + 1, self._inside.stop):
            node = self._flow.nodes[later]
            found = [faults[parent] for parent in node.parents if parent in faults]
            if not found:
                continue
            if node.operator in _SOFTMAX:
                return max(found)
            if node.operator in _ON_SCORES or node.kind == "move":
                faults[later] = max(*found, self._fault(later))
        return None

    def _fault(self, number: int) -> str:
        if self._flow.nodes[number].operator in _SCALES:
            return "scales attention scores after it masks them: scale them before"
        return "masks attention scores twice: mask them once" if number in self._met else ""
