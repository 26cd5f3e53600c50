"""HTML tables for notebooks: escaped, and scrollable if they are long."""

from collections.abc import Iterable, Sequence
from html import escape

_SCROLLED = "max-height: 32em; overflow: auto"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Return an HTML table.

    Args:
        head: the names of the columns.
        rows: the cells of each row, as plain text.
        caption: plain text above the table.
    """
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows)
    return (
        f'<div style="{_SCROLLED}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{_cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(f'<{tag} style="text-align: left">{escape(text)}</{tag}>' for text in texts)
