"""From a dataset folder to a dataset of masks, with the checks that a network of organs needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.datalist import FILE_NAME, Datalist, load_datalist
from medssl_monai.data.exams import select_plane


def segmentation_datalist(
    folder: str | Path, labels: Sequence[str] | None = None, need_labels: bool = True, plane: str | None = None
) -> Datalist:
    """Read a dataset for a network that segments organs.

    Its property ``organs`` maps mask values to names, without the background and in ascending order: channel k of a
    network (k from 1, 0 is the background) is the k-th of them. Mask values that are not among them, where ``labels``
    names some organs only, count as background; the transforms that prepare masks have to map them so.

    Args:
        folder: the ``dataset_dir``.
        labels: names of the organs to learn, in the order of their mask values; ``None`` for all.
        need_labels: whether the stage learns from masks, or measures by them. ``False``: a dataset in which no item has
            a label is taken as it is, whatever its task and ``labels`` say.
        plane: where an image is a mapping of names (planes, sequences) to files, the one that masks belong to (see
            :func:`medssl_monai.data.exams.select_plane`); ``None`` for single images.

    Raises:
        DataError: when there is no datalist, it has problems, or masks are needed and there is none.
        ConfigError: when the task is another, no organ is named, two share a name, ``labels`` are not organs of the
            dataset in their order, or an image's ``plane`` is missing or not wanted.
    """
    datalist = select_plane(load_datalist(folder), plane)
    where = datalist.root / FILE_NAME
    if not datalist.labelled:
        if need_labels:
            raise DataError(
                "no image of this dataset has a mask, and this stage needs masks", where=where,
                found=f"{len(datalist)} image{'s'[: len(datalist) != 1]} without a mask",
                advice="Outline the organs in one of them and prepare the dataset again (`medssl prepare nifti` with "
                "--label for the masks and --unlabeled for the rest).",
            )  # fmt: skip
        return datalist
    if datalist.task != "segmentation":
        raise ConfigError(
            "this bundle learns masks of organs", where=where, found=f"task {datalist.task}",
            expected="segmentation", advice="`medssl prepare nifti` pairs images with masks.",
        )  # fmt: skip
    organs = datalist.organs
    if not organs:
        raise ConfigError(
            "labels name no organ, only the background", where=where, found=datalist.labels,
            expected='mask values and names, such as {"0": "background", "1": "liver"}',
        )  # fmt: skip
    if repeated := sorted({name for name in organs.values() if list(organs.values()).count(name) > 1}):
        raise ConfigError(
            f"two mask values have the name {repeated[0]!r}", where=where, found=organs,
            advice="Give each value of `labels` a name of its own.",
        )  # fmt: skip
    if isinstance(labels, str):
        raise ConfigError("organs must be given as a list", where="labels", found=labels, expected=f"[{labels}]")
    return datalist if labels is None else _chosen(datalist, [str(name) for name in labels])


def datalist_organs(folder: str | Path, labels: Sequence[str] | None = None) -> dict[int, str]:
    """Mask values and names of the organs of a dataset (see :func:`segmentation_datalist`, which also says the errors).

    Args:
        folder: the ``dataset_dir``.
        labels: names of some of them, in the order of their mask values; ``None`` for all.
    """
    return segmentation_datalist(folder, labels).organs


def _chosen(datalist: Datalist, names: list[str]) -> Datalist:
    known = list(datalist.organs.values())
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"the dataset has no organ {unknown[0]!r}", where="labels", found=names, expected=f"some of {known}",
            advice=did_you_mean(unknown[0], known),
        )  # fmt: skip
    in_order = [name for name in known if name in names]
    if not names or names != in_order:
        raise ConfigError(
            "organs stand once each, in the order of their mask values", where="labels", found=names,
            expected=in_order or f"some of {known}", advice="Leave it null for all organs of the dataset.",
        )  # fmt: skip
    kept = {value: name for value, name in datalist.organs.items() if name in names}
    return replace(datalist, labels={0: datalist.class_names[0], **kept} if 0 in datalist.labels else kept)
