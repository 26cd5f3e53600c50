"""The files of a package in folders, who imports whom, and what the folders' headers promise."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path


class Package:
    """The files of a package.

    Args:
        name: the package, as imported.
        root: its folder.
        paths: the files that count.
        rooms: names of its folders.
    """

    def __init__(self, name: str, root: Path, paths: Iterable[Path], rooms: Iterable[str]) -> None:
        self.name, self.root, self.rooms = name, root, list(rooms)
        self.files = {self._name_of(path): path for path in paths}

    def _name_of(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts).removesuffix(".__init__")

    def imported(self, module: str, *, later: bool = True) -> set[str]:
        """Return the modules of the package that a file imports, but for the package itself.

        Args:
            module: the file.
            later: whether to include what it imports after its own import.
        """
        found = set()
        for node in _nodes(ast.parse(self.files[module].read_text()), later=later):
            parts = (getattr(node, "module", None) or "").split(".")
            own = self.name.split(".")
            if isinstance(node, ast.ImportFrom) and parts[: len(own)] == own:
                for alias in node.names:
                    longer = ".".join([*parts[len(own) :], alias.name])
                    found.add(longer if longer in self.files else ".".join(parts[len(own) :]))
        return found - {""}

    @functools.cached_property  # it parses every file
    def importers(self) -> dict[str, set[str]]:
        """Map every room to the rooms and files at the top that import it."""
        found: dict[str, set[str]] = defaultdict(set)
        for module in self.files.keys() - {"__init__"}:
            for other in map(room_of, self.imported(module)):
                if other in self.rooms and other != room_of(module):
                    found[other].add(room_of(module))
        return found

    def promised(self, room: str, what: str) -> set[str]:
        """Return the names in a line of a room's header."""
        header = ast.get_docstring(ast.parse(self.files[room].read_text())) or ""
        line = re.search(rf"^{what}: (.*?)\.$", header, flags=re.MULTILINE | re.DOTALL)
        return set(re.split(r",\s+", line[1])) if line else set()


def room_of(module: str) -> str:
    return module.split(".")[0]


def _nodes(tree: ast.AST, *, later: bool) -> Iterator[ast.AST]:
    """Walk through a file; with ``later``, include code that runs after its import."""
    for node in ast.iter_child_nodes(tree):
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        )
        if later or not deferred:
            yield node
            yield from _nodes(node, later=later)
