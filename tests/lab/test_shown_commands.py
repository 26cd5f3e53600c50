"""The commands that the documentation shows exist, and so do their options and choices."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from manifold_mixup.lab import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Instead of running a command, the shell prints its words: one line each, an empty one at the end.
OTHERS = ("accelerate", "pip", "pytest", "python", "torchrun")
INSTEAD = 'manifold-mixup() { printf "%s\\n" "$@" ""; }\n' + "".join(
    f"{name}() {{ :; }}\n" for name in OTHERS
)


def commands(page, folder):
    """Return the arguments of each ``manifold-mixup`` of a page, as the shell understands them."""
    shown = "".join(re.findall(r"^```bash\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE))
    done = subprocess.run(
        [shutil.which("bash"), "-c", INSTEAD + shown], cwd=folder, capture_output=True, text=True
    )
    assert done.stderr == ""
    return [call.splitlines() for call in done.stdout.split("\n\n") if call]


@pytest.mark.thorough
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_a_page_shows_is_understood(page, tmp_path):
    """Nothing is run, so folders and files need not be there."""
    text = page.read_text()
    found = commands(text, tmp_path)
    assert found or "```bash\nmanifold-mixup" not in text
    for words in found:
        cli._read(words)


def test_a_command_with_a_wrong_option_would_be_seen(tmp_path):
    (words,) = commands("```bash\nn=3\nmanifold-mixup train \\\n    --epoch $n\n```\n", tmp_path)
    assert words == ["train", "--epoch", "3"]
    with pytest.raises(ValueError, match="--epochs"):
        cli._read(words)
