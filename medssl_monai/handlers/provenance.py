"""What a network has seen, by keyed hashes: so that labels are counted and leaks noticed across stages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.core import (
    CheckpointError,
    ConfigError,
    DataError,
    file_digest,
    hash_case,
    hash_key,
    read_json,
    write_json,
)
from medssl_monai.core.distributed import is_main
from medssl_monai.data.budget import Budget
from medssl_monai.data.datalist import Item

logger = logging.getLogger(__name__)

_SUFFIX = ".seen.json"


def hash_subjects(dataset: str, items: Sequence[Item]) -> set[str]:
    """Keyed hashes of the subjects of items; the dataset's name is part of what is hashed."""
    key = hash_key()
    return {hash_case(f"{dataset}|{group}", key) for group in {item.group for item in items}}


def _hash_items(dataset: str, items: Sequence[Item]) -> set[str]:
    key = hash_key()
    return {hash_case(f"{dataset}|{item.name}", key) for item in items}


class PretrainRecord:
    """Writes what a pretrain stage has seen beside its encoder (``pretrain.pt.seen.json``), with the encoder's digest.

    It must stand behind the handler that saves the encoder.

    Args:
        budget: the images and labels of the stage.
        folder: where the encoder goes.
        parent: record of the encoder the stage started from; what that has seen counts too.
        filename: the encoder's file name.
        uses_labels: whether the stage learns from labels; those of one that does not are not counted against the
            budgets of the runs that start from its encoder, so that all of them may share it.
    """

    def __init__(
        self,
        budget: Budget,
        folder: str | Path,
        parent: Mapping[str, Any] | None = None,
        filename: str = "pretrain.pt",
        uses_labels: bool = True,
    ) -> None:
        self.budget, self.encoder, self.parent = budget, Path(folder) / filename, parent or {}
        self.uses_labels = uses_labels

    def attach(self, engine: Engine) -> None:
        """Write when an epoch of ``engine`` is complete."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def write(self, engine: Engine | None = None) -> None:
        """Write the record."""
        if not is_main():
            return
        name, budget = self.budget.datalist.name, self.budget
        own = _hash_items(name, budget.labeled) if self.uses_labels else set()
        labeled = own | set(self.parent.get("labeled", ()))
        subjects = hash_subjects(name, budget.labeled + budget.unlabeled) | set(self.parent.get("subjects", ()))
        content = {
            "dataset": name,
            "key": hash_case("key"),
            "sha256": file_digest(self.encoder),
            "labeled": sorted(labeled),
            "subjects": sorted(subjects),
        }
        write_json(Path(f"{self.encoder}{_SUFFIX}"), content)


def pretraining(budget: Budget, pretrained: str | Path | None) -> dict[str, Any] | None:
    """Check an encoder's pre-training against the budget of the run that starts from it.

    Args:
        budget: labels of this run.
        pretrained: the encoder's file; ``None`` where there is none.

    Returns:
        The record beside the encoder, ``None`` where there is neither.

    Raises:
        CheckpointError: when the record is not of this encoder.
        ConfigError: when the encoder was pre-trained with labels of this dataset that this run's budget does not count.
        DataError: when it has seen a subject that validates or tests here.
    """
    if pretrained is None:
        return None
    path = Path(f"{pretrained}{_SUFFIX}")
    if not path.is_file():
        logger.warning("%s: nothing is known of the images and labels it was pre-trained with", pretrained)
        return None
    record: dict[str, Any] = read_json(path)
    if record["sha256"] != file_digest(pretrained):
        raise CheckpointError(
            "what lies beside it tells of another encoder, so that its labels cannot be counted", where=pretrained,
            advice="Run the pretrain stage to its end again, or bring the encoder's own .seen.json.",
        )  # fmt: skip
    name = budget.datalist.name
    if record["key"] != hash_case("key"):
        logger.warning("%s was made under another hash key: leaks from pre-training cannot be noticed", path)
        return record
    if record["dataset"] != name:
        logger.info("pre-trained on %s with %d labels", record["dataset"], len(record["labeled"]))
        return record
    uncounted = set(record["labeled"]) - _hash_items(name, budget.labeled)
    if uncounted:
        raise ConfigError(
            f"the encoder was pre-trained with {len(uncounted)} labels that are outside this run's budget",
            where=pretrained,
            advice="Give both stages the same label_fraction (or label_budget) and split_seed, or pre-train anew.",
        )
    if budget.request["transductive"]:
        return record  # images of validation and test may be seen; their labels cannot be, see above
    leaked = set(record["subjects"]) & hash_subjects(name, budget.validation + budget.test)
    if leaked:
        raise DataError(
            f"{len(leaked)} subjects that validate or test here were seen in pre-training",
            where=pretrained,
            advice="Give both stages the same dataset and split_seed, or pre-train anew.",
        )
    return record


def seen_subjects(budget: Budget, record: Mapping[str, Any] | None) -> list[str]:
    """Hashes of all subjects a network has seen: training, unlabelled, validation, and in pre-training."""
    own = hash_subjects(budget.datalist.name, budget.labeled + budget.unlabeled + budget.validation)
    return sorted(own | set(record["subjects"] if record else ()))
