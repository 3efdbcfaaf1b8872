"""HTML and SVG built from parts, escaped by construction: only what a function here made stands as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_VOID = {"meta", "col", "br", "hr", "img"}
# characters that HTML has no place for, not even escaped
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put in."""

    __slots__ = ()


def text(child: object) -> Markup:
    """A child as HTML: markup as it is, sequences joined, ``None`` nothing, anything else escaped."""
    if isinstance(child, Markup):
        return child
    if child is None:
        return Markup("")
    if isinstance(child, (list, tuple)):
        return Markup("".join(text(part) for part in child))
    return Markup(escape(_CONTROL.sub("\ufffd", str(child)), quote=True))


def tag(name: str, /, *children: object, **attributes: Any) -> Markup:
    """An element. ``class_`` is ``class``, ``_`` in a name is ``-``; ``None`` and ``False`` leave an attribute out."""
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{text(value)}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{text(list(children))}</{name}>")


def paragraphs(lines: Iterable[object], **attributes: Any) -> Markup:
    """A paragraph for each line that is not empty."""
    return text([tag("p", line, **attributes) for line in lines if line])


def prose(words: object) -> Markup:
    """Text in which what stands between backticks is code."""
    if isinstance(words, Markup):
        return words
    parts = str(words).split("`")
    if len(parts) % 2 == 0:  # a backtick without a second one is a backtick
        return text(words)
    return text([tag("code", part) if position % 2 else part for position, part in enumerate(parts)])


def bullets(lines: Sequence[object], **attributes: Any) -> Markup:
    """A list; nothing for no lines."""
    return tag("ul", *(tag("li", line) for line in lines), **attributes) if lines else Markup("")


def folded(summary: object, *children: object, open_: bool = False) -> Markup:
    """What a reader opens when wanted."""
    return tag("details", tag("summary", summary), *children, open=open_)


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    caption: str,
    *,
    class_: str | None = None,
) -> Markup:
    """A table whose first column names its rows; it scrolls by itself where the page is narrow.

    Args:
        header: texts of the columns.
        rows: cells; the first of each row is its header.
        caption: what the table shows.
        class_: style.
    """
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", row[0], scope="row"), *(cell_of(cell) for cell in row[1:])) for row in rows]
    content = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_=class_)
    # a region that scrolls must be reachable by keyboard, and then needs a name
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def cell_of(cell: object) -> Markup:
    """A table cell; what is a cell already stays one."""
    return cell if isinstance(cell, Markup) and cell.startswith("<td") else tag("td", cell)


def pairs(rows: Sequence[tuple[object, object]], caption: str) -> Markup:
    """A table of names and values."""
    body = [tag("tr", tag("th", name, scope="row"), tag("td", value)) for name, value in rows]
    content = tag("table", tag("caption", caption), tag("tbody", *body), class_="pairs")
    return tag("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)


def figure(picture: Markup, caption: object, data: Markup | None = None) -> Markup:
    """A picture with its caption and, folded, the numbers it is drawn from."""
    numbers = folded("The numbers of this chart", data) if data is not None else None
    return tag("figure", picture, tag("figcaption", caption), numbers)
