"""Find the names that a function's code reads and writes, in its module and in others."""

import opcode
import sys
import types
from collections.abc import Iterator
from typing import Any

from manifold_mixup._dry_run.holders import is_replaceable

# Packages whose objects do not belong to the model, unless they are nn.Modules. _OPEN lists
# exceptions.
FOREIGN = {*sys.stdlib_module_names, "numpy", "torch", "lightning", "pytorch_lightning"}
FOREIGN |= {"wandb", "mlflow", "tensorboardX", "comet_ml", "neptune", "clearml", "aim", "tqdm"}
FOREIGN |= {"rich", "ray", "dask", "matplotlib", "pandas", "pyarrow", "datasets", "IPython"}
FOREIGN |= {"pytest", "_pytest", "manifold_mixup"}
_OPEN = ("torch.nn", "torch.distributions", "torch.ao", "torch.utils.weak", "manifold_mixup.lab")
_STORE_GLOBAL, _IMPORT = opcode.opmap["STORE_GLOBAL"], opcode.opmap["IMPORT_NAME"]
_DELETE_GLOBAL = opcode.opmap["DELETE_GLOBAL"]
_STORE_ATTRIBUTE = {opcode.opmap["STORE_ATTR"], opcode.opmap["DELETE_ATTR"]}
_ASKED = (_STORE_GLOBAL, _DELETE_GLOBAL, _IMPORT, *_STORE_ATTRIBUTE)
_Space = dict[str, Any]


class Reads:
    """The names that one piece of code uses, and the modules they belong to.

    Args:
        function: the function.
        code: its code, or that of a nested function.
    """

    def __init__(self, function: types.FunctionType, code: types.CodeType) -> None:
        self.space: _Space = function.__globals__
        self.module = function.__module__
        self.names = code.co_names
        steps = code.co_code[::2]
        self.steps = {step for step in _ASKED if step in steps}
        self.files = self._near_files()

    def values(self) -> list[Any]:
        """List the values of the names in the function's module and in the modules it uses."""
        spaces = [self.space, *self.files]
        return [space[name] for space in spaces for name in self.names if name in space]

    def written(self) -> Iterator[tuple[_Space, tuple[str, ...] | None]]:
        """Yield the namespaces and names that the code can change; None means all names."""
        whole = "globals" in self.names and "globals" not in self.space
        stores = bool(self.steps & {_STORE_GLOBAL, _DELETE_GLOBAL})
        yield from self._changing(self.space, all_names=whole, stores=stores)
        stores = bool(self.steps & _STORE_ATTRIBUTE)
        by_name = bool({"setattr", "delattr", "__dict__", "vars"} & set(self.names))
        for space in self.files:
            yield from self._changing(space, all_names=by_name, stores=stores)

    def _changing(
        self, space: _Space, *, all_names: bool, stores: bool
    ) -> Iterator[tuple[_Space, tuple[str, ...] | None]]:
        if all_names and not is_installed(package_of(space.get("__name__"))):
            yield space, None
        elif stores:
            yield space, self.names
        elif names := tuple(name for name in self.names if is_replaceable(type(space.get(name)))):
            yield space, names

    def _near_files(self) -> list[_Space]:
        """List the modules that the names refer to, and those the names refer to in these."""
        named = [self.space.get(name) for name in self.names]
        if _IMPORT in self.steps:
            package = self.space.get("__package__") or ""
            for name in self.names:  # `import a.b` gives the code a
                known = (name, package_of(name), f"{package}.{name}")
                named += map(sys.modules.get, known)
        files = list(self._near(named))
        files += self._near([vars(file).get(name) for file in files for name in self.names])
        found = {id(file): vars(file) for file in files}
        return list(found.values())

    def _near(self, values: list[Any]) -> Iterator[types.ModuleType]:
        for value in values:
            if issubclass(type(value), types.ModuleType):
                name = vars(value).get("__name__")
                if is_near(name, self.module):
                    yield value


def codes_of(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function and of its nested functions."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


def is_foreign(thing: Any) -> bool:
    """Return whether a class or function belongs to a foreign package."""
    name = thing.__module__ if isinstance(thing.__module__, str) else ""
    return package_of(name) in FOREIGN and not name.startswith(_OPEN)


def is_near(name: Any, own: Any) -> bool:
    """Return whether a module is in the same package as another, or not installed."""
    package = package_of(name)
    if package in FOREIGN:
        return False
    return package == package_of(own) or not is_installed(package)


def is_installed(package: str) -> bool:
    """Return whether a package is an installed library rather than the user's own file."""
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return "-packages" in path


def package_of(name: Any) -> str:
    """Return the top-level package of a module name."""
    return name.partition(".")[0] if isinstance(name, str) else ""
