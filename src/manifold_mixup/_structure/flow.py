"""Find the cut points of a recorded forward pass: the values that everything passes through.

Every input has two colours. A value has an input's *data* colour if it was computed from the
input's data (floating point numbers, or table rows chosen by token ids). It has the *side* colour
if it depends on the input in another way (a mask). Colours are bits of an integer, so one sweep
over the nodes follows all of them.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from manifold_mixup._structure.recorded import Node


def data_colour(source: int) -> int:
    """Return the data colour of input number ``source``."""
    return 1 << (2 * source)


def side_colour(source: int) -> int:
    """Return the side colour of input number ``source``."""
    return 2 << (2 * source)


def data_sources(colours: int) -> list[int]:
    """List the inputs whose data colour is among ``colours``."""
    return [bit // 2 for bit in range(0, colours.bit_length(), 2) if colours >> bit & 1]


def side_sources(colours: int) -> list[int]:
    """List the inputs whose side colour is among ``colours``."""
    return data_sources(colours >> 1)


class Flow:
    """The flow of the inputs' colours through the values of a pass to its outputs.

    Args:
        nodes: the values, in execution order.
        starts: colours of the nodes that are inputs.
        outputs: nodes that the model returned.
    """

    def __init__(
        self, nodes: Sequence[Node], starts: dict[int, int], outputs: Collection[int]
    ) -> None:
        self.nodes = nodes
        self.outputs = list(outputs)
        self.starts = dict(starts)
        self.colours = self._forward()
        # For each node, the indices of the outputs that depend on it, as bits.
        self.reaches = self._backward_outputs()
        # For each node, those of its colours that reach an output through it.
        self.needed = self._backward_colours()
        self.total = _union(self.needed[output] for output in self.outputs)
        self._cover = {colour: self._covered(colour) for colour in _bits(self.total)}

    def bypassing(self, nodes: Collection[int]) -> int:
        """Return the colours that reach the outputs without passing ``nodes``."""
        needed = [node for node in nodes if self.needed[node]]
        if len(needed) != 1:
            return self._search(frozenset(needed))
        return sum(colour for colour, cover in self._cover.items() if cover[needed[0]])

    def _forward(self) -> list[int]:
        every = _union(self.starts.values()).bit_length()
        sides = _union(side_colour(source) for source in range(every))
        colours: list[int] = []
        for number, node in enumerate(self.nodes):
            mixed = _union(colours[parent] for parent in node.parents if parent not in node.indices)
            chosen = _union(colours[parent] for parent in node.indices)
            if mixed == 0 and chosen and chosen & ~sides == 0:
                # Ids chose rows of a table: these rows are data.
                chosen = chosen >> 1
                self.starts[number] = chosen
            colours.append(self.starts.get(number, 0) | mixed | chosen)
        return colours

    def _backward_outputs(self) -> list[int]:
        reaches = [0] * len(self.nodes)
        for index, output in enumerate(self.outputs):
            reaches[output] |= 1 << index
        for number in reversed(range(len(self.nodes))):
            for parent in self.nodes[number].parents:
                reaches[parent] |= reaches[number]
        return reaches

    def _backward_colours(self) -> list[int]:
        needed = [0] * len(self.nodes)
        for output in self.outputs:
            needed[output] = self.colours[output]
        for number in reversed(range(len(self.nodes))):
            for parent in self.nodes[number].parents:
                needed[parent] |= needed[number] & self.colours[parent]
        return needed

    def _covered(self, colour: int) -> list[int]:
        """Count, for every node, the edges of this colour that jump over it.

        The nodes are in execution order, and every counted edge lies on a path from an input to an
        output. So a path avoids a node if and only if one of its edges jumps over it.
        """
        steps = [0] * (len(self.nodes) + 1)
        for number in range(len(self.nodes)):
            if not self.needed[number] & colour:
                continue
            origins = [
                parent for parent in self.nodes[number].parents if self.needed[parent] & colour
            ]
            if self.starts.get(number, 0) & colour:
                origins.append(-1)
            _jump(steps, min(origins, default=number), number)
        last = max(self.outputs, default=-1)
        first_out = min((o for o in self.outputs if self.needed[o] & colour), default=last)
        _jump(steps, first_out, len(self.nodes))
        return list(accumulate(steps))

    def _search(self, without: frozenset[int]) -> int:
        """Return the colours of the outputs after the nodes ``without`` are removed."""
        alive = [0] * len(self.nodes)
        for number, node in enumerate(self.nodes):
            if number in without or not self.needed[number]:
                continue
            came = self.starts.get(number, 0) | _union(alive[parent] for parent in node.parents)
            alive[number] = came & self.colours[number]
        return _union(alive[output] for output in self.outputs)


def _jump(steps: list[int], start: int, end: int) -> None:
    """Cover every node strictly between ``start`` and ``end``."""
    if end - start > 1:
        steps[start + 1] += 1
        steps[end] -= 1


def _union(colours: Iterable[int]) -> int:
    union = 0
    for colour in colours:
        union |= colour
    return union


def _bits(colours: int) -> list[int]:
    return [1 << bit for bit in range(colours.bit_length()) if colours >> bit & 1]
