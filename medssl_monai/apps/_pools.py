"""Which cases may be proposed for labelling, and which are labelled already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medssl_monai.apps.features import Case, datalist_cases, find_cases
from medssl_monai.core import DataError, file_digest, read_json, sampled_digest, text_digest
from medssl_monai.data.datalist import FILE_NAME, Datalist, load_datalist
from medssl_monai.data.exams import select_plane
from medssl_monai.data.readers.partners import data_files
from medssl_monai.handlers.budget import BUDGET_FILE


@dataclass
class Pools:
    """Cases by what ``medssl next`` may do with them.

    Attributes:
        candidates: may be proposed.
        labelled: their labels are used; near-duplicates of them are not asked for.
        task: of the dataset; empty text for a plain folder.
        notes: what was left out or is not known, in words.
        apart: files of the dataset that may not be proposed, nor copies of them.
        warnings: what was left out though the data does not say so, in words.
    """

    candidates: list[Case]
    labelled: list[Case]
    task: str = ""
    notes: list[str] = field(default_factory=list)
    apart: list[Path] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def find_pools(data: Path, ckpt_dir: Path, labelled: Path | None = None, plane: str | None = None) -> Pools:
    """Candidates and labelled cases of a dataset or a plain folder.

    Files are compared by content too: copies of images that are labelled, validate or test are no candidates, and of
    candidates that are copies of one another only the first by name is.

    Args:
        data: dataset folder, folder of images, or one image.
        ckpt_dir: folder with the run's ``budget.json``.
        labelled: dataset of the labelled cases, for a plain folder; ``None``: the one recorded with the run.
        plane: of exams of several planes, the one that the run has learnt.

    Raises:
        DataError: when nothing may be proposed, or a file cannot be read.
    """
    path = ckpt_dir / BUDGET_FILE
    budget: dict[str, Any] | None = read_json(path) if path.is_file() else None
    if (data / FILE_NAME).is_file():
        pools = _of_dataset(select_plane(load_datalist(data), plane), budget)
    else:
        known = _known_dataset(labelled, ckpt_dir, budget)
        known = None if known is None else select_plane(known, plane)
        pools = _of_folder(find_cases(data, plane=plane), known, budget)
    _leave_out_copies(pools)
    if not pools.candidates:
        raise DataError(
            "no case is left to propose", where=data, found="; ".join(pools.notes + pools.warnings) or None,
            advice="Put unlabelled images into the split 'unlabeled', or name a folder of them.",
        )  # fmt: skip
    return pools


def _of_dataset(datalist: Datalist, budget: dict[str, Any] | None) -> Pools:
    training = datalist_cases(datalist, ("training",))
    held = datalist_cases(datalist, ("validation", "test"))
    notes: list[str] = []
    if budget is not None and budget["dataset"] == datalist.name:
        used, judged = set(budget["training"]), set(budget["validation"])
        carved = [case for case in training if case.name in judged]
        if lost := len((used | judged) - {item.name for _, item in datalist}):
            notes.append(f"{lost} images whose labels the run used are no longer in the dataset")
    else:
        used, judged, carved = {case.name for case in training}, {case.name for case in held}, []
        of = "there is no budget.json" if budget is None else f"the run was trained on {budget['dataset']!r}"
        notes.append(f"{of}: all training items count as labelled")
    candidates = [case for case in training if case.name not in used | judged]
    candidates += datalist_cases(datalist, ("unlabeled",))
    # a subject that validates or tests stays out of training as a whole
    apart = {key for case in (*held, *carved) for key in (case.group, *case.paths)}
    allowed = [case for case in candidates if not apart & {case.group, *case.paths}]
    if len(allowed) < len(candidates):
        notes.append(f"{len(candidates) - len(allowed)} images of subjects that validate or test are not proposed")
    known = [case for case in training if case.name in used] + carved
    known += [case for case in held if case.split == "validation" and case.name in judged]
    free = {path for case in allowed for path in case.paths}
    rest = [datalist.root / path for _, item in datalist for path in item.paths if path not in free]
    return Pools(allowed, known, datalist.task, notes, rest)


def _of_folder(cases: list[Case], datalist: Datalist | None, budget: dict[str, Any] | None) -> Pools:
    notes = ["no subject information in a plain folder: every image counts as its own subject"]
    if datalist is None or budget is None:
        notes.append("the labelled cases are not known here: near-duplicates of them may be proposed (see --labelled)")
        return Pools(cases, [], "", notes)
    pools = _of_dataset(datalist, budget)
    taken = {path.resolve() for path in pools.apart}
    allowed = [case for case in cases if Path(case.record["image"]).resolve() not in taken]
    if len(allowed) < len(cases):
        notes.append(f"{len(cases) - len(allowed)} images are labelled already, validate or test in {datalist.name!r}")
    return Pools(allowed, pools.labelled, datalist.task, notes, pools.apart)


def _leave_out_copies(pools: Pools) -> None:
    """Take copies out of the candidates, with a warning that counts them."""
    files = {case.name: _files(case) for case in pools.candidates}
    content = _contents([*pools.apart, *(path for paths in files.values() for path in paths)])
    apart, seen = {content[path] for path in pools.apart}, set()
    kept: set[str] = set()
    copies = twins = 0
    for name in sorted(files):
        key = tuple(content[path] for path in files[name])
        if apart & set(key):
            copies += 1
        elif key in seen:
            twins += 1
        else:
            seen.add(key)
            kept.add(name)
    if gone := sum(not path.exists() for path in pools.apart):
        pools.notes.append(f"{gone} images of the dataset are not there: copies of them cannot be noticed")
    if copies:
        pools.warnings.append(
            f"{copies} candidates are copies (same content) of images that are labelled, validate or test, or of "
            "another image of those subjects: left out"
        )
    if twins:
        pools.warnings.append(
            f"{twins} candidates are copies (same content) of another candidate: only the first by name counts"
        )
    pools.candidates = [case for case in pools.candidates if case.name in kept]


def _files(case: Case) -> list[Path]:
    image = case.record["image"]
    return [Path(path) for path in (image.values() if isinstance(image, dict) else [image])]


def _contents(paths: Iterable[Path]) -> dict[Path, tuple[Any, ...]]:
    """Keys of files and folders that are equal where the contents are; a missing file equals none but itself.

    Only files of equal size are opened, and only those with equal ends too are read as a whole.

    Raises:
        DataError: when a file cannot be read.
    """
    keys: dict[Path, tuple[Any, ...]] = dict.fromkeys(paths, ())
    steps: Sequence[Callable[[Path], Any]] = (_size, sampled_digest, file_digest)
    for step in steps:
        counts = Counter(keys.values())
        for path, key in keys.items():
            if counts[key] > 1:
                keys[path] = (*key, _over_files(path, step))
    return keys


def _size(path: Path) -> int:
    return path.stat().st_size


def _over_files(path: Path, step: Callable[[Path], Any]) -> Any:
    """What ``step`` gives of a file; of a folder (a DICOM series) that of its files, whatever their names."""
    try:
        if path.is_dir():
            found = sorted(str(step(entry)) for entry in path.rglob("*") if entry.is_file())
            return len(found), text_digest(found)
        beside = [file for file in data_files(path) if file.is_file()]
        if beside:  # a header may be the same for all images, its voxels are not
            return tuple(step(file) for file in (path, *beside))
        return step(path) if path.is_file() else str(path)  # that it is missing is told where it is loaded
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path) from error


def _known_dataset(labelled: Path | None, ckpt_dir: Path, budget: dict[str, Any] | None) -> Datalist | None:
    """The dataset whose labels the run used: as given, else as recorded with the run, where it still lies there.

    Raises:
        DataError: when the one given is not that of the run.
    """
    if labelled is not None:
        datalist = load_datalist(labelled)
        if budget is None or budget["dataset"] != datalist.name:
            raise DataError(
                "not the dataset whose labels the run used", where=labelled, found=datalist.name,
                expected=f"no {BUDGET_FILE} in {ckpt_dir}" if budget is None else budget["dataset"],
            )  # fmt: skip
        return datalist
    recorded = ckpt_dir / "train_config.yaml"
    if budget is None or not recorded.is_file():
        return None
    config = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    keys = {key: config[key] for key in ("bundle_root", "dataset_dir") if key in config}
    folder = Path(str(ConfigParser(keys).get_parsed_content("dataset_dir"))) if "dataset_dir" in keys else None
    if folder is None or not (folder / FILE_NAME).is_file():
        return None
    datalist = load_datalist(folder)
    return datalist if datalist.name == budget["dataset"] else None
