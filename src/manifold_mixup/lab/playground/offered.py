"""The ways of mixing that suit two spirals, and why the others do not."""

from manifold_mixup.lab.recipes.ways import CUTTING, WAYS, Way


def offered() -> tuple[Way, ...]:
    """Return the ways of mixing that suit points in the plane, starting with no mixup."""
    return tuple(way for way in WAYS.values() if not _obstacle(way))


def left_out() -> dict[str, list[str]]:
    """Return the methods of the other ways, by the reason why they do not suit the points."""
    methods: dict[str, list[str]] = {}
    for way in WAYS.values():
        if why := _obstacle(way):
            methods.setdefault(why, []).append(way.method)
    return methods


def about(method: str) -> str:
    """Return a line of description of a method on the page."""
    descriptions = {way.method: way.about for way in offered()}
    return descriptions.get(method, "A regulariser without mixing, as in Figure 2 of the paper.")


def refusal(name: str) -> str:
    """Return why a way of mixing is not offered under a name, or "" if there is no such way.

    Args:
        name: a way's method, or its name on the command line.
    """
    sought = name.casefold()
    for key, way in WAYS.items():
        if sought not in (key, way.method.casefold()):
            continue
        if why := _obstacle(way):
            return f"{way.method} is not offered: {why}."
        if way.at == "nowhere":
            return f"The first network always learns with {way.method}."
        return f"There is no method {name!r}. Did you mean {way.method!r}?"
    return ""


def _obstacle(way: Way) -> str:
    """Return why a way does not suit two spirals of equal size, or "" if it does."""
    makes = way.makes
    if makes.get("blend") in CUTTING:
        return "points in the plane have no positions, such as pixels"
    if makes.get("label") == "remix":
        return "both classes have the same number of points, so neither is rarer"
    if makes.get("pairs") == "near":
        return "the targets are classes, not numbers"
    if makes.get("ict_weight"):
        return "every point has a label"
    return ""
