"""From a dataset folder to the data dictionaries of a stage, with the checks a stage needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai.core import ConfigError, DataError, did_you_mean, read_json
from medssl_monai.data.datalist import FILE_NAME, SPLITS, Datalist, Item, load_datalist
from medssl_monai.data.exams import plane_images, select_plane
from medssl_monai.data.label_choice import choose_labels
from medssl_monai.data.readers import find_images

#: written by :class:`medssl_monai.handlers.BudgetRecord`, a floor above
_BUDGET_FILE = "budget.json"


def classification_datalist(
    folder: str | Path,
    labels: Sequence[str],
    exclusive: bool | None = True,
    plane: str | None = None,
    need_labels: bool = True,
) -> Datalist:
    """Read a dataset for a classifier.

    Its property ``exclusive`` says how the network's outputs, as many as ``labels``, are to be read: as exclusive
    classes (softmax; labels are class indices) or as labels that are each there or not (sigmoid; labels are 0 or 1, or
    0/1 vectors).

    Args:
        folder: the ``dataset_dir``.
        labels: class names of the network's outputs, in order.
        exclusive: what the bundle learns. ``True``: the exclusive classes of a dataset, all of them. ``False``: labels
            of a multilabel dataset, or one label of any dataset against everything else (see
            :func:`medssl_monai.data.label_choice.choose_labels`); ``labels: [acl]`` is then a binary task. ``None``:
            as the dataset has it; one name is one label.
        plane: of exams of several planes, the one to learn (see :func:`medssl_monai.data.exams.select_plane`); items
            keep the exam's name. ``None`` for single images.
        need_labels: whether the stage learns from labels, or measures by them. ``False``: a dataset in which no item
            has a label is taken as it is, whatever ``labels`` and ``exclusive`` say.

    Raises:
        DataError: when there is no datalist, it has problems, an exam lacks the plane, or labels are needed and there
            is none.
        ConfigError: when the task does not fit, the dataset names one class only, its classes are not ``labels``, or it
            has no such plane.
    """
    datalist = select_plane(load_datalist(folder), plane)
    if not datalist.labelled:
        if need_labels:
            raise _no_label(datalist)
        return datalist
    if datalist.task == "segmentation" and not exclusive:
        raise ConfigError(
            "this bundle learns labels of an image", where=datalist.root / FILE_NAME, found="task segmentation",
            expected="binary, multiclass or multilabel",
        )  # fmt: skip
    if not exclusive and (exclusive is False or not datalist.exclusive or len(labels) == 1):
        return choose_labels(datalist, labels)
    if datalist.task not in ("binary", "multiclass"):
        raise ConfigError(
            "this bundle learns one class an image", where=datalist.root / FILE_NAME, found=f"task {datalist.task}",
            expected="binary or multiclass",
        )  # fmt: skip
    if len(datalist.class_names) < 2:
        raise ConfigError(
            "this bundle learns two or more classes", where=datalist.root / FILE_NAME,
            found=f"labels {datalist.class_names}",
            advice="Name both classes of a binary task in `labels`, the one without the finding first.",
        )  # fmt: skip
    if datalist.class_names != list(labels):
        raise ConfigError(
            "the dataset has other classes than the configuration", where="labels", found=list(labels),
            expected=datalist.class_names, advice=f'Give labels="{datalist.class_names}" (after `medssl run`; '
            "--labels with a space after `monai.bundle run`).",
        )  # fmt: skip
    return datalist


def _no_label(datalist: Datalist) -> DataError:
    return DataError(
        "no image of this dataset has a label, and this stage needs labels", where=datalist.root / FILE_NAME,
        found=f"{len(datalist)} image{'s'[: len(datalist) != 1]} without a label", advice="Label some of them and "
        "prepare the dataset again (`medssl prepare folder` with a folder for each class, or `table`). Without any "
        "label the pretrain stage of the contrastive bundles and `medssl features` run.",
    )  # fmt: skip


def datalist_labels(folder: str | Path, need_labels: bool = True) -> list[str]:
    """Class names of a dataset in index order, for bundles that learn whatever labels it has.

    Args:
        folder: the ``dataset_dir``.
        need_labels: ``False``: of a dataset in which no item has a label they may be empty.

    Raises:
        DataError: when there is no datalist, it has problems, or labels are needed and there is none.
        ConfigError: when its labels are masks.
    """
    datalist = load_datalist(folder)
    if not datalist.labelled:
        if need_labels:
            raise _no_label(datalist)
        return datalist.class_names
    if datalist.task == "segmentation":
        raise ConfigError(
            "this bundle learns labels of an image", where=datalist.root / FILE_NAME, found="task segmentation",
            expected="binary, multiclass or multilabel",
        )  # fmt: skip
    return datalist.class_names


def evaluation_items(datalist: Datalist, split: str = "test", ckpt_dir: str | Path | None = None) -> list[Item]:
    """Labelled items to evaluate a trained network on.

    Args:
        datalist: the dataset.
        split: ``test``; or ``validation``, the items whose labels the training run has used to choose by, as its
            ``budget.json`` names them: further labels of that split would be spent, and a dataset without the split has
            them among its training items. An ensemble takes its weights from these.
        ckpt_dir: the run's folder of checkpoints, for ``validation``.

    Raises:
        DataError: when there are no such items, or the budget is of another dataset.
        ConfigError: for another split.
    """
    if split == "test":
        items = [item for item in datalist.splits.get("test", []) if item.label is not None]
        advice = "Evaluation needs a `test` split with labels; `medssl prepare --split 70/10/20` makes one."
        if not items and any(item.label is not None for item in datalist.splits.get("validation", [])):
            advice = (
                "Where the dataset has no test part on purpose (`medssl prepare mrnet --paper-protocol`), only the "
                "validation split can be measured: split=validation, whose figures are too good, for the network was "
                "chosen by them. For a test result prepare it with a test part."
            )
    elif split == "validation":
        items = _validation_items(datalist, ckpt_dir)
        advice = "Train with more labels (label_fraction) or a larger validation_share."
    else:
        raise ConfigError(f"unknown split {split!r}", where="split", advice=did_you_mean(split, ("test", "validation")))
    if not datalist.labelled:
        raise _no_label(datalist)
    if not items:
        raise DataError(f"no labelled {split} image", where=datalist.root / FILE_NAME, advice=advice)
    return items


def _validation_items(datalist: Datalist, ckpt_dir: str | Path | None) -> list[Item]:
    path = Path(ckpt_dir or "") / _BUDGET_FILE
    if ckpt_dir is None or not path.is_file():
        raise DataError(
            "which labels have validated is not known", where=path if ckpt_dir else "ckpt_dir",
            advice="The train stage writes budget.json beside the weights: run that first, or name its ckpt_dir.",
        )  # fmt: skip
    budget = read_json(path)
    by_name = {item.name: item for _, item in datalist}
    missing = [name for name in budget["validation"] if name not in by_name or by_name[name].label is None]
    if budget["dataset"] != datalist.name or missing:
        raise DataError(
            "the run was validated on other images", where=path,
            found=f"dataset {budget['dataset']!r}" if not missing else f"{len(missing)} that are not in the dataset",
            expected=f"the items of {datalist.name!r}", advice="Give the dataset (and plane) of the train stage.",
        )  # fmt: skip
    return [by_name[name] for name in budget["validation"]]


def exam_items(folder: str | Path, split: str = "test") -> list[Item]:
    """Items that predictions of a split may be of, by their exams' names whatever the plane, for an ensemble.

    Args:
        folder: the ``dataset_dir``.
        split: ``test``: its labelled items. ``validation``: every labelled item that is not tested, for validation may
            have been carved from training.

    Raises:
        DataError: when there is no such item, no datalist, or it has problems.
        ConfigError: for another split.
    """
    datalist = load_datalist(folder)
    if split != "validation":
        return evaluation_items(datalist, split)
    items = [item for part, item in datalist if part != "test" and item.label is not None]
    if not items:
        raise _no_label(datalist)
    return items


def evaluation_records(
    datalist: Datalist, split: str = "test", ckpt_dir: str | Path | None = None
) -> list[dict[str, Any]]:
    """Data dictionaries of :func:`evaluation_items`.

    Raises:
        DataError: when there are no such items, or the budget is of another dataset.
        ConfigError: for an unknown split.
    """
    return [datalist.record(item) for item in evaluation_items(datalist, split, ckpt_dir)]


def inference_records(folder: str | Path, split: str | None = None, plane: str | None = None) -> list[dict[str, Any]]:
    """Data dictionaries of the images to predict: of a dataset folder, or of any folder of images.

    Args:
        folder: a folder with ``datalist.json``, a folder of images (searched through), or one image.
        split: of a datalist, the split to predict; ``None`` predicts all.
        plane: ``sagittal``, ``coronal`` or ``axial`` where the folder holds exams of several planes, such as the DICOM
            series of a knee: only images of this plane, under their exams' names (see
            :func:`medssl_monai.data.exams.plane_images`). One image that is named itself is taken as it is.

    Returns:
        Dictionaries with ``image`` (path) and ``name`` (path relative to the folder, or the exam's name).

    Raises:
        DataError: when there is nothing to predict, or the exams' planes are not clear.
        ConfigError: for an unknown split or plane.
    """
    root = Path(folder)
    if split is not None and split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}", where="inference_split", advice=did_you_mean(split, SPLITS))
    if (root / FILE_NAME).is_file():
        datalist = load_datalist(root)
        datalist.splits = {name: items for name, items in datalist.splits.items() if split in (None, name)}
        datalist = select_plane(datalist, plane) if datalist.splits else datalist
        records = [{key: datalist.record(item)[key] for key in ("image", "name")} for _, item in datalist]
    elif root.is_file():
        records = [{"image": str(root), "name": root.name}]
    elif root.is_dir() and plane is not None:
        found = plane_images(root, plane)
        records = [{"image": str(path), "name": name} for name, path in found.items()]
    elif root.is_dir():
        records = [{"image": str(path), "name": str(path.relative_to(root))} for path in find_images(root)]
    else:
        raise DataError("no such file or folder", where=root, advice="Name the images' folder as dataset_dir.")
    if not records:
        found_instead = f"split {split!r}" if split else "an empty folder"
        raise DataError("no image to predict here", where=root, found=found_instead)
    return records
