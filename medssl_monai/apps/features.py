"""``medssl features``: embeddings of images by a bundle's encoder."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.apps._model import OpenRun
from medssl_monai.apps.run import parse_overrides
from medssl_monai.core import ConfigError, atomic_path, did_you_mean, hash_case
from medssl_monai.data.datalist import FILE_NAME, SPLITS, Datalist, Item, Label, load_datalist
from medssl_monai.data.exams import select_plane
from medssl_monai.data.label_choice import choose_labels
from medssl_monai.data.records import inference_records
from medssl_monai.handlers.features import Features
from medssl_monai.metrics import collapse_warning, effective_rank

_DESCRIPTION = """Embed every image by a bundle's encoder, with the bundle's own preprocessing, and write them as
OUT.npz: embeddings (N, D), case (keyed hashes of the names), label, predicted, class_names, split, metadata. Image
size, backbone and the like are taken as the run was trained; KEY=VALUE overrides a key of the inference stage."""


def add_parser(subparsers: Any) -> None:
    """Add ``features``."""
    parser = subparsers.add_parser("features", help="embeddings of images", description=_DESCRIPTION)
    add_run_arguments(parser)
    parser.add_argument("out", type=Path, metavar="OUT.npz", help="file to write")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example batch_size=64")
    parser.add_argument("--encoder", type=Path, metavar="FILE", help="an encoder's weights, such as pretrain.pt")
    parser.add_argument("--split", metavar="NAME", help="of a dataset: training, validation, test or unlabeled")
    parser.add_argument(
        "--names", type=Path, metavar="FILE.csv", help="also write which hash is which image (for your own folder)"
    )
    parser.set_defaults(command=run)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of commands that open a trained run: bundle, data, run folder, overlays."""
    parser.add_argument("bundle", help="a bundle's folder, or the name of one that ships with the package")
    parser.add_argument("data", type=Path, help="dataset folder, folder of images, or one image")
    parser.add_argument("--run-dir", type=Path, help="folder of the trained run (as given to medssl run)")
    parser.add_argument("--overlay", action="append", default=[], help="an overlay's name or file; may be repeated")


def run(arguments: argparse.Namespace) -> int:
    """Embed, write, and say what the embeddings are like.

    Raises:
        ConfigError: for an unknown split or key, or an output that is not an ``.npz``.
        CheckpointError: when there are no weights.
        DataError: when there is no image, or one cannot be read.
    """
    if arguments.out.suffix != ".npz":
        raise ConfigError("the file's name must end in .npz", where=arguments.out)
    overrides = parse_overrides(arguments.overrides)
    opened = OpenRun(
        arguments.bundle, arguments.data, arguments.run_dir, arguments.encoder, overrides, arguments.overlay
    )
    cases = find_cases(arguments.data, arguments.split, opened.config.get("plane"))
    features = embed(opened, cases)
    features.save(arguments.out)
    if arguments.names is not None:
        write_names(arguments.names, [case.name for case in cases])
    number, width = features.embeddings.shape
    print(f"{arguments.out}: {number} embeddings of {width} values by {opened.weights}")
    print(f"effective rank {effective_rank(features.embeddings, center=True):.1f} of {min(max(number - 1, 1), width)}")
    if (warning := collapse_warning(features.embeddings)) is not None:
        print(f"warning: {warning}")
    return 0


@dataclass(frozen=True)
class Case:
    """An image to embed.

    Attributes:
        record: data dictionary with ``image`` and ``name``.
        split: of the dataset; empty text for images of no dataset.
        item: its entry in the datalist, where it has one.
    """

    record: dict[str, Any]
    split: str = ""
    item: Item | None = None

    @property
    def name(self) -> str:
        """Path relative to the dataset's or image folder."""
        return str(self.record["name"])

    @property
    def label(self) -> int:
        """Class index; -1 where it is unknown or is no single class."""
        label = None if self.item is None else self.item.label
        return label if isinstance(label, int) else -1

    @property
    def group(self) -> str:
        """The subject, else the image itself."""
        return self.name if self.item is None else self.item.group

    @property
    def subject(self) -> str:
        """The subject; empty text where it is not known."""
        return "" if self.item is None or self.item.subject is None else self.item.subject

    @property
    def paths(self) -> tuple[str, ...]:
        """The image's paths relative to the dataset."""
        return (self.name,) if self.item is None else self.item.paths


def find_cases(data: Path, split: str | None = None, plane: str | None = None) -> list[Case]:
    """The images of a dataset, a folder, or one image.

    Args:
        data: the dataset, folder or image.
        split: of a dataset, the split to take.
        plane: of exams of several planes, the one that the run has learnt.

    Raises:
        ConfigError: for an unknown split or plane, or a split of a folder that is no dataset.
        DataError: when there is no image, or an exam lacks the plane.
    """
    if split is not None and split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="--split", advice=did_you_mean(split, SPLITS))
    if (data / FILE_NAME).is_file():
        inference_records(data, split, plane)  # refuses an empty choice as inference does
        return datalist_cases(select_plane(load_datalist(data), plane), (split,) if split else SPLITS)
    if split is not None:
        raise ConfigError(
            "only a dataset has splits", where="--split", found=split, expected=f"a {FILE_NAME} in {data}"
        )
    return [Case(record) for record in inference_records(data, plane=plane)]


def datalist_cases(datalist: Datalist, splits: Sequence[str]) -> list[Case]:
    """Items of some splits of a dataset, in its order."""
    return [
        Case({key: datalist.record(item)[key] for key in ("image", "name")}, split, item)
        for split, item in datalist
        if split in splits
    ]


def embed(opened: OpenRun, cases: Sequence[Case]) -> Features:
    """Embeddings and predictions of cases, in their order."""
    found = opened.predict([case.record for case in cases])
    if found.probabilities is None:
        predicted = np.full(len(cases), -1)
    else:
        predicted = found.probabilities.argmax(axis=1) if opened.exclusive else opened.called(found.probabilities)
    return Features(
        embeddings=found.embeddings,
        case=np.array([hash_case(name) for name in found.names]),
        label=_labels(opened, cases),
        predicted=predicted.astype(np.int64),
        class_names=np.array(opened.class_names, dtype=str),
        split=np.array([case.split for case in cases]),
        metadata={**opened.describe(), "key": hash_case("key")},
    )


def _labels(opened: OpenRun, cases: Sequence[Case]) -> np.ndarray:
    """Class index of each case, (N,), or 0 and 1 of each of its labels, (N, C); -1 where unknown."""
    if opened.exclusive:
        return np.array([case.label for case in cases], dtype=np.int64)
    known: dict[str, Label | None] = {}
    if (opened.data / FILE_NAME).is_file():
        datalist = load_datalist(opened.data)
        if set(opened.class_names) <= set(datalist.class_names):
            known = {item.name: item.label for _, item in choose_labels(datalist, opened.class_names)}
    unknown = [-1] * len(opened.class_names)
    rows = [unknown if (label := known.get(case.name)) is None else np.atleast_1d(label) for case in cases]
    return np.array(rows, dtype=np.int64).reshape(len(cases), len(unknown))


def write_names(path: Path, names: Sequence[str]) -> None:
    """Which keyed hash is which image: a CSV for the user's own folder."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["case", "image"])
        writer.writerows((hash_case(name), name) for name in names)
