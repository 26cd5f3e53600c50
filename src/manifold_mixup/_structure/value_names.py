"""Name the values of a recorded pass for messages: where they come from, and what reads them."""

from collections import defaultdict

from manifold_mixup._structure.recorded import Call, Trace
from manifold_mixup._structure.row import named

_MODEL = -1  # in place of the number of a call: the model's own code


class ValueNames:
    """The names of the values of a pass.

    Args:
        trace: the recording.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._sources = {leaf.node: leaf.path for leaf in trace.inputs}
        self._shapes = {leaf.node: leaf.shape for leaf in trace.inputs}
        self._inside: dict[tuple[int, ...], list[Call]] = defaultdict(list)
        self._places: dict[int, str] = {}  # the same values cross many depths
        for call in trace.calls:
            self._inside[call.enclosing_calls].append(call)
            self._sources |= {leaf.node: call.layer for leaf in call.returned}
            self._shapes |= {leaf.node: leaf.shape for leaf in (*call.given, *call.returned)}

    def source(self, number: int) -> str:
        """Name the layer or input that a node comes from, or the module whose code computes it."""
        node = self._trace.nodes[number]
        if number in self._sources:
            return self._sources[number]
        if node.kind == "move" and node.parents:
            return self.source(node.parents[0])
        return self._module(node.call)

    def tensor(self, number: int) -> str:
        """Name a node by its source, with its shape if a module received or returned it."""
        shape = self._shapes.get(number)
        source = named(self.source(number))
        if self._maker(number) is not None:
            source = f"a value computed inside {source}" + ("," if shape else "")
        return source + (f" of shape {shape}" if shape else "")

    def is_kept(self, number: int, reader: int) -> bool:
        """Return whether a module computed a value that is read after it ended, but not returned.

        It keeps such a value as an attribute, for example.
        """
        maker = self._maker(number)
        return maker is not None and maker not in enclosing_calls(self._trace, reader)

    def place(self, reader: int) -> str:
        """Name the module whose code makes a node, and the modules that run before and after."""
        if reader not in self._places:
            calls = enclosing_calls(self._trace, reader)
            code = repr(self._module(calls[-1])) if calls else "the model"
            inside = self._inside[calls]
            before = [f"after {call.layer!r}" for call in inside if call.last <= reader][-1:]
            after = [f"before {call.layer!r}" for call in inside if call.first > reader][:1]
            self._places[reader] = " ".join([code, " and ".join(before + after)]).strip()
        return self._places[reader]

    def _module(self, call: int) -> str:
        """Name the module of a call; empty for the model itself."""
        return "" if call == _MODEL else self._trace.calls[call].layer

    def _maker(self, number: int) -> int | None:
        """Return the call in whose code a node is made, between other modules; None without."""
        node = self._trace.nodes[number]
        while number not in self._sources and node.kind == "move" and node.parents:
            number = node.parents[0]
            node = self._trace.nodes[number]
        return None if number in self._sources or node.call == _MODEL else node.call


def enclosing_calls(trace: Trace, reader: int) -> tuple[int, ...]:
    """List the calls that were running when a node was made, the outermost first.

    Args:
        trace: the recording.
        reader: the number of the node; that after the last one is an output of the model.
    """
    inside = trace.nodes[reader].call if reader < len(trace.nodes) else _MODEL
    return () if inside == _MODEL else (*trace.calls[inside].enclosing_calls, inside)
