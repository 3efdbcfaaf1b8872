"""A table with one row an image: path or id, label, and optionally subject, split and subgroup columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import Split, Task, misspelt_key
from medssl_monai.data.prepare.folder import SPLIT_NAMES
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, names, option
from medssl_monai.data.prepare.source import (
    Material,
    brief,
    check_subjects_read,
    is_image,
    path_inside,
    raise_problems,
    sorted_entries,
    subject_reader,
)
from medssl_monai.data.prepare.tabular import TABLE_SUFFIXES, Table, column_values, plain, read_table

_RESERVED = ("image", "label", "subject")
_SPLITS: dict[str, Split] = {**SPLIT_NAMES, "unlabeled": "unlabeled", "unlabelled": "unlabeled"}


@PREPARERS.register("table")
@dataclass(frozen=True, kw_only=True)
class TablePreparer(Preparer):
    """A CSV or TSV file that names images."""

    help: ClassVar[str] = "a CSV/TSV file with one row an image (SOURCE is the table, or a folder that holds one table)"
    subject_advice: ClassVar[str] = (
        "Give --subject-column, or --subject-regex to read the patient from the file names (its first group)."
    )

    image_column: str = option("column with the image's path or id", metavar="COLUMN", required=True)
    label_column: tuple[str, ...] = option(
        "column with the class; several, separated by commas, are 0/1 columns of a multilabel task",
        parse=names, metavar="COLUMN", required=True,
    )  # fmt: skip
    subject_column: str | None = option("column with the patient", metavar="COLUMN")
    subject_regex: str | None = option(
        "regular expression searched in each image's file name; its first group is the subject", metavar="REGEX"
    )
    split_column: str | None = option("column with the publisher's split (train, val, test)", metavar="COLUMN")
    columns: tuple[str, ...] = option(
        "subgroup columns to keep, such as age,sex", default=(), parse=names, metavar="A,B"
    )
    classes: tuple[str, ...] | None = option(
        "class names in label order (default: the values found, sorted)", parse=names, metavar="A,B"
    )
    image_root: str | None = option(
        "folder that the images' paths are relative to, itself relative to the table (default: the table's folder)",
        metavar="FOLDER",
    )
    image_suffix: str | None = option("appended to image ids that lack it, such as .png", metavar="SUFFIX")
    unlabeled: bool = option("put rows with an empty label into the unlabelled split", default=False)

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        table = read_table(_table_file(source))
        self._check_columns(table)
        root = self._root(table)
        reader = _RowReader(self, table, root)
        entries = [entry for row in table.rows if (entry := reader.entry(*row)) is not None]
        raise_problems(reader.problems, table.path)
        check_subjects_read(reader.without_subject, table.path)
        task: Task = "multilabel" if len(self.label_column) > 1 else reader.task
        name = source.name if source.is_dir() else source.stem
        return Draft(task, list(reader.classes), entries, name=name, root=root)

    def _check_columns(self, table: Table) -> None:
        table.require([self.image_column], "--image-column")
        table.require(self.label_column, "--label-column")
        table.require([self.subject_column] if self.subject_column else [], "--subject-column")
        table.require([self.split_column] if self.split_column else [], "--split-column")
        table.require(self.columns, "--columns")
        if self.subject_column and self.subject_regex:
            raise ConfigError("the subject is told twice: by a column and by --subject-regex", where="--subject-regex")
        if self.classes and len(self.label_column) == 1 and len(self.classes) < 2:
            raise ConfigError("at least 2 classes are needed", where="--classes", found=brief(self.classes))
        if self.classes and len(self.label_column) > 1 and len(self.classes) != len(self.label_column):
            raise ConfigError(
                f"{len(self.classes)} names for {len(self.label_column)} label columns", where="--classes"
            )
        for column in self.columns:
            if column in _RESERVED or misspelt_key(column):
                raise ConfigError(
                    f"a subgroup column cannot be called {column!r}: the datalist reads it as one of its own keys",
                    where="--columns",
                    advice="Rename it in the table.",
                )

    def _root(self, table: Table) -> Path:
        folder = table.path.parent
        root = (folder / self.image_root).resolve() if self.image_root else folder.resolve()
        if not root.is_dir():
            raise ConfigError(
                "the image folder does not exist",
                where="--image-root",
                found=str(root),
                advice=f"It is relative to the table's folder {folder}, or absolute.",
            )
        return root


def _table_file(source: Path) -> Path:
    if source.is_file():
        return source
    tables = [path for path in sorted_entries(source) if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES[:3]]
    if len(tables) != 1:
        raise DataError(
            f"{len(tables) or 'no'} tables (.csv, .tsv) in this folder",
            where=source,
            found=brief(path.name for path in tables) or None,
            advice="Give the table itself as SOURCE.",
        )
    if not tables[0].resolve().is_relative_to(source):
        raise DataError("is a symbolic link that leads out of the source; it is not followed", where=tables[0])
    return tables[0]


class _RowReader:
    """Turns rows into entries; what is wrong with them is gathered in ``problems``."""

    def __init__(self, options: TablePreparer, table: Table, root: Path) -> None:
        self.options, self.root = options, root
        self.problems: list[str] = []
        self.without_subject: list[str] = []
        self.first_row: dict[str, int] = {}
        self.read_subject = subject_reader(options.subject_regex)
        self.label: Callable[[Sequence[str]], int | tuple[int, ...]]
        if len(options.label_column) > 1:
            self.classes = options.classes or options.label_column
            self.label = _binary_vector
        else:
            self.classes = options.classes or self._classes_found(table)
            self.label = self._class_index
        self.task: Task = "binary" if len(self.classes) == 2 else "multiclass"
        values = {column: column_values([cells[column] for _, cells in table.rows]) for column in options.columns}
        self.columns: dict[int, dict[str, Any]] = {
            row: {column: values[column][index] for column in options.columns if values[column][index] is not None}
            for index, (row, _) in enumerate(table.rows)
        }

    def entry(self, row: int, cells: dict[str, str]) -> Entry | None:
        """The entry of a row, ``None`` when something is wrong with it."""
        before = len(self.problems)
        split: Split | None = self._checked(row, self._split, cells)
        image: Material = self._checked(row, self._image, cells)
        label = None if split == "unlabeled" else self._checked(row, self._label, cells)
        subject = self._checked(row, self._subject, cells)
        if len(self.problems) > before:
            return None
        if label is None and split in ("validation", "test"):
            # Such an image would go into pre-training although the publisher holds it back.
            self.problems.append(f"row {row}: the label is empty, but the row is in the {split} part")
        first = self.first_row.setdefault(image.target, row)
        if first != row:
            self.problems.append(f"row {row}: image {image.target!r} stands in row {first} already")
        return Entry(image, label, subject, "unlabeled" if label is None else split, self.columns[row])

    def _checked(self, row: int, check: Callable[[dict[str, str]], Any], cells: dict[str, str]) -> Any:
        try:
            return check(cells)
        except ValueError as error:
            self.problems.append(f"row {row}: {error}")
            return None

    def _image(self, cells: dict[str, str]) -> Material:
        cell = cells[self.options.image_column]
        if not cell:
            raise ValueError(f"column {self.options.image_column!r} is empty")
        suffix = self.options.image_suffix or ""
        name = cell if cell.lower().endswith(suffix.lower()) else cell + suffix
        try:
            path = path_inside(self.root, name)
            if path.is_file() and not is_image(self.root, path):
                raise ValueError("is not an image by its suffix; for ids without suffix give --image-suffix")
            material = Material.of_file(self.root, path)
        except ValueError as error:
            raise ValueError(f"image {name!r} {error}") from error
        if self.options.subject_regex is not None and self.read_subject(path.name) is None:
            self.without_subject.append(name)
        return material

    def _label(self, cells: dict[str, str]) -> int | tuple[int, ...] | None:
        values = [plain(cells[column]) for column in self.options.label_column]
        if any(values):
            return self.label(values)
        if not self.options.unlabeled:
            raise ValueError("the label is empty; with --unlabeled such rows join the unlabelled images")
        return None

    def _class_index(self, values: Sequence[str]) -> int:
        (value,) = values
        if value in self.classes:
            return self.classes.index(value)
        if value.isdecimal() and int(value) < len(self.classes) and not any(name.isdecimal() for name in self.classes):
            return int(value)
        raise ValueError(f"label {value!r} is not a class.{did_you_mean(value, self.classes)}")

    def _classes_found(self, table: Table) -> tuple[str, ...]:
        (column,) = self.options.label_column
        found = {plain(cells[column]) for _, cells in table.rows} - {""}
        if len(found) < 2:
            raise DataError(
                f"at least 2 classes are needed, column {column!r} holds {len(found)}",
                where=table.path,
                found=brief(sorted(found)) or "only empty cells",
                advice="For a table without labels name the classes with --classes and give --unlabeled.",
            )
        if all(re.fullmatch(r"-?\d+", value) for value in found):
            return tuple(sorted(found, key=int))
        return tuple(sorted(found))

    def _subject(self, cells: dict[str, str]) -> str | None:
        column = self.options.subject_column
        if column is None:
            return self.read_subject(Path(cells[self.options.image_column].replace("\\", "/")).name)
        if not cells[column]:
            raise ValueError(f"column {column!r} (the subject) is empty")
        return plain(cells[column])

    def _split(self, cells: dict[str, str]) -> Split | None:
        column = self.options.split_column
        if column is None:
            return None
        value = cells[column]
        if value.lower() not in _SPLITS:
            raise ValueError(f"split {value!r} is not known.{did_you_mean(value.lower(), _SPLITS)}")
        return _SPLITS[value.lower()]


def _binary_vector(values: Sequence[str]) -> tuple[int, ...]:
    wrong = [value for value in values if value not in ("0", "1")]
    if wrong:
        raise ValueError(f"labels of a multilabel row must be 0 or 1, found {brief(map(repr, wrong))}")
    return tuple(int(value) for value in values)
