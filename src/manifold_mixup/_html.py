"""HTML tables for notebooks: escaped, and scrollable if they are long."""

from collections.abc import Iterable, Sequence

_SCROLLED = "max-height: 32em; overflow: auto"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """Return an HTML table.

    Args:
        head: the names of the columns.
        rows: the cells of each row, as plain text.
        caption: plain text above the table.
    """
    from html import escape  # its table of entities takes 2 ms, which only a notebook needs

    def cells(tag: str, texts: Sequence[str]) -> str:
        return "".join(f'<{tag} style="text-align: left">{escape(text)}</{tag}>' for text in texts)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div style="{_SCROLLED}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table></div>"
    )
