"""``medssl next``: the unlabelled cases most worth labelling next."""

from __future__ import annotations

import argparse
import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.apps._model import OpenRun, Predictions
from medssl_monai.apps._pools import Pools, find_pools
from medssl_monai.apps.features import Case, add_run_arguments
from medssl_monai.apps.run import parse_overrides
from medssl_monai.core import ConfigError, DataError, atomic_path, hash_case
from medssl_monai.metrics import Choice, choose_batch, collapse_warning, predictive_entropy
from medssl_monai.metrics.acquisition import STRATEGIES

logger = logging.getLogger(__name__)

_DESCRIPTION = """Choose, as one batch, the cases whose labels would help most: those the trained classifier is unsure
of (entropy of its calibrated probabilities) that lie far from every labelled case and from one another in the
encoder's embedding. Candidates are the items of DATA whose labels the run has not used: the split 'unlabeled' and,
where RUN/models/budget.json is of this dataset, the training items outside its budget; or every image of a plain
folder. Test and validation cases, other images of their subjects, and copies (same content) of these and of labelled
cases are never proposed; of candidates that are copies of one another only the first by name is."""
#: nine in ten uncertainties within this range hardly weigh one case above another
_LEAST_SPREAD = 0.05
_HEADER = (
    "rank", "image", "subject", "case", "uncertainty", "predicted", "probability", "distance_to_labelled",
    "nearest_labelled", "reason",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Add ``next``."""
    parser = subparsers.add_parser("next", help="the cases most worth labelling next", description=_DESCRIPTION)
    add_run_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example batch_size=64")
    parser.add_argument("--k", type=int, default=20, help="how many cases to ask for (default: 20)")
    parser.add_argument("--out", type=Path, default=Path("next.csv"), help="CSV to write (default: next.csv)")
    parser.add_argument(
        "--strategy", choices=STRATEGIES, default=STRATEGIES[0], help=f"what counts (default: {STRATEGIES[0]})"
    )
    parser.add_argument(
        "--per-subject", type=int, default=1, metavar="N",
        help="at most N cases of one subject (default: 1; 0 sets no limit)",
    )  # fmt: skip
    parser.add_argument(
        "--labelled", type=Path, metavar="DATASET",
        help="dataset of the labelled cases, where DATA is a plain folder (default: the one the run was trained on)",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Choose, write the CSV, print a table.

    Raises:
        ConfigError: for a number out of range, an unknown key, or a bundle that is no classifier.
        CheckpointError: when there is no trained network.
        DataError: when there is no candidate, or an image cannot be read.
    """
    for option, value, least in (("--k", arguments.k, 1), ("--per-subject", arguments.per_subject, 0)):
        if value < least:
            raise ConfigError("out of range", where=option, found=value, expected=f"at least {least}")
    overrides = parse_overrides(arguments.overrides)
    opened = OpenRun(arguments.bundle, arguments.data, arguments.run_dir, None, overrides, arguments.overlay)
    pools = find_pools(arguments.data, opened.ckpt_dir, arguments.labelled, opened.config.get("plane"))
    for note in pools.notes:
        logger.info("%s", note)
    found = opened.predict([case.record for case in (*pools.candidates, *pools.labelled)])
    rows = propose(opened, pools, found, arguments.k, arguments.per_subject or None, arguments.strategy)
    write_proposals(arguments.out, rows)
    print(f"{len(rows)} of {len(pools.candidates)} candidates, {len(pools.labelled)} cases labelled already")
    print(_table(rows))
    if len(rows) < arguments.k:
        limit = f" with at most {arguments.per_subject} of a subject" if arguments.per_subject else ""
        print(f"note: fewer than {arguments.k}, there are no more candidates{limit}")
    for warning in pools.warnings + cautions(found.embeddings, _uncertainty(opened, pools, found)):
        print(f"warning: {warning}")
    print(f"wrote {arguments.out} (it names your images: keep it in a folder of your own)")
    return 0


def propose(
    opened: OpenRun, pools: Pools, found: Predictions, k: int, per_subject: int | None, strategy: Any
) -> list[dict[str, Any]]:
    """Rows of the table of proposals, in the order of choice.

    Raises:
        ConfigError: when the bundle gives no probabilities of exclusive classes or labels.
        DataError: when an embedding has no direction.
    """
    number, uncertainty = len(pools.candidates), _uncertainty(opened, pools, found)
    probabilities, names = np.asarray(found.probabilities)[:number], [case.name for case in pools.candidates]
    zero = np.flatnonzero(~found.embeddings.any(axis=1))
    if len(zero):
        raise DataError(
            f"{len(zero)} images have an embedding of zeros", where=found.names[int(zero[0])],
            advice="The encoder is blind to them: look at the images, or train again.",
        )  # fmt: skip
    choice = choose_batch(
        found.embeddings[:number], uncertainty, names, k,
        labelled=found.embeddings[number:] if pools.labelled else None,
        subjects=[case.group for case in pools.candidates], per_subject=per_subject, strategy=strategy,
    )  # fmt: skip
    return [
        {
            "rank": rank + 1,
            "image": names[index],
            "subject": pools.candidates[index].subject,
            "case": hash_case(names[index]),
            "uncertainty": f"{uncertainty[index]:.4f}",
            "predicted": _predicted(opened, probabilities[index]),
            "probability": f"{probabilities[index].max():.4f}",
            **_nearest(choice, index, pools.labelled),
            "reason": _reason(choice, rank, uncertainty, _guesses(opened, probabilities[index]), strategy),
        }
        for rank, index in enumerate(choice.indices.tolist())
    ]


def _uncertainty(opened: OpenRun, pools: Pools, found: Predictions) -> np.ndarray:
    """Entropy of each candidate's prediction, 0 to 1."""
    if found.probabilities is None:
        raise ConfigError("cases are chosen by a classifier's predictions", where=opened.bundle.name)
    try:
        exclusive = opened.exclusive and pools.task != "multilabel"
        return predictive_entropy(found.probabilities[: len(pools.candidates)], exclusive=exclusive)
    except ValueError as error:
        raise ConfigError(
            f"the predictions of this bundle are no probabilities of a case: {error}", where=opened.bundle.name
        ) from error


def cautions(embeddings: np.ndarray, uncertainty: np.ndarray) -> list[str]:
    """What makes a choice of cases less than it seems, in words."""
    found = []
    if (collapsed := collapse_warning(embeddings)) is not None:
        found.append(f"{collapsed}; the choice rests on uncertainty alone")
    low, high = np.quantile(uncertainty, [0.05, 0.95])
    if len(uncertainty) > 1 and high - low < _LEAST_SPREAD:
        found.append(
            f"the classifier is about equally unsure of all candidates (uncertainty {low:.3f} to {high:.3f} for nine "
            "in ten): the choice rests on coverage alone"
        )
    return found


def _nearest(choice: Choice, index: int, labelled: Sequence[Case]) -> dict[str, str]:
    if not labelled:
        return {"distance_to_labelled": "", "nearest_labelled": ""}
    nearest = labelled[int(choice.nearest_labelled[index])].name
    return {"distance_to_labelled": f"{choice.to_labelled[index]:.4f}", "nearest_labelled": nearest}


def _predicted(opened: OpenRun, shares: np.ndarray) -> str:
    """The class of a case, or the labels it is called."""
    names = opened.class_names
    if opened.exclusive:
        return names[shares.argmax()]
    return " + ".join(name for name, called in zip(names, opened.called(shares)) if called) or "none"


def _guesses(opened: OpenRun, shares: np.ndarray) -> str:
    """What the classifier wavers between: the two most probable classes, or the labels it is least sure of."""
    names = opened.class_names
    order = shares.argsort(kind="stable")[::-1] if opened.exclusive else np.abs(shares - 0.5).argsort(kind="stable")
    return (" or " if opened.exclusive else ", ").join(f"{names[i]} ({shares[i]:.0%})" for i in order[:2])


def _reason(choice: Choice, rank: int, uncertainty: np.ndarray, guesses: str, strategy: str) -> str:
    """Why a case was chosen, in words: how unsure the classifier is, how far the case is from what is known."""
    index, parts = int(choice.indices[rank]), []
    if strategy != "coverage":
        above = float((uncertainty < uncertainty[index]).mean())
        parts.append(f"{guesses}: more uncertain than {above:.0%} of the candidates")
    if strategy != "uncertainty":
        distance = choice.distances[rank]
        if np.isfinite(choice.to_labelled[index]):
            above = float((choice.to_labelled < choice.to_labelled[index]).mean())
            parts.append(f"farther from the labelled cases than {above:.0%} of the candidates")
        if np.isfinite(distance):
            parts.append(f"{distance:.2f} from the nearest labelled or earlier proposed case")
    return "; ".join(parts) or "the first of the batch"


def write_proposals(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the CSV, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _HEADER)
        writer.writeheader()
        writer.writerows(rows)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    shown = ("rank", "image", "uncertainty", "predicted", "distance_to_labelled")
    texts = [[name.replace("_", " ") for name in shown], *([str(row[name]) for name in shown] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(shown))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in texts)
