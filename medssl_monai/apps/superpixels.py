"""``medssl superpixels DATA``: prepare the scans of a dataset and their superpixels, before pre-training needs them."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from tqdm import tqdm

from medssl_monai.apps.run import parse_overrides, readable_cause, resolve_config
from medssl_monai.core import ConfigError, DataError, MedSSLError
from medssl_monai.data import episode_dataset
from medssl_monai.data.episodes import PreparedScan, prepare_scan

_BUNDLE, _STAGE, _NODE = "cowpro_abdominal_segmentation", "pretrain", "train::dataset"
_TARGET = "medssl_monai.data.episode_dataset"
_DESCRIPTION = """Prepare the scans that the pretrain stage would learn from, and their superpixels, several at a time:
read, brought to the net's grid and intensities, cut into superpixels, and kept in the stage's cache_dir. The stage
finds them there by the scans' files and by the settings, so give the same KEY=VALUE and overlays as to it. What is
there already is not made again: an interrupted run goes on where it was."""


def add_parser(subparsers: Any) -> None:
    """Add ``superpixels``."""
    parser = subparsers.add_parser(
        "superpixels", help="prepare scans and their superpixels for pre-training by episodes", description=_DESCRIPTION
    )
    parser.add_argument("data", type=Path, help="dataset folder (with datalist.json)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the stage, for example image_size=128")
    parser.add_argument("--cache-dir", type=Path, metavar="DIR", help="where they go (default: the stage's cache_dir)")
    parser.add_argument(
        "--bundle", default=_BUNDLE, help="a bundle's folder, or the name of one (default: %(default)s)"
    )
    parser.add_argument("--overlay", action="append", default=[], help="an overlay's name or file; may be repeated")
    parser.add_argument("--run-dir", type=Path, help="folder of the run (as given to medssl run)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on stderr")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prepare what is missing and say what there is.

    Raises:
        ConfigError: for an unknown bundle or key, a bundle without episodes, or less than one process.
        DataError: when a scan cannot be prepared; all others have been.
        OutputError: when the folder cannot be written.
    """
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError("--workers must be at least 1", found=arguments.workers)
    overrides = {**parse_overrides(arguments.overrides), "dataset_dir": str(arguments.data)}
    if arguments.cache_dir is not None:
        overrides["cache_dir"] = str(arguments.cache_dir)
    settings = stage_settings(arguments.bundle, overrides, arguments.overlay, arguments.run_dir)
    folder = Path(settings["cache_dir"])
    before, start = set(folder.glob("*/*.volume")), time.monotonic()
    scans = prepare(settings, arguments.workers, progress=not arguments.no_progress and sys.stderr.isatty())
    print(summary(scans, sum(scan.path not in before for scan in scans), folder, time.monotonic() - start))
    return 0


def summary(scans: Sequence[PreparedScan], made: int, folder: Path, seconds: float) -> str:
    """What the folder holds of the scans asked for, and how many of them were made now."""
    slices, superpixels, size = (
        sum(getattr(scan, name) for scan in scans) for name in ("slices", "superpixels", "size")
    )
    count = f"{len(scans)} scan{'s'[: len(scans) != 1]}"
    now = f"{made} of them made now in {seconds:.1f} s" if made else "all there already"
    return f"{folder}: {count}, {now}; {slices} slices, {superpixels} superpixels, {size / 2**20:.1f} MiB"


def stage_settings(
    bundle: str | Path, overrides: Mapping[str, Any], overlays: Sequence[str] = (), run_dir: Path | None = None
) -> dict[str, Any]:
    """Arguments that a bundle's pretrain stage gives to :func:`~medssl_monai.data.episode_dataset`.

    Raises:
        ConfigError: for an unknown bundle or key, or a bundle whose pretrain stage draws no episodes.
        DataError: for a dataset that the stage would refuse.
    """
    config, _ = resolve_config(bundle, _STAGE, overrides, overlays, run_dir)
    dataset = config.get("train", {}).get("dataset", {})
    if dataset.get("_target_") != _TARGET:
        raise ConfigError(
            "the pretrain stage of this bundle draws no episodes", where=bundle, found=dataset.get("_target_"),
            expected=f"{_TARGET} as {_NODE}", advice=f"{_BUNDLE} does.",
        )  # fmt: skip
    parser = ConfigParser(config)
    try:
        settings = {key: parser.get_parsed_content(f"{_NODE}::{key}") for key in dataset if not key.startswith("_")}
    except MedSSLError:
        raise
    except Exception as error:
        raise readable_cause(error, _STAGE) from error
    return {**settings, "cache_dir": os.path.abspath(settings["cache_dir"])}


def prepare(settings: Mapping[str, Any], workers: int | None = None, progress: bool = False) -> list[PreparedScan]:
    """Prepare scans in processes of their own, for cutting them keeps Python's lock.

    Args:
        settings: arguments of :func:`~medssl_monai.data.episode_dataset`; all scans in ``data``.
        workers: processes; ``None``: one for each core.
        progress: show a progress bar.

    Returns:
        What there is now, in any order.

    Raises:
        ConfigError: for a setting that cannot be.
        DataError: when a scan cannot be prepared, after all others have been (the message names the first), or a
            process is killed.
        OutputError: when the folder cannot be written.
    """
    records = list(settings["data"])
    if not records:
        episode_dataset(**settings)  # says that there is none
    done: list[PreparedScan] = []
    failed: list[DataError] = []
    with ProcessPoolExecutor(min(workers or os.cpu_count() or 1, max(1, len(records))), initializer=_quiet) as pool:
        alone = {**settings, "num_workers": 1, "progress": False}
        futures = [pool.submit(prepare_scan, {**alone, "data": [record]}) for record in records]
        try:
            for future in tqdm(as_completed(futures), "Preparing scans", len(futures), disable=not progress):
                try:
                    done.append(future.result())
                except DataError as error:
                    failed.append(error)
        except BrokenProcessPool as error:
            raise DataError(
                "a process that prepared scans was killed, as systems do that run out of memory",
                where=settings["cache_dir"],
                advice="Run the command again, with fewer --workers; what is prepared stays.",
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    if failed:
        rest = "; the others are there" if done else ""
        raise DataError(f"{len(failed)} of {len(records)} scans cannot be prepared{rest}. The first: {failed[0]}")
    return done


def _quiet() -> None:
    """A process prepares one scan at a time: neither does it count them aloud, nor take the others' cores."""
    logging.getLogger("medssl_monai.data").setLevel(logging.WARNING)
    torch.set_num_threads(1)
