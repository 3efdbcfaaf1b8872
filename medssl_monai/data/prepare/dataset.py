"""The entry point: a dataset as its publisher ships it, turned into a folder with ``datalist.json``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medssl_monai.core import DataError
from medssl_monai.data.datalist import Datalist, datalist_problems
from medssl_monai.data.prepare.assemble import assemble, parse_split
from medssl_monai.data.prepare.layout import PREPARERS, Draft, Entry, logger
from medssl_monai.data.prepare.output import OutputFolder, check_apart
from medssl_monai.data.prepare.source import Content, raise_problems


def prepare_dataset(
    layout: str,
    source: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    modality: str | None = None,
    license: str | None = None,  # noqa: A002 - the datalist's word
    split: str = "70/10/20",
    seed: int = 0,
    link: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    **options: Any,
) -> Datalist:
    """Prepare a dataset; the same call goes on after an interruption and changes nothing when all is done.

    Args:
        layout: name of the layout (``folder``, ``table``, ``nifti``, ``ham10000``, ``isic2018``, ``medmnist``, ...).
        source: the dataset as published; never modified.
        out: folder of the prepared dataset.
        name: the dataset's name; default: the source's.
        modality: for example ``MR``; default: the layout's, else ``unknown``.
        license: licence of the data; default: the layout's, else ``unknown``.
        split: percentages of training/validation/test, drawn by subject; not used where the publisher split the data,
            save for the share of a validation part that the publisher lacks.
        seed: seed of that draw.
        link: symbolic links to the source's files (relative) instead of copies.
        overwrite: replace another dataset in ``out``.
        progress: show a progress bar on stderr (where that is a terminal).
        options: the layout's own options, as on the command line with ``_`` for ``-``.

    Returns:
        The datalist, with ``root`` set to ``out``.

    Raises:
        ConfigError: for an unknown layout or option.
        DataError: with everything that is wrong in the source; nothing is written then.
        OutputError: when ``out`` cannot be used.

    Warns:
        UserWarning: when no subject is known, so that every file counts as its own patient.
    """
    preparer = PREPARERS.get(layout).from_options(options)
    shares = parse_split(split)
    source, out = Path(source), Path(out)
    if not source.exists():
        raise DataError("SOURCE does not exist", where=source)
    source = source.resolve()
    check_apart(source, out)
    draft = preparer.read(source)
    if draft.root is not None:
        check_apart(draft.root, out)
    for note in draft.notes:
        logger.warning("%s", note)
    datalist = Datalist(
        name=name or draft.name,
        task=draft.task,
        labels=draft.labels,
        splits=assemble(draft, shares, seed, preparer.subject_advice),
        modality=modality or draft.modality,
        license=license or draft.license,
        description=draft.description,
        root=out,
    )
    raise_problems(datalist_problems(json.loads(json.dumps(datalist.to_json()))), source)
    given = {"name": name, "modality": modality, "license": license, "split": split, "seed": seed, "link": link}
    record = {"layout": layout, "source": str(source), "options": {**dataclasses.asdict(preparer), **given}}
    folder = OutputFolder(out, json.loads(json.dumps(record)), link=link, overwrite=overwrite)
    folder.write(_files(_kept(draft, datalist), source), datalist, progress=progress)
    return datalist


def _kept(draft: Draft, datalist: Datalist) -> list[Entry]:
    """Entries that are in the datalist (some unlabelled images of held-out subjects are not)."""
    listed = {path for _, item in datalist for path in item.paths}
    return [entry for entry in draft.entries if entry.materials[0].target in listed]


def _files(entries: Iterable[Entry], source: Path) -> dict[str, Content]:
    files: dict[str, Content] = {}
    problems = []
    for entry in entries:
        for material in entry.materials:
            for target, content in material.files.items():
                # A path is one thing: two images of the same name would overwrite each other.
                if files.setdefault(target, content) != content:
                    problems.append(f"{target}: two different images would get this name")
    raise_problems(problems, source)
    return files
