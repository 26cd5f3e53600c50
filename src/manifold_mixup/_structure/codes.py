"""Numbers that are names: category ids in a floating matrix, which forward casts to integers."""

from collections.abc import Iterable, Sequence

from manifold_mixup._structure.record import Node


def coded(nodes: Sequence[Node], inputs: Iterable[int]) -> set[int]:
    """Find the floating values that hold ids of the inputs: cast to integers, they choose rows.

    A spike, a level of a quantiser, a nearest code or a routed expert is none of those: it is
    computed from a value, not the value itself.

    Args:
        nodes: the values of a recorded pass.
        inputs: places of those that are its inputs.
    """
    moved = _moved(nodes, set(inputs))
    found = set()
    for cast in _casts(nodes):
        found |= _origins(nodes, cast, moved)
    return found


def _moved(nodes: Sequence[Node], inputs: set[int]) -> set[int]:
    """List the values that are inputs or parts of them, as they were given."""
    moved = set(inputs)
    for number, node in enumerate(nodes):
        if node.kind in ("move", "cast") and moved.intersection(node.parents):
            moved.add(number)
    return moved


def _casts(nodes: Sequence[Node]) -> set[int]:
    """List the casts to integers by which, or by what is computed from them, rows are chosen."""
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
    """List the floating values on the way from an input to a cast."""
    found: set[int] = set()
    open_ = {parent for parent in nodes[cast].parents if parent in moved}
    while open_:
        number = open_.pop()
        found.add(number)
        if nodes[number].kind == "move":
            open_ |= {parent for parent in nodes[number].parents if parent in moved} - found
    return found
