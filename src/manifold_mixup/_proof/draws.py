"""Make draws from Python's and NumPy's global generators the same for every example.

Augmentations inside a model (the masked spans of wav2vec 2.0) draw for one example after another.
If every draw starts from the same state, what is drawn does not depend on the example's position.
"""

import functools
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# The first number is so large that no layer is dropped (LayerDrop).
_KEEPS = 0.95
_OWN = {"seed", "getstate", "setstate", "get_state", "set_state"}


@contextmanager
def same_draws() -> Iterator[None]:
    """Let every draw inside the context start from the same state of its generator."""
    with ExitStack() as stack:
        generator = random._inst
        stack.callback(_patched(random, generator, generator.setstate, _python_state()))
        if (numpy := sys.modules.get("numpy.random")) is not None:
            own = numpy.get_state.__self__
            stack.callback(_patched(numpy, own, numpy.set_state, _numpy_state()))
        yield


def _patched(
    module: Any, generator: object, set_state: Callable[[Any], None], state: Any
) -> Callable[[], None]:
    """Replace the module's functions that draw, and return a function that puts them back."""
    drawing = {
        name: function
        for name, function in vars(module).items()
        if getattr(function, "__self__", None) is generator and name not in _OWN
    }

    thread = threading.get_ident()

    def from_start(draw: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == thread:  # the draws of a thread that loads data are its own
                set_state(state)
            return draw(*args, **kwargs)

        return drawn

    vars(module).update({name: from_start(function) for name, function in drawing.items()})
    return lambda: vars(module).update(drawing)


@functools.cache
def _python_state() -> Any:
    first = (random.Random(seed) for seed in itertools.count())
    states = ((generator.getstate(), generator.random()) for generator in first)
    return next(state for state, number in states if number > _KEEPS)


@functools.cache
def _numpy_state() -> Any:
    first = map(sys.modules["numpy.random"].RandomState, itertools.count())
    states = ((generator.get_state(), generator.random_sample()) for generator in first)
    return next(state for state, number in states if number > _KEEPS)
