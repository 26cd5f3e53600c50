"""Import what a model's code imports in a dry run as if there were no dry run."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def imports_outside(*contexts: Context) -> Iterator[None]:
    """Run the code of modules that the body imports for the first time in contexts of their own.

    Such modules stay imported, so the tensors that they make must be real.

    Args:
        contexts: return the contexts in which a module runs.
    """
    finder = _Finder(contexts)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:  # what was imported may have changed the list
            sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds modules as the other finders do, and runs their code in the contexts."""

    def __init__(self, contexts: tuple[Context, ...]) -> None:
        self.contexts = contexts

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Return the specification of a module, of which only the loader differs."""
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        others = (finder for finder in others if hasattr(finder, "find_spec"))
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Outside(spec, self.contexts)
        return spec


class _Outside(Loader):
    """Loads one module by its own loader, in the contexts."""

    def __init__(self, spec: ModuleSpec, contexts: tuple[Context, ...]) -> None:
        self.spec, self.loader, self.contexts = spec, spec.loader, contexts

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the new module."""
        assert self.loader is not None
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the code of the module, which from now on has its own loader."""
        assert self.loader is not None
        self.spec.loader = module.__loader__ = self.loader
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            self.loader.exec_module(module)
