"""From what a layout found to the splits of a datalist: whole subjects, stratified, the publisher's split kept."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.datalist import SPLITS, SUBJECT_PREFIX, Item, Split
from medssl_monai.data.prepare.layout import Draft, Entry, logger
from medssl_monai.data.prepare.source import Material, brief
from medssl_monai.data.splits import split_by_subject

_PARTS: tuple[Split, Split, Split] = ("training", "validation", "test")


def parse_split(text: str) -> tuple[float, float, float]:
    """Shares of training, validation and test from ``70/10/20``, summing to 1.

    Raises:
        ConfigError: when it is not three percentages that sum to 100, or leaves nothing for training.
    """
    try:
        shares = [float(part) for part in text.split("/")]
    except ValueError:
        shares = []
    if len(shares) != 3 or not all(0 <= share <= 100 for share in shares) or abs(sum(shares) - 100) > 1e-6:
        raise ConfigError(
            "not a split",
            where="--split",
            found=repr(text),
            expected="percentages of training/validation/test that sum to 100, such as 70/10/20",
        )
    if not shares[0]:
        raise ConfigError("a split needs a training part", where="--split", found=repr(text))
    return shares[0] / 100, shares[1] / 100, shares[2] / 100


def assemble(draft: Draft, shares: Sequence[float], seed: int, subject_advice: str) -> dict[Split, list[Item]]:
    """Put a draft's entries into splits.

    Where the publisher split the labelled images that split is kept; a missing validation part is then carved from
    training. Otherwise subjects are drawn, stratified by class. Unlabelled images of validation and test subjects are
    left out (and counted in the log), because pre-training must not see those patients.

    Args:
        draft: what the layout found.
        shares: shares of training, validation and test.
        seed: seed of the draw.
        subject_advice: what the warning about missing subjects recommends.

    Raises:
        DataError: when there is no image, or no labelled one is left for training.
    """
    if not draft.entries:
        raise DataError(
            "no image was found", where=draft.name, advice="Check that SOURCE is the folder that holds the images."
        )
    _warn_about_subjects(draft, subject_advice)
    pairs = [(entry, _item(entry)) for entry in draft.entries]
    unlabeled = [
        item for entry, item in pairs if entry.split == "unlabeled" or (not entry.split and item.label is None)
    ]
    published: dict[Split, list[Item]] = {
        part: [item for entry, item in pairs if entry.split == part] for part in _PARTS
    }
    free = [item for entry, item in pairs if entry.split is None and item.label is not None]
    splits = _draw(draft, free, shares, _PARTS, seed) if free else _keep(draft, published, shares, seed)
    splits["unlabeled"] = _without_held_out(unlabeled, splits)
    _report_gaps(draft, splits)
    return {part: splits[part] for part in SPLITS if splits.get(part)}


def _item(entry: Entry) -> Item:
    image = entry.image.target if isinstance(entry.image, Material) else {k: m.target for k, m in entry.image.items()}
    label = entry.label.target if isinstance(entry.label, Material) else entry.label
    subject = None if entry.subject is None else f"{SUBJECT_PREFIX}{entry.subject}"
    return Item(image=image, label=label, subject=subject, columns=entry.columns)


def _warn_about_subjects(draft: Draft, advice: str) -> None:
    missing = sum(entry.subject is None for entry in draft.entries)
    if missing == len(draft.entries):
        warnings.warn(
            "no subject information: every file counts as its own patient, so that images of one patient can fall "
            f"into training and test. {advice}",
            stacklevel=4,
        )
    elif missing:
        logger.warning("%d of %d images have no subject: each counts as its own patient", missing, len(draft.entries))


def _draw(
    draft: Draft, items: Sequence[Item], shares: Sequence[float], parts: Sequence[Split], seed: int
) -> dict[Split, list[Item]]:
    whole = sum(shares)
    drawn = split_by_subject(
        items,
        [share / whole for share in shares],
        seed=seed,
        task=draft.task,
        num_classes=len(draft.labels),
        organs=draft.organs,
    )
    return dict(zip(parts, drawn, strict=True))


def _keep(
    draft: Draft, published: dict[Split, list[Item]], shares: Sequence[float], seed: int
) -> dict[Split, list[Item]]:
    splits = dict(published)
    if not any(splits.values()):
        return splits
    if not splits["training"]:
        raise DataError(
            "the publisher's split has no training part",
            where=draft.name,
            found=", ".join(part for part in _PARTS if splits[part]),
        )
    seen = Counter(group for part in _PARTS for group in {item.group for item in splits[part]})
    leaking = sorted(group for group, count in seen.items() if count > 1)
    if leaking:
        logger.warning(
            "the publisher's split is kept, but %d subject(s) stand in more than one part of it: %s",
            len(leaking),
            brief(leaking),
        )
    if not splits["validation"] and shares[1]:
        splits |= _draw(draft, splits["training"], shares[:2], _PARTS[:2], seed)
        logger.info("validation: %d images carved from the publisher's training part", len(splits["validation"]))
    return splits


def _without_held_out(unlabeled: list[Item], splits: dict[Split, list[Item]]) -> list[Item]:
    held_out = {item.group for part in ("validation", "test") for item in splits[part]}  # type: ignore[index]
    kept = [item for item in unlabeled if item.group not in held_out]
    if len(kept) < len(unlabeled):
        logger.warning(
            "%d unlabelled images are left out: their subjects are in validation or test", len(unlabeled) - len(kept)
        )
    return kept


def _report_gaps(draft: Draft, splits: dict[Split, list[Item]]) -> None:
    if any(splits[part] for part in _PARTS):
        for part in ("validation", "test"):
            if not splits[part]:  # type: ignore[index]
                logger.warning("there is no %s part", part)
    if isinstance(draft.labels, list) and splits["training"]:
        seen = {index for item in splits["training"] for index in _classes(item)}
        absent = [name for index, name in enumerate(draft.labels) if index not in seen]
        if absent:
            logger.warning("training has no image of class %s", brief(absent))


def _classes(item: Item) -> list[int]:
    if isinstance(item.label, tuple):
        return [index for index, value in enumerate(item.label) if value]
    return [item.label] if isinstance(item.label, int) else []
