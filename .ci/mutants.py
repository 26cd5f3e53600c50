"""Do the tests notice a changed operator? Change some of the package's, one at a time, and see.

    python .ci/mutants.py 60 --seed 30 --out FOLDER

A seed draws lines of src that hold an operator, and an operator of each. The suite runs once on a
copy in which these places note the tests that reach them. Then a copy with one operator changed
runs those tests. With --thorough, all tests run if they pass, those marked thorough too. Not a part
of .ci/run, because it takes an hour, or many.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("src", "tests", "benchmarks", "examples", "docs", "results", "findings")
SINGLE = ("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff")
FIRST = 60
"""Tests that run before all others that reach a mutant."""

CHANGES = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Not: ("not ", ""),
}  # fmt: skip

PROBE = """
import builtins, os

_seen = set()

def __probe__(number):
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]
    if (number, test) not in _seen:
        _seen.add((number, test))
        with open(os.environ["MUTANTS_SEEN"], "a") as file:
            file.write(f"{number}\\t{test}\\n")

__probe__._dynamo_marked_constant = True  # the compiler calls it while it traces
builtins.__probe__ = __probe__
"""


@dataclass(frozen=True)
class Mutant:
    """An operator to change: where it is, and where the expression around it is."""

    file: str
    line: int
    before: str
    after: str
    operator: tuple[int, int]
    expression: tuple[int, int]

    @property
    def text(self) -> str:
        """The change in words."""
        after = self.after.strip() or "(left out)"
        return f"{self.file}:{self.line}: {self.before.strip()} -> {after}"


class Source:
    """A file of the package, and what can be changed in it; annotations are left as they are."""

    def __init__(self, path: Path) -> None:
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_bytes()
        self.starts = [0]
        for line in self.text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def mutants(self) -> Iterator[Mutant]:
        """Yield one for each operator."""
        for node in _expressions(ast.parse(self.text)):
            if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
                yield from self._made(node, node.op, self._span(node)[0], node.operand)
            for left, operator, right in _pairs(node):
                yield from self._made(node, operator, self._span(left)[1], right)

    def _made(self, node: Any, operator: ast.AST, begin: int, right: Any) -> Iterator[Mutant]:
        """Yield the change of an operator that stands between ``begin`` and what follows it."""
        before, after = CHANGES.get(type(operator), ("", ""))
        at = self.text[begin : self._span(right)[0]].find(before.encode())
        if before and at >= 0:
            place = (begin + at, begin + at + len(before))
            line = self.text[: place[0]].count(b"\n") + 1
            yield Mutant(self.name, line, before, after, place, self._span(node))

    def _span(self, node: Any) -> tuple[int, int]:
        first = self.starts[node.lineno - 1] + node.col_offset
        return first, self.starts[node.end_lineno - 1] + node.end_col_offset


def _pairs(node: ast.AST) -> Iterator[tuple[ast.expr, ast.AST, ast.expr]]:
    """Yield the operators with two sides in a node of a tree."""
    if isinstance(node, ast.Compare):
        yield from zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
    elif isinstance(node, ast.BoolOp):
        for left, right in pairwise(node.values):
            yield left, node.op, right
    elif isinstance(node, ast.BinOp):
        yield node.left, node.op, node.right


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without its annotations and the parts of texts."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _expressions(child)


def drawn(count: int, seed: int) -> list[Mutant]:
    """Draw lines with an operator, and an operator of each."""
    by_line: dict[tuple[str, int], list[Mutant]] = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for mutant in Source(path).mutants():
            by_line.setdefault((mutant.file, mutant.line), []).append(mutant)
    rng = random.Random(seed)
    lines = sorted(rng.sample(sorted(by_line), count))
    return [rng.choice(by_line[line]) for line in lines]


def copied(folder: Path) -> Path:
    """Copy what the tests read."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in COPIED:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*SINGLE, ".ci", ".github"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    return tree


def replaced(tree: Path, mutant: Mutant, old: bytes) -> bytes:
    """Change an operator in a file of a copy."""
    begin, end = mutant.operator
    new = old[:begin] + mutant.after.encode() + old[end:]
    (tree / mutant.file).write_bytes(new)
    return new


def probe(tree: Path, mutants: list[Mutant]) -> None:
    """Let each place note the tests that reach it."""
    for file in {mutant.file for mutant in mutants}:
        text = (tree / file).read_bytes()
        marks = []
        for number, mutant in enumerate(mutants):
            if mutant.file == file:
                begin, end = mutant.expression
                marks += [(begin, 1, f"(__probe__({number}), ("), (end, 0, "))[1]")]
        for place, _, mark in sorted(marks, reverse=True):
            text = text[:place] + mark.encode() + text[place:]
        (tree / file).write_bytes(text)


def pytest_in(tree: Path, *arguments: str, seen: Path | None = None, limit: int = 7200) -> int:
    """Run pytest on a copy, and return its status."""
    path = os.pathsep.join(map(str, (tree / "src", tree / "tests" / "support", tree)))
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "Agg"}
    if seen is not None:
        site = tree / "probe"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(PROBE)
        environment |= {"MUTANTS_SEEN": str(seen), "PYTHONPATH": f"{site}{os.pathsep}{path}"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", *arguments]
    try:
        return subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=limit,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:  # an endless loop is noticed too
        return 1


def tests_of(seen: Path) -> dict[int, list[str]]:
    """Return the tests that reach each mutant."""
    found: dict[int, set[str]] = {}
    for line in seen.read_text().splitlines():
        number, test = line.split("\t", 1)
        found.setdefault(int(number), set()).add(test)
    return {number: sorted(test for test in tests if test) for number, tests in found.items()}


def judged(
    tree: Path, mutant: Mutant, tests: list[str], folder: Path, *, thorough: bool = False
) -> str:
    """Return what notices a mutant: its tests, the suite, thorough tests, or nothing."""
    old = (tree / mutant.file).read_bytes()
    try:
        ast.parse(replaced(tree, mutant, old))
        names = folder / "tests.txt"
        random.Random(0).shuffle(tests)
        for part in filter(None, (tests[:FIRST], tests[FIRST:])):
            names.write_text("\n".join(part))
            if pytest_in(tree, "-x", f"@{names}", limit=1200):
                return "its tests"
        if not thorough:
            return "none of its tests"
        if not tests and pytest_in(tree, "-x"):
            return "the suite"
        return "thorough tests" if pytest_in(tree, "-x", "--thorough") else "nothing"
    finally:
        (tree / mutant.file).write_bytes(old)


def main() -> None:
    """Draw, probe, judge, and write what was found as it comes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=30)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--thorough", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    mutants, seen = drawn(asked.count, asked.seed), asked.out / "seen.tsv"
    if not seen.exists():
        tree = copied(asked.out)
        probe(tree, mutants)
        seen.write_text("")
        pytest_in(tree, seen=seen)
    reached, tree = tests_of(seen), copied(asked.out)
    for number, mutant in enumerate(mutants):
        result = asked.out / f"{number:03}.json"
        if not result.exists():
            tests = reached.get(number, [])
            by = judged(tree, mutant, tests, asked.out, thorough=asked.thorough)
            found = {**asdict(mutant), "tests": len(reached.get(number, [])), "noticed by": by}
            result.write_text(json.dumps(found))
        print(mutant.text, "|", json.loads(result.read_text())["noticed by"], flush=True)


if __name__ == "__main__":
    main()
