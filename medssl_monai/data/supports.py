"""Labelled scans chosen by name: who knows which of his scans is the best support need not leave it to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.budget import Budget
from medssl_monai.data.budget_order import classes_of
from medssl_monai.data.datalist import FILE_NAME
from medssl_monai.data.organs import organs_present


def choose_supports(budget: Budget, names: Sequence[str] | None) -> Budget:
    """A budget whose labelled items are these training items, in this order, instead of those drawn.

    The others go to the pool without labels; validation and test stay as they are.

    Args:
        budget: see :func:`select_budget`.
        names: names of training items, as ``datalist.json`` has them (the image's path); ``None`` or none at all: the
            budget as it is.

    Raises:
        ConfigError: for a name that no item has, one that is given twice, or one of another split; or one text in place
            of a list.
        DataError: when one has no label.
    """
    if not names:
        return budget
    if isinstance(names, str):
        raise ConfigError("scans must be given as a list", where="supports", found=names, expected=f"[{names}]")
    where, datalist = budget.datalist.root / FILE_NAME, budget.datalist
    training = {item.name: item for item in datalist.splits.get("training", [])}
    chosen = []
    for name in names:
        if name not in training:
            elsewhere = [split for split, items in datalist.splits.items() if any(item.name == name for item in items)]
            raise ConfigError(
                f"{name!r} is in the split {elsewhere[0]}" if elsewhere else f"no training image is called {name!r}",
                where="supports", found=list(names), expected=f"names of training items of {where}",
                advice=None if elsewhere else did_you_mean(name, training),
            )  # fmt: skip
        chosen.append(training[name])
    if len(set(names)) < len(names):
        raise ConfigError("a name is given twice", where="supports", found=list(names))
    if clash := [item.name for item in chosen if item in budget.validation]:
        raise ConfigError(
            f"{clash[0]!r} validates in this run", where="supports", found=list(names),
            advice="Set validation_share to 0, or choose another.",
        )  # fmt: skip
    for item in chosen:
        if item.label is None:
            raise DataError("it has no mask, and a support needs one", where=item.name, expected="a label in its entry")
    classes = classes_of(datalist)
    shown = organs_present(datalist, chosen)
    counts = {name: sum(value in shown[str(item.label)] for item in chosen) for value, name in classes.items()}
    others = [replace(item, label=None) for item in budget.labeled if item.name not in names]
    return replace(
        budget,
        labeled=chosen,
        unlabeled=[item for item in budget.unlabeled if item.name not in names] + others,
        request={**budget.request, "label_fraction": None, "label_budget": len(chosen), "supports": list(names)},
        n_requested=len(chosen),
        classes_training=counts,
    )
