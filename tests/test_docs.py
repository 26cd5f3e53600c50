"""The code of every documentation page runs, the menu has every page, and no link is broken."""

import ast
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text() for page in DOCS.rglob("*.md")}
# Their code needs other libraries or names; other tests run it.
RUN_ELSEWHERE = {
    "lab.md",
    "recipes/accelerate.md",
    "recipes/fastai.md",
    "recipes/lightning.md",
    "recipes/skorch.md",
    "recipes/timm.md",
    "recipes/transformers.md",
}
CONFIG = (ROOT / "mkdocs.yml").read_text()
MENU = re.findall(r"^ +- (?:.*: )?(\S+\.md)$", CONFIG.split("\nnav:\n")[1], flags=re.MULTILINE)
# .ci/site.py copies these next to the pages.
NOT_IN_DOCS = {"changelog.md", "contributing.md", "results/README.md"}


def blocks(page, language="python"):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.DOTALL | re.MULTILINE)


def without_code(text):
    return re.sub(
        r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    )


@pytest.mark.parametrize(
    "page", sorted(page for page in PAGES if blocks(page) and page not in RUN_ELSEWHERE)
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page):
    names = {"__name__": page}
    for number, block in enumerate(blocks(page), 1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", sorted(RUN_ELSEWHERE))
def test_a_page_that_is_run_elsewhere_is(page):
    tests = set((ROOT / "tests").rglob("test_*.py")) - {Path(__file__).resolve()}
    assert any(f'"{Path(page).name}"' in test.read_text() for test in tests)


@pytest.mark.parametrize("page", sorted(page for page in PAGES if blocks(page, "py")))
def test_code_that_is_only_shown_can_be_read(page):
    for block in blocks(page, "py"):
        ast.parse(block)


def test_the_menu_has_every_page_and_no_other():
    assert len(MENU) == len(set(MENU))
    assert set(MENU) == PAGES.keys() | NOT_IN_DOCS


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_of_a_page(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(PAGES[page])):
        if "://" in target:
            assert re.fullmatch(r"https://[\w.-]+(/[\w./%#?=&~-]*)?", target), target
            continue
        path, _, anchor = target.partition("#")
        there = (DOCS / page).parent / path if path else DOCS / page
        assert there.is_file(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


def anchors(text):
    """Return the anchors of a page's headings that the site and a git host both generate."""
    without_blocks = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", without_blocks, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading, flags=re.ASCII) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


def test_a_link_to_nowhere_would_be_seen():
    assert anchors("# What it is\n```\n# no heading\n```\n## The lab, again") == {
        "what-it-is",
        "the-lab-again",
    }


def test_every_public_name_is_in_the_reference():
    import manifold_mixup

    named = re.findall(r"^::: manifold_mixup\.(\w+)$", PAGES["api.md"], flags=re.MULTILINE)
    assert set(named) == set(manifold_mixup.__all__)


@pytest.mark.parametrize(
    ("page", "written", "in_the_site"),
    [
        ("docs/seeing.md", "../results/README.md#figures", "results/README.md#figures"),
        ("docs/recipes/index.md", "../index.md", "../index.md"),
        ("results/README.md", "../docs/sample-report.html", "../sample-report.html"),
        ("results/README.md", "figures/figure-1.md", "figures/figure-1.md"),
        ("docs/lab.md", "../src/manifold_mixup/__init__.py", "../src/manifold_mixup/__init__.py"),
        ("docs/lab.md", "gone.md", "gone.md"),
        ("docs/lab.md", "https://arxiv.org/abs/1806.05236", "https://arxiv.org/abs/1806.05236"),
    ],
)
def test_the_site_turns_links_between_folders_and_leaves_what_it_does_not_hold(
    page, written, in_the_site
):
    site = runpy.run_path(str(ROOT / ".ci" / "site.py"))
    turned = site["turned"](f"[a]({written})", ROOT / page)
    assert turned == f"[a]({in_the_site})"


def test_every_test_that_the_table_of_support_names_is_there():
    """Every number in a cell refers to a test, and no cell is empty."""
    page = PAGES["support.md"]
    listed = re.findall(r"^(\d+)\. `tests/(\S+)::(\w+)`$", page, flags=re.MULTILINE)
    for _, file, name in listed:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(), f"{file}: {name}"
    rows = re.findall(r"^\| (?!you write|targets|with)(.*) \|$", page, flags=re.MULTILINE)
    cells = [cell.strip() for row in rows for cell in row.split("|")]
    assert all(cells)
    named = {cell.split()[-1] for cell in cells if re.fullmatch(r"(✓|refused|raises) \d+", cell)}
    assert named == {number for number, *_ in listed}


def test_the_site_shows_the_version_and_the_repository_if_the_project_names_one():
    configured = runpy.run_path(str(ROOT / ".ci" / "site.py"))["configured"]
    plain = configured({"nav": []}, {"name": "a", "version": "1.2"})
    assert plain == {"nav": [], "site_name": "a 1.2"}
    urls = {"Homepage": "https://a.example", "Repository": "https://b.example"}
    assert (
        configured({}, {"name": "a", "version": "1", "urls": urls})["repo_url"]
        == urls["Repository"]
    )


def test_the_sample_report_has_the_style_of_the_template():
    style = re.compile(r"<style>.*</style>", re.DOTALL)
    template = ROOT / "src/manifold_mixup/lab/report/templates/report.html"
    sample = ROOT / "docs/sample-report.html"
    assert style.search(sample.read_text())[0] == style.search(template.read_text())[0]


def test_the_table_on_the_first_page_is_that_of_the_comparison():
    rows = re.findall(r"^\| .*±.*$", PAGES["index.md"], flags=re.MULTILINE)
    assert len(rows) == 5
    last_epoch = PAGES["compare.md"].split("*last epoch*")[1].split("*best epoch*")[0]
    assert all(row in last_epoch for row in rows)
