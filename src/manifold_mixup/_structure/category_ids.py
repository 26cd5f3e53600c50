"""Category ids inside floating inputs, which forward casts to integers to look up rows."""

from collections.abc import Iterable, Sequence

from manifold_mixup._structure.recorded import Node


def category_id_nodes(nodes: Sequence[Node], inputs: Iterable[int]) -> set[int]:
    """Find the floating values that hold category ids: cast to integers, they choose rows.

    A spike, a quantiser level, a nearest code or a routed expert is not such a value: it is
    computed from an input, not the input itself.

    Args:
        nodes: the values of a recorded pass.
        inputs: indices of the nodes that are its inputs.
    """
    moved = _moved(nodes, set(inputs))
    found = set()
    for cast in _casts(nodes):
        found |= _origins(nodes, cast, moved)
    return found


def _moved(nodes: Sequence[Node], inputs: set[int]) -> set[int]:
    """List the values that are inputs or parts of inputs, unchanged."""
    moved = set(inputs)
    for number, node in enumerate(nodes):
        if node.kind in ("move", "cast") and moved.intersection(node.parents):
            moved.add(number)
    return moved


def _casts(nodes: Sequence[Node]) -> set[int]:
    """List the casts to integers whose result, or a value computed from it, chooses rows."""
    found = set()
    open_ = {code for node in nodes for code in node.codes if nodes[code].integer}
    seen = set(open_)
    while open_:
        number = open_.pop()
        if nodes[number].kind == "cast":
            found.add(number)
            continue
        fresh = {parent for parent in nodes[number].parents if nodes[parent].integer} - seen
        seen |= fresh
        open_ |= fresh
    return found


def _origins(nodes: Sequence[Node], cast: int, moved: set[int]) -> set[int]:
    """List the floating values between an input and a cast."""
    found: set[int] = set()
    open_ = {parent for parent in nodes[cast].parents if parent in moved}
    while open_:
        number = open_.pop()
        found.add(number)
        if nodes[number].kind == "move":
            open_ |= {parent for parent in nodes[number].parents if parent in moved} - found
    return found
