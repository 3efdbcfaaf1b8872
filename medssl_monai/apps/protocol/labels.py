"""Which labels a protocol learns from: those asked for, else those that the run's train stage had."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import yaml

from medssl_monai.apps.protocol.source import Source
from medssl_monai.apps.study.definition import parse_budgets
from medssl_monai.core import ConfigError, read_json
from medssl_monai.data import Budget, evaluation_items, long_tailed, select_budget
from medssl_monai.handlers.budget import BUDGET_FILE

_AMOUNT = ("label_fraction", "label_budget")
_FURTHER = ("validation_share", "min_validation")
_LONG_TAIL = "long_tail_factor"


def choose_budget(source: Source, arguments: argparse.Namespace) -> tuple[Budget, dict[str, Any]]:
    """The labels that may be used, and whose they are, plain values for the record.

    What is not asked for is as the train stage of the run had it, so that figures stand beside those of fine-tuning on
    the same labels; in a run without one as the stage had it that made the encoder. Whether images of validation and
    test may have been seen (``transductive``) is always told by the latter.

    Raises:
        ConfigError: when two amounts are given, or one cannot be read.
        DataError: when the dataset has no labelled test image.
    """
    if arguments.budget is not None and arguments.labels is not None:
        raise ConfigError("--budget and --labels are both given", found=f"{arguments.budget} and {arguments.labels}")
    stage, config = _stage_of_labels(source)
    amount = {key: config[key] for key in _AMOUNT if _is_number(config.get(key))}
    text = str(arguments.labels) if arguments.labels is not None else arguments.budget
    if text is not None:
        budgets = parse_budgets(text, "--budget")
        if len(budgets) != 1:
            raise ConfigError("one budget at a time", where="--budget", found=text)
        amount = dict(budgets[0].overrides)
    split_seed = config.get("split_seed", 0) if arguments.split_seed is None else arguments.split_seed
    further = {key: config[key] for key in _FURTHER if _is_number(config.get(key))}
    if isinstance(source.config.get("transductive"), bool):
        further["transductive"] = source.config["transductive"]
    factor, option = arguments.long_tail, "--long-tail"
    if factor is None and _is_number(config.get(_LONG_TAIL)):
        factor, option = config[_LONG_TAIL], _LONG_TAIL
    datalist = long_tailed(source.datalist(arguments.data), factor, split_seed, option)
    evaluation_items(datalist)  # refuses a dataset without labelled test images
    asked = text is not None or any(key in source.overrides for key in _AMOUNT)
    about = {"budget_of": "asked for" if asked else stage, _LONG_TAIL: factor}
    return select_budget(datalist, **amount, split_seed=split_seed, **further), about


def _stage_of_labels(source: Source) -> tuple[str, Mapping[str, Any]]:
    """The stage whose labels are the default, and what it was told of them; the user's keys win."""
    folder = source.weights.parent
    stage, config = source.stage, dict(source.config)
    if (folder / BUDGET_FILE).is_file():
        stage, used = "train", read_json(folder / BUDGET_FILE)
        config |= {key: used.get(key) for key in (*_AMOUNT, *_FURTHER, "split_seed")}
        recorded = folder / "train_config.yaml"  # MONAI's own command leaves none
        if recorded.is_file():
            config[_LONG_TAIL] = yaml.safe_load(recorded.read_text(encoding="utf-8")).get(_LONG_TAIL)
    return stage, {**config, **source.overrides}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
