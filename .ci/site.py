"""Build the documentation site into build/site; a broken link is an error.

    pip install -e '.[docs]' && python .ci/site.py

The pages link to results and examples, which are beside ``docs/`` in the repository. A site has a
single root, so all files are copied to build/pages, and the links are rewritten. The generator
then reports links without a target.
The header shows the version and, if ``[project.urls]`` has a repository, a link to it.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from os.path import relpath
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PAGES, SITE = BUILD / "pages", BUILD / "site"
PLACES = {  # in the repository: in the site
    "docs": "",
    "results": "results",
    "benchmarks/results": "benchmarks",
    "examples": "examples",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
LINK = re.compile(r"(\]\()([^)#\s:]+)")


def place(path: Path) -> Path | None:
    """Return the path in the site of a file or folder of the repository, or None."""
    for source, target in PLACES.items():
        if path.is_relative_to(ROOT / source):
            return PAGES / target / path.relative_to(ROOT / source)
    return None


def turned(text: str, page: Path) -> str:
    """Return a page's text with links rewritten to the paths in the site."""

    def turn(match: re.Match[str]) -> str:
        target = (page.parent / match[2]).resolve()
        there, here = place(target), place(page)
        if there is None or here is None:
            return match[0]
        return match[1] + relpath(there, here.parent)

    return LINK.sub(turn, text)


def lay_out() -> None:
    """Write all pages, and the files that they show and link to, into build/pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for source in PLACES:
        top = ROOT / source
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            there = place(path)
            if not path.is_file() or there is None or "__pycache__" in path.parts:
                continue
            there.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                there.write_text(turned(path.read_text(), path))
            else:
                shutil.copyfile(path, there)


def configured(config: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
    """Return the site's configuration with what only ``pyproject.toml`` knows.

    Args:
        config: the content of ``mkdocs.yml``.
        project: the ``[project]`` table.
    """
    urls = {name.lower(): url for name, url in project.get("urls", {}).items()}
    repository = next((urls[name] for name in ("repository", "source") if name in urls), None)
    return {
        **config,
        "site_name": f"{project['name']} {project['version']}",
        **({"repo_url": repository} if repository else {}),
    }


def configure() -> Path:
    """Write the configuration of the site, and return where."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    path = BUILD / "mkdocs.yml"
    path.write_text(yaml.safe_dump(configured(config, project), sort_keys=False))
    return path


if __name__ == "__main__":
    lay_out()
    shutil.rmtree(SITE, ignore_errors=True)  # otherwise deleted pages would stay
    generator = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    sys.exit(subprocess.run([*generator, "-f", str(configure())], cwd=ROOT).returncode)
