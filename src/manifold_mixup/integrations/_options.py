"""Split an adapter's options into those for `ManifoldMixup` and those for `wrap`."""

from typing import Any

_OF_WRAP = ("targets", "with_target", "with_output", "whole")


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of `ManifoldMixup` and those of its `wrap`."""
    of_wrap = {name: options[name] for name in _OF_WRAP if name in options}
    return {name: options[name] for name in options if name not in of_wrap}, of_wrap
