"""What an encoder has seen before it is judged: labels outside the budget are refused, test subjects are counted."""

from __future__ import annotations

from medssl_monai.apps.protocol.source import Source
from medssl_monai.core import ConfigError, DataError, hash_case, read_json
from medssl_monai.data import Budget
from medssl_monai.handlers.budget import BUDGET_FILE
from medssl_monai.handlers.provenance import hash_subjects, pretraining
from medssl_monai.handlers.serving import SERVING_FILE


def subjects_seen(source: Source, budget: Budget) -> int | None:
    """How many test subjects the encoder was trained with; ``None`` where that is not known.

    Raises:
        ConfigError: when it has learnt from labels that this budget does not count.
        DataError: when it has seen a subject that validates or tests here (pre-training; what a trained network has
            seen of the test subjects is counted, as evaluation does).
        CheckpointError: when what stands beside the encoder tells of another one.
    """
    if source.stage == "untrained":
        # published weights know other data, as far as anybody can tell
        return 0
    if source.stage == "pretrain":
        record = pretraining(budget, source.weights)
        if record is None or record["key"] != hash_case("key"):
            return None
        if record["dataset"] != budget.datalist.name:
            return 0
        return len(set(record["subjects"]) & hash_subjects(budget.datalist.name, budget.test))
    _refuse_other_labels(source, budget)
    path = source.weights.parent / SERVING_FILE
    serving = read_json(path) if path.is_file() else {}
    if serving.get("seen_key") != hash_case("key"):
        return None
    name, seen = budget.datalist.name, set(serving["seen_subjects"])
    return len(seen & hash_subjects(name, budget.test))


def _refuse_other_labels(source: Source, budget: Budget) -> None:
    path = source.weights.parent / BUDGET_FILE
    if not path.is_file():
        return
    used = read_json(path)
    if used["dataset"] != budget.datalist.name:
        return
    own = {item.name for item in budget.labeled + budget.validation}
    uncounted = {*used["training"], *used["validation"]} - own
    if uncounted:
        raise ConfigError(
            f"the encoder was trained with {len(uncounted)} labels that are outside this budget", where=source.weights,
            advice="Ask for the run's own budget (leave --budget and --labels out), or judge its pretrain.pt.",
        )  # fmt: skip
    exchanged = set(used["training"]) & {item.name for item in budget.validation}
    if exchanged:
        raise DataError(
            f"{len(exchanged)} images that validate here were trained on", where=source.weights,
            advice="Give the run's own --split-seed.",
        )  # fmt: skip
