"""``medssl supports``: which labelled scan is the best support."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medssl_monai.apps._model import keys_read_by
from medssl_monai.apps.features import add_run_arguments
from medssl_monai.apps.run import parse_overrides, readable_cause, resolve_config
from medssl_monai.core import ConfigError, MedSSLError, atomic_path
from medssl_monai.engines.support import SupportMemory, read_scans
from medssl_monai.engines.support_table import SupportRow, support_table
from medssl_monai.handlers.embeddings import encoder_settings
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.storage import load_tensors
from medssl_monai.handlers.support_record import SUPPORT_FILE, read_support
from medssl_monai.networks import load_state

_DESCRIPTION = """Segment the labelled scans of a dataset's training split by one another: each as the only support of
all others, without their labels, so that the one to annotate with care, or to serve by, can be chosen. Dice is that on
the grid of the network's input. Nothing is trained and no model is changed."""


def add_parser(subparsers: Any) -> None:
    """Add ``supports``."""
    parser = subparsers.add_parser("supports", help="the best support among labelled scans", description=_DESCRIPTION)
    add_run_arguments(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys of the bundle's train stage")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a pretrain.pt or model.pt; else as for training")
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="also write the table (for your own folder)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Compare, print the table, best first, and write it.

    Raises:
        ConfigError: for an unknown key, or a bundle that has no bank of prototypes.
        CheckpointError: when there are no weights, or they are of another network.
        DataError: when there are fewer than two labelled scans, or one cannot be used.
    """
    if arguments.out is not None and arguments.out.suffix != ".csv":
        raise ConfigError("the file's name must end in .csv", where=arguments.out)
    memory = open_memory(
        arguments.bundle, arguments.data, arguments.run_dir, arguments.weights, parse_overrides(arguments.overrides),
        arguments.overlay,
    )  # fmt: skip
    network = memory.network.to(memory.device)
    rows = support_table(network, read_scans(memory.dataset, list(memory.organs), memory.device))
    names = list(memory.organs.values())
    if arguments.out is not None:
        write_rows(arguments.out, rows, names)
    print(f"Dice of the other scans by one support, best first ({len(rows)} labelled scans):")
    print("\n".join(printed(rows, names)))
    if arguments.out is not None:
        print(f"written to {arguments.out}")
    return 0


def open_memory(
    bundle: str | Path,
    data: Path,
    run_dir: Path | None,
    weights: Path | None,
    overrides: Mapping[str, Any],
    overlays: Sequence[str] = (),
) -> SupportMemory:
    """A bundle's support memory with all labelled scans of the training split, its encoder loaded.

    Args:
        bundle: the bundle's folder or name; its train stage has the key ``memory``.
        data: dataset folder.
        run_dir: folder of the run; ``None`` as for ``medssl run``.
        weights: an encoder (``pretrain.pt``) or a whole segmenter (``model.pt``); ``None``: as the train stage.
        overrides: keys of the train stage; what is not given here is as the weights were trained.
        overlays: names or files of overlays.

    Raises:
        ConfigError: when a key is unknown, or the bundle has no such memory.
        CheckpointError: when the weights are missing or of another network.
    """
    whole = weights is not None and "foreground" in load_tensors(weights)
    given = {"dataset_dir": str(data), "label_fraction": 1.0, "label_budget": None, **overrides}
    if weights is not None:
        given["pretrained"] = None if whole else str(weights)
    config, _ = resolve_config(bundle, "train", given, overlays, run_dir)
    if "memory" not in config:
        raise ConfigError(
            "this bundle has no bank of prototypes: supports are of one-shot segmentation", where=Path(bundle).name,
            expected="a train stage with the key memory", advice="`medssl bundle list` says what each bundle does.",
        )  # fmt: skip
    told = _trained(config, weights)
    read = keys_read_by({"preprocessing": config.get("train", {}).get("preprocessing"), **config})
    told = {key: value for key, value in told.items() if key in read and key not in given}
    if "validation_share" in config:
        given = {"validation_share": 0.0, **given}  # every labelled scan takes part
    config, _ = resolve_config(bundle, "train", {**told, **given}, overlays, run_dir)
    try:
        memory: SupportMemory = ConfigParser(config).get_parsed_content("memory")
        if weights is not None and whole:
            load_state(memory.network.encoder, weights, prefix="encoder.")
    except MedSSLError:
        raise
    except Exception as error:
        raise readable_cause(error, "train") from error
    return memory


def _trained(config: Mapping[str, Any], weights: Path | None) -> dict[str, Any]:
    """Settings that the weights were trained with, as far as they are recorded beside them."""
    source = ConfigParser(dict(config)).get_parsed_content("pretrained") if weights is None else weights
    if source is None:
        return {}
    if Path(source).name == MODEL_FILE:
        folder = Path(source).parent
        return dict(read_support(folder)["settings"]) if (folder / SUPPORT_FILE).is_file() else {}
    return encoder_settings(source)


def printed(rows: Sequence[SupportRow], organs: Sequence[str]) -> list[str]:
    """The table in lines of text."""
    table = [["support", "mean", *organs]]
    table += [[row.name, *(_number(value, "-", 3) for value in (row.mean, *row.dice))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table)]
    return [
        "  ".join(
            cell.ljust(width) if not k else cell.rjust(width) for k, (cell, width) in enumerate(zip(line, widths))
        )
        for line in table
    ]


def write_rows(path: Path, rows: Sequence[SupportRow], organs: Sequence[str]) -> None:
    """Write a CSV: support, mean, and Dice and number of other scans of each organ; empty where it is undefined."""
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["support", "mean", *(f"{part}_{name}" for name in organs for part in ("dice", "n"))])
        for row in rows:
            cells = [cell for dice, n in zip(row.dice, row.n_queries) for cell in (_number(dice, "", 6), int(n))]
            writer.writerow([row.name, _number(row.mean, "", 6), *cells])


def _number(value: float, undefined: str, digits: int) -> str:
    return undefined if math.isnan(value) else f"{value:.{digits}f}"
