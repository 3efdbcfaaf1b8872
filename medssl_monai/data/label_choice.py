"""Which labels of a dataset a network learns: exclusive classes, or labels that are each there or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from medssl_monai.core import ConfigError, did_you_mean
from medssl_monai.data.datalist import FILE_NAME, Datalist, Label, Task


def choose_labels(datalist: Datalist, labels: Sequence[str]) -> Datalist:
    """A dataset reduced to labels that are each learnt by an output of their own (a sigmoid, not a softmax).

    One name makes a binary task, that label against everything else: a label of a multilabel dataset, the finding of a
    binary one, or one class of several. Several names are a multilabel task in the order of ``labels``.

    Args:
        datalist: a dataset with class indices or 0/1 vectors.
        labels: names of the network's outputs.

    Returns:
        Task ``binary`` with one name and labels 0 or 1, or task ``multilabel`` with vectors in the order of ``labels``.

    Raises:
        ConfigError: when there is no name or one stands twice, one is not a label of the dataset, or several classes of
            a dataset of exclusive classes are asked for.
    """
    names, chosen = datalist.class_names, [str(name) for name in labels]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            "a list of different names is needed", where="labels", found=chosen, expected=f"some of {names}"
        )
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ConfigError(
            f"the dataset has no label {unknown[0]!r}", where="labels", found=chosen, expected=f"some of {names}",
            advice=did_you_mean(unknown[0], names),
        )  # fmt: skip
    if datalist.task != "multilabel" and len(chosen) > 1:
        raise ConfigError(
            "an image of this dataset has one class, so that several labels are no separate questions",
            where=datalist.root / FILE_NAME, found=f"task {datalist.task}, labels {chosen}",
            expected="task multilabel, or one label", advice="Name one class, such as "
            f"labels=\"['{chosen[-1]}']\", or learn the classes as exclusive ones.",
        )  # fmt: skip
    columns = [names.index(name) for name in chosen]
    task: Task = "multilabel" if len(chosen) > 1 else "binary"
    convert = _converter(datalist, columns)
    splits = {
        split: [item if item.label is None else replace(item, label=convert(item.label)) for item in items]
        for split, items in datalist.splits.items()
    }
    return replace(datalist, task=task, labels=chosen, splits=splits)


def _converter(datalist: Datalist, columns: Sequence[int]) -> Callable[[Label], Label]:
    if datalist.task == "multilabel" and len(columns) > 1:
        return lambda vector: tuple(vector[k] for k in columns)  # type: ignore[index, misc]
    if datalist.task == "multilabel":
        return lambda vector: vector[columns[0]]  # type: ignore[index, return-value]
    if len(datalist.class_names) == 1:  # a binary task that names its finding only
        return lambda index: index
    return lambda index: int(index == columns[0])
