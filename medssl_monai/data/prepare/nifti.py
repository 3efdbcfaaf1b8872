"""Volumes and masks that belong together by their file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, Preparer, option
from medssl_monai.data.prepare.source import (
    Material,
    brief,
    check_subjects_read,
    raise_problems,
    subject_reader,
    walk_files,
)
from medssl_monai.data.readers import read_image

_PLACEHOLDERS = ("id", "subject")
Key = tuple[str, ...]


def compile_pattern(text: str) -> re.Pattern[str]:
    """Compile a file pattern to a regular expression.

    ``{id}`` and ``{subject}`` stand for one or more characters and are captured (the same one twice must match the
    same text), ``*`` for any number of characters; none of them crosses a ``/``. Everything else is literal.

    Raises:
        ValueError: for another placeholder, no placeholder, or a path that is absolute or contains ``..``.
    """
    pure = PurePosixPath(text)
    if pure.is_absolute() or ".." in pure.parts:
        raise ValueError("a pattern is relative to SOURCE and stays inside it")
    parts, seen = [], set()
    for piece in re.split(r"(\{[^{}]*\}|\*)", text):
        name = piece[1:-1]
        if piece == "*":
            parts.append("[^/]*")
        elif not (piece.startswith("{") and piece.endswith("}")):
            parts.append(re.escape(piece))
        elif name not in _PLACEHOLDERS:
            raise ValueError(f"unknown placeholder {piece}.{did_you_mean(name, _PLACEHOLDERS)}")
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            parts.append(f"(?P<{name}>[^/]+)")
    if not seen:
        raise ValueError("a pattern needs {id} or {subject}, the part by which image and mask belong together")
    return re.compile("".join(parts))


def parse_mask_labels(value: Any) -> dict[int, str]:
    """Parse ``1=liver,2=spleen`` (or a mapping) to mask values and names; 0 is background unless it is named.

    Raises:
        ValueError: when a value is not a non-negative integer, a name is empty, or either stands twice.
    """
    pairs = value.items() if isinstance(value, dict) else [part.partition("=")[::2] for part in value.split(",")]
    labels: dict[int, str] = {}
    for number, name in pairs:
        digits, name = str(number).strip(), str(name).strip()
        if not digits.isdecimal() or not name or int(digits) in labels or name in labels.values():
            raise ValueError("expected VALUE=NAME pairs such as 1=liver,2=spleen, each value and name once")
        labels[int(digits)] = name
    return dict(sorted({0: "background", **labels}.items()))


def mask_values(path: Path) -> frozenset[int]:
    """The values a mask holds.

    Raises:
        ValueError: with the reason when it cannot be read or holds something else than non-negative integers.
    """
    try:
        data, _ = read_image(path)
    except DataError as error:
        raise ValueError(f"cannot be read ({error.what})") from error
    values = np.unique(data)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.round(values)).any():
        raise ValueError(f"is not a mask: it holds values such as {brief(values.tolist(), 4)}")
    return frozenset(int(value) for value in values)


@PREPARERS.register("nifti")
@dataclass(frozen=True, kw_only=True)
class NiftiPreparer(Preparer):
    """Images and masks paired by patterns; images alone make an unlabelled dataset."""

    help: ClassVar[str] = "volumes (NIfTI or other images) and their masks, paired by file-name patterns"
    subject_advice: ClassVar[str] = (
        "Write {subject} instead of {id} in the patterns where it is the patient, or give --subject-regex."
    )

    image: str = option(
        "pattern of the images below SOURCE, such as 'images/{id}.nii.gz' or 'image_{subject}.nii.gz'",
        metavar="PATTERN",
        required=True,
    )
    label: str | None = option(
        "pattern of the masks, with the same placeholders (without it all images are unlabelled)", metavar="PATTERN"
    )
    unlabeled: str | None = option("pattern of further images that have no mask", metavar="PATTERN")
    labels: dict[int, str] | None = option(  # noqa: RUF009 - a field, as dataclasses.field
        "names of the mask values", parse=parse_mask_labels, metavar="1=liver,2=spleen"
    )
    subject_regex: str | None = option(
        "regular expression searched in each image's file name; its first group is the subject", metavar="REGEX"
    )

    def read(self, source: Path) -> Draft:
        """See :meth:`Preparer.read`."""
        if not source.is_dir():
            raise DataError("a folder of images is needed, but this is a file", where=source)
        files, linked = walk_files(source)
        taken = {path.relative_to(source).as_posix(): path for path in files}
        own = self._placeholders()
        masks = self._match(taken, "label", self.label, own) if self.label is not None else {}
        rest = {shown: path for shown, path in taken.items() if path not in masks.values()}
        images = self._match(rest, "image", self.image, own)
        rest = {shown: path for shown, path in rest.items() if path not in images.values()}
        more = self._match(rest, "unlabeled", self.unlabeled, own) if self.unlabeled is not None else {}
        self._check_pairs(source, images, masks)
        entries, organs = self._entries(source, images, masks, more)
        others = [shown for shown, path in rest.items() if path not in more.values()]
        others += [f"{name}/ (a symbolic link)" for name in linked]
        notes = (f"left alone, matched by no pattern: {brief(others, 20)}",) if others else ()
        labels = self._labels(source, organs)
        return Draft("segmentation", labels, entries, name=source.name, organs=organs, notes=notes)

    def _placeholders(self) -> list[str]:
        try:
            return sorted(compile_pattern(self.image).groupindex)
        except ValueError as error:
            raise ConfigError(str(error), where="--image", found=repr(self.image)) from error

    def _match(self, files: dict[str, Path], option_name: str, pattern: str, own: Sequence[str]) -> dict[Key, Path]:
        where = f"--{option_name}"
        try:
            compiled = compile_pattern(pattern)
        except ValueError as error:
            raise ConfigError(str(error), where=where, found=repr(pattern)) from error
        if set(compiled.groupindex) != set(own):
            raise ConfigError(
                "the placeholders differ from those of --image", where=where, found=repr(pattern), expected=self.image
            )
        found: dict[Key, Path] = {}
        for shown, path in files.items():
            match = compiled.fullmatch(shown)
            if match is None:
                continue
            key = tuple(match.group(name) for name in sorted(compiled.groupindex))
            if key in found:
                raise DataError(
                    f"{found[key].name} and {path.name} both match {pattern!r} with the same id {'/'.join(key)!r}",
                    where=path.parent,
                    advice="Narrow the pattern.",
                )
            found[key] = path
        if not found:
            raise DataError(
                f"no file matches {where} {pattern!r}", found=brief(files) or "no files",
                advice="The whole path below SOURCE must match; {id} and * stand for characters other than '/'.",
            )  # fmt: skip
        return found

    def _check_pairs(self, source: Path, images: dict[Key, Path], masks: dict[Key, Path]) -> None:
        if self.label is None:
            return
        problems = [
            f"{_shown(source, images[key])}: no mask matches it" for key in sorted(images.keys() - masks.keys())
        ]
        problems += [
            f"{_shown(source, masks[key])}: no image matches it" for key in sorted(masks.keys() - images.keys())
        ]
        raise_problems(
            problems, source, advice="Add the partners, or match images that have no mask with --unlabeled instead."
        )

    def _entries(
        self, source: Path, images: dict[Key, Path], masks: dict[Key, Path], more: dict[Key, Path]
    ) -> tuple[list[Entry], dict[str, frozenset[int]]]:
        placeholders = self._placeholders()
        if "subject" in placeholders and self.subject_regex is not None:
            raise ConfigError("the subject is told twice: by {subject} and by --subject-regex", where="--subject-regex")
        read = subject_reader(self.subject_regex)
        entries, organs, problems, missed = [], {}, [], []
        for key, path in [*images.items(), *more.items()]:
            subject = key[placeholders.index("subject")] if "subject" in placeholders else read(path.name)
            if self.subject_regex is not None and subject is None:
                missed.append(_shown(source, path))
            shown = path
            try:
                image, mask = Material.of_file(source, path), None
                if path is images.get(key) and key in masks:
                    shown = masks[key]
                    mask = Material.of_file(source, shown)
                    organs[mask.target] = mask_values(shown)
            except ValueError as error:
                problems.append(f"{_shown(source, shown)} {error}")
                continue
            entries.append(Entry(image, mask, subject))
        raise_problems(problems, source)
        check_subjects_read(missed, source)
        return entries, organs

    def _labels(self, source: Path, organs: dict[str, frozenset[int]]) -> dict[int, str]:
        present = sorted(frozenset().union(*organs.values()))
        if self.labels is None:
            if not organs:
                return {0: "background"}
            raise ConfigError(
                "the mask values need names",
                where="--labels",
                found=f"values {brief(present, 30)}",
                advice=f"For example --labels {','.join(f'{value}=NAME' for value in present if value)}.",
            )
        if len(self.labels) < 2:
            raise ConfigError("at least one value besides the background needs a name", where="--labels")
        problems = [
            f"{target}: holds {brief(sorted(values - self.labels.keys()))}, which --labels does not name"
            for target, values in organs.items()
            if values - self.labels.keys()
        ]
        raise_problems(problems, source, advice=f"--labels names {brief(self.labels, 30)}.")
        return self.labels


def _shown(source: Path, path: Path) -> str:
    return path.relative_to(source).as_posix()
