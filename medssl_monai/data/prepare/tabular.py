"""CSV and TSV files as publishers and spreadsheets write them: every fault of a row with its number."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.prepare.source import brief, raise_problems, walk_files

TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")
_MISSING = {"", "na", "n/a", "nan", "none", "null"}


@dataclass(frozen=True)
class Table:
    """A table with a header.

    Attributes:
        path: its file.
        header: column names.
        rows: number of each row as a spreadsheet counts (the header is row 1) and its cells by column.
    """

    path: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]

    def require(self, columns: Iterable[str], option: str) -> None:
        """Check that columns exist.

        Raises:
            ConfigError: naming the option, with the closest column.
        """
        for column in columns:
            if column not in self.header:
                raise ConfigError(
                    f"{self.path.name} has no column {column!r}", where=option, advice=did_you_mean(column, self.header)
                )


def read_header(path: Path) -> tuple[str, ...]:
    """Column names of a table; empty for a file that is not text or cannot be opened."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            line = stream.readline()
            return tuple(name.strip() for name in next(csv.reader([line], delimiter=_delimiter(path, line)), []))
    except (UnicodeDecodeError, csv.Error, OSError):
        return ()


def read_table(path: Path, header: Sequence[str] | None = None) -> Table:
    """Read a table; tabs for ``.tsv``/``.tab``, else whichever of ``,`` ``;`` tab ``|`` the first line uses most.

    Cells are stripped of surrounding blanks; empty lines are skipped.

    Args:
        path: the file.
        header: column names of a table that is published without them; its first line is then row 1.

    Raises:
        DataError: when the file is not UTF-8 text, has no rows, or with all rows whose cells do not fit the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            lines = list(enumerate(csv.reader(stream, delimiter=_delimiter(path, first), strict=True), start=1))
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=path, advice="Save the table as UTF-8 CSV.") from error
    except csv.Error as error:
        raise DataError(f"not a well-formed table: {error}", where=path) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error
    names = tuple(header or (cell.strip() for cell in lines[0][1])) if lines else ()
    body = lines if header is not None else lines[1:]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"column name {repeated[0]!r} stands more than once in the header", where=path)
    expected = f"the header has {len(names)}" if header is None else f"expected {', '.join(names)}"
    problems = [
        f"row {number}: {len(cells)} cells, {expected}" for number, cells in body if cells and len(cells) != len(names)
    ]
    raise_problems(problems, path, advice="Mend the rows (an unquoted delimiter in a cell is the usual cause).")
    rows = tuple((number, dict(zip(names, map(str.strip, cells)))) for number, cells in body if any(cells))
    if not rows:
        raise DataError("the table has no rows", where=path)
    return Table(path, names, rows)


def find_table(source: Path, columns: Sequence[str], name: str | None = None) -> Table:
    """The one table below ``source`` with certain columns.

    Args:
        source: a folder, resolved.
        columns: names that its header must hold.
        name: path of the table relative to ``source`` where several fit.

    Raises:
        DataError: when none or several fit.
    """
    files, _ = walk_files(source)
    # Links that leave the source are not even opened.
    inside = [path for path in files if path.is_file() and path.resolve().is_relative_to(source)]
    candidates = [path for path in inside if path.suffix.lower() in (*TABLE_SUFFIXES, "")]
    fitting = [path for path in candidates if set(columns) <= set(read_header(path))]
    if name is not None:
        fitting = [path for path in fitting if path.relative_to(source).as_posix() == name]
    if len(fitting) == 1:
        return read_table(fitting[0])
    wanted = f"a table with the columns {', '.join(columns)}"
    if fitting:
        listed = brief(path.relative_to(source).as_posix() for path in fitting)
        raise DataError(f"{len(fitting)} tables fit: {listed}", where=source, advice="Name one with --table.")
    raise DataError(
        f"no {name or 'table with the needed columns'} here",
        where=source,
        found=brief(path.name for path in candidates) or "no table",
        expected=wanted,
    )


def plain(cell: str) -> str:
    """A cell without the ``.0`` that spreadsheets append to whole numbers."""
    return cell[: cell.index(".")] if re.fullmatch(r"[+-]?\d+\.0+", cell) else cell


def column_values(cells: Sequence[str]) -> list[str | int | float | None]:
    """A subgroup column's cells: numbers where all that are given are numbers, else texts; ``None`` where missing.

    Codes with leading zeros stay texts.
    """
    given = [cell for cell in cells if cell.lower() not in _MISSING]
    numeric = all(_is_number(cell) and not re.match(r"[+-]?0\d", cell) for cell in given)
    values: list[str | int | float | None] = []
    for cell in cells:
        if cell.lower() in _MISSING:
            values.append(None)
        elif numeric:
            number = float(cell)
            values.append(int(number) if re.fullmatch(r"[+-]?\d+", plain(cell)) else number)
        else:
            values.append(cell)
    return values


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell
    except ValueError:
        return False


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    return max(",;\t|", key=header.count)
