"""What a dataset layout is: options declared once for Python and the command line, and a reader that yields entries."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from medssl_monai.core import ConfigError, Registry, did_you_mean
from medssl_monai.data.datalist import Split, Task
from medssl_monai.data.prepare.source import Material

logger = logging.getLogger("medssl_monai.data.prepare")


@dataclass(frozen=True)
class Entry:
    """One image (or exam of several named images) as a layout found it.

    Attributes:
        image: the image, or a mapping of names (planes) to images.
        label: class index, 0/1 vector or mask; ``None`` puts the image into the unlabelled split.
        subject: subject id without prefix; ``None`` where the publisher does not tell.
        split: the publisher's split; ``None`` on all labelled entries where there is none.
        columns: subgroup columns.
    """

    image: Material | Mapping[str, Material]
    label: int | tuple[int, ...] | Material | None = None
    subject: str | None = None
    split: Split | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def materials(self) -> tuple[Material, ...]:
        """Every image and mask of the entry."""
        images = (self.image,) if isinstance(self.image, Material) else tuple(self.image.values())
        return (*images, self.label) if isinstance(self.label, Material) else images


@dataclass(frozen=True)
class Draft:
    """A dataset as read from its source, before it is split and written.

    Attributes:
        task: what the labels are.
        labels: class names in index order, or mask values and their names.
        entries: the images.
        name, modality, license, description: as in the datalist; the command's options take precedence.
        root: the folder that files are taken from, where it is another than the source itself.
        organs: for masks the values each holds, by the mask's target; they stratify the split.
        notes: what was left alone, one sentence each; logged.
    """

    task: Task
    labels: list[str] | dict[int, str]
    entries: list[Entry]
    name: str
    modality: str = "unknown"
    license: str = "unknown"
    description: str = ""
    root: Path | None = None
    organs: Mapping[str, frozenset[int]] | None = None
    notes: tuple[str, ...] = ()


def option(
    help: str,  # noqa: A002 - the word argparse has for it
    *,
    default: Any = None,
    parse: Callable[[Any], Any] = str,
    metavar: str | None = None,
    required: bool = False,
) -> Any:
    """Declare an option of a layout as a dataclass field.

    Args:
        help: one line for ``--help``.
        default: value where it is not given; ``False`` makes it a flag.
        parse: turns what is given (text on the command line, any value in Python) into the value; raises ValueError.
        metavar: placeholder in ``--help``.
        required: whether it must be given.
    """
    metadata = {"help": help, "parse": parse, "metavar": metavar, "required": required}
    return field(default=default, metadata=metadata)


def names(value: Any) -> tuple[str, ...]:
    """Parse ``A,B,C`` (or a sequence of texts) to a tuple of names; empty and repeated ones raise ValueError."""
    parts = tuple(part.strip() for part in (value.split(",") if isinstance(value, str) else value))
    if not all(parts) or len(set(parts)) != len(parts):
        raise ValueError("expected names separated by commas, none empty and none twice")
    return parts


def one_of(*known: str) -> Callable[[Any], Any]:
    """A parser of an option that takes one of some words."""

    def parse(value: Any) -> str:
        if value not in known:
            raise ValueError(f"expected {' or '.join(known)}")
        return str(value)

    return parse


@dataclass(frozen=True, kw_only=True)
class Preparer(ABC):
    """A layout that datasets are published in. Sub-classes are frozen dataclasses whose fields are :func:`option`.

    Attributes:
        help: one line that says what SOURCE looks like.
        subject_advice: how a user of this layout can tell which images are of one patient.
    """

    help: ClassVar[str]
    subject_advice: ClassVar[str]

    @abstractmethod
    def read(self, source: Path) -> Draft:
        """Read the dataset at ``source`` (resolved, exists) without changing anything.

        Raises:
            DataError: with all that is wrong in the source.
            ConfigError: when an option cannot be used with it.
        """

    @classmethod
    def add_arguments(cls, parser: argparse._ActionsContainer) -> None:
        """Add the layout's options to its command-line parser; an option that is not given stays out of the result."""
        for item in dataclasses.fields(cls):
            flag = f"--{item.name.replace('_', '-')}"
            if item.default is False:
                parser.add_argument(flag, action="store_true", default=argparse.SUPPRESS, help=item.metadata["help"])
                continue
            parser.add_argument(
                flag,
                metavar=item.metadata["metavar"],
                required=item.metadata["required"],
                default=argparse.SUPPRESS,
                help=item.metadata["help"],
            )

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Names of the layout's options, as keywords."""
        return tuple(item.name for item in dataclasses.fields(cls))

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Build the layout from given options, command-line texts or Python values.

        Raises:
            ConfigError: for an unknown, missing or unusable option.
        """
        known = {item.name: item for item in dataclasses.fields(cls)}
        for name in options:
            if name not in known:
                raise ConfigError(f"unknown option {name!r}", advice=did_you_mean(name, known))
        values: dict[str, Any] = {}
        for name, item in known.items():
            given = options.get(name)
            if given is None:
                if item.metadata["required"]:
                    raise ConfigError(f"option --{name.replace('_', '-')} is needed", advice=item.metadata["help"])
                continue
            try:
                values[name] = bool(given) if item.default is False else item.metadata["parse"](given)
            except (ValueError, TypeError) as error:
                raise ConfigError(str(error), where=f"--{name.replace('_', '-')}", found=repr(given)) from error
        return cls(**values)


PREPARERS: Registry[type[Preparer]] = Registry("dataset layout")
