"""What all parts of the page share: sections, and holes that say what is missing."""

from __future__ import annotations

import base64
import logging
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medssl_monai.visualize.report.markup import Markup, prose, tag
from medssl_monai.visualize.report.sources import Missing, Study
from medssl_monai.visualize.report.words import plural

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        ident: its name in the page, for links.
        heading: its heading.
        body: what stands below.
        level: of the heading, 2 or 3.
        class_: style.
    """

    ident: str
    heading: str
    body: Markup
    level: int = 2
    class_: str | None = None

    def markup(self) -> Markup:
        """The section as HTML."""
        heading = tag(f"h{self.level}", self.heading, id=self.ident)
        return tag("section", heading, self.body, class_=self.class_, aria_labelledby=self.ident)


def absent(words: object) -> Markup:
    """Says in place what is missing."""
    return tag("p", prose(words), class_="missing")


def guarded(build: Callable[[], Markup], piece: str, missing: list[Missing]) -> Markup:
    """What ``build`` gives; where the data behind it are not as expected, a hole that says so.

    The hole gets a line in ``missing`` too. Files may come from another version or be edited: a report names
    such a part and shows the others.
    """
    try:
        return build()
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        logger.warning("%s cannot be shown", piece, exc_info=True)
        reason = f"what it rests on is not as expected ({type(error).__name__}: {error})"
        missing.append(Missing(piece, reason, "Make the files of this part again with this version of medssl."))
        return absent(f"{piece[:1].upper()}{piece[1:]}: cannot be shown, {reason}.")


def png(data: bytes, alternative: str) -> Markup:
    """A picture inside the page."""
    code = base64.b64encode(data).decode("ascii")
    width, height = struct.unpack(">II", data[16:24])  # of the header chunk, which stands first in every PNG
    look = "tall" if height > 1.5 * width else None
    return tag("img", src=f"data:image/png;base64,{code}", alt=alternative, width=width, height=height, class_=look)


def missing_of_runs(study: Study) -> list[Missing]:
    """What the runs of a study lack, alike pieces in one line."""
    holders: dict[Missing, list[str]] = {}
    for run in study.runs.values():
        for one in run.missing:
            holders.setdefault(one, []).append(run.title)
    found = []
    for one, titles in holders.items():
        others = f" and {plural(len(titles) - 1, 'further run')}" if titles[1:] else ""
        found.append(Missing(f"{one.piece} of {titles[0]}{others}", one.why, one.advice))
    return found


def missing_table(missing: Sequence[Missing]) -> list[tuple[object, ...]]:
    """Rows of the table of what is missing, each once."""
    return [(one.piece, one.why, prose(one.advice)) for one in dict.fromkeys(missing)]
