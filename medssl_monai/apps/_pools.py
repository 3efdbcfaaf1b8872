"""Which cases may be proposed for labelling, and which are labelled already."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medssl_monai.apps.features import Case, datalist_cases, find_cases
from medssl_monai.core import DataError, read_json
from medssl_monai.data.datalist import FILE_NAME, Datalist, load_datalist
from medssl_monai.handlers.budget import BUDGET_FILE


@dataclass
class Pools:
    """Cases by what ``medssl next`` may do with them.

    Attributes:
        candidates: may be proposed.
        labelled: their labels are used; near-duplicates of them are not asked for.
        task: of the dataset; empty text for a plain folder.
        notes: what was left out or is not known, in words.
    """

    candidates: list[Case]
    labelled: list[Case]
    task: str = ""
    notes: list[str] = field(default_factory=list)


def find_pools(data: Path, ckpt_dir: Path, labelled: Path | None = None) -> Pools:
    """Candidates and labelled cases of a dataset or a plain folder.

    Args:
        data: dataset folder, folder of images, or one image.
        ckpt_dir: folder with the run's ``budget.json``.
        labelled: dataset of the labelled cases, for a plain folder; ``None``: the one recorded with the run.

    Raises:
        DataError: when nothing may be proposed.
    """
    path = ckpt_dir / BUDGET_FILE
    budget: dict[str, Any] | None = read_json(path) if path.is_file() else None
    if (data / FILE_NAME).is_file():
        pools = _of_dataset(load_datalist(data), budget)
    else:
        pools = _of_folder(find_cases(data), _known_dataset(labelled, ckpt_dir, budget), budget)
    if not pools.candidates:
        raise DataError(
            "no case is left to propose", where=data, found="; ".join(pools.notes) or None,
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
    return Pools(allowed, known, datalist.task, notes)


def _of_folder(cases: list[Case], datalist: Datalist | None, budget: dict[str, Any] | None) -> Pools:
    notes = ["no subject information in a plain folder: every image counts as its own subject"]
    if datalist is None or budget is None:
        notes.append("the labelled cases are not known here: near-duplicates of them may be proposed (see --labelled)")
        return Pools(cases, [], "", notes)
    pools = _of_dataset(datalist, budget)
    free = {path for case in pools.candidates for path in case.paths}
    taken = {(datalist.root / path).resolve() for _, item in datalist for path in item.paths if path not in free}
    allowed = [case for case in cases if Path(case.record["image"]).resolve() not in taken]
    if len(allowed) < len(cases):
        notes.append(f"{len(cases) - len(allowed)} images are labelled already, validate or test in {datalist.name!r}")
    return Pools(allowed, pools.labelled, datalist.task, notes)


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
