"""Abdominal organs by one labelled scan: pre-trained encoders against a random one, two folds, one table.

    python scripts/cowpro_chaos_study.py SOURCE [--out runs/cowpro_chaos] [--seeds 1] [--max-minutes 150]

SOURCE holds scans image_N.nii.gz and masks label_N.nii.gz of CHAOS (T2-SPIR: 1 liver, 2 right kidney, 3 left kidney,
4 spleen). The scans of one half are segmented by encoders that were pre-trained on the other half, without its masks:
ResNet-18 up to its third stage, slices of 128 pixels. Each scan of a half is the only support of its others in turn; a
scan's Dice is the mean over its supports, in its own geometry. A second call runs only what is missing. The table is
written to OUT/table.md, all figures lie in OUT/scores.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fold_folders import fold_folders
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, EnsureTyped, LoadImaged

from medssl_monai.apps.arms import Arm, markdown_table, run_arms
from medssl_monai.apps.processes import Stop
from medssl_monai.core import atomic_path, make_folder, seed_torch, write_text
from medssl_monai.data import load_datalist
from medssl_monai.data.labelled_episodes import labelled_scan
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.readers import MedicalImageReader
from medssl_monai.engines import label_ranges
from medssl_monai.engines.support_table import organ_dice
from medssl_monai.metrics import Distribution, bootstrap_distribution
from medssl_monai.networks import CoWProSegmenter, DenseEncoder, build_head, load_state
from medssl_monai.transforms import RestoreLabelMapd, scan_transforms

BUNDLE = "cowpro_abdominal_segmentation"
ORGANS = {1: "liver", 2: "right_kidney", 3: "left_kidney", 4: "spleen"}
ENCODER: dict[str, Any] = {"backbone": "resnet18", "stages": 3, "width": 1.0, "num_features": 256}
GEOMETRY: dict[str, Any] = {"image_size": 128, "modality": "mr"}
#: for few steps ten times the thesis's rate: of 0.001, 0.003 and 0.01 the best after 500 steps of the cowpro head, by
#: the Dice of the first fold's training scans
PRETRAIN: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.01, "steps_per_epoch": 100}
ARMS = ("random", "panet", "alpnet", "cowpro")
HEADLINE = ("0.95", "none", "blind")


class Variant(NamedTuple):
    """How a pre-trained encoder is used: threshold of the head, quadrant prior, protocol."""

    threshold: str
    prior: str
    protocol: str


VARIANTS = (
    Variant(*HEADLINE),
    Variant("dynamic", "none", "blind"),
    Variant("0.95", "hard", "blind"),
    Variant("0.95", "soft", "blind"),
    Variant("0.95", "none", "paper"),
    Variant("0.95", "hard", "paper"),
)


class Task(NamedTuple):
    """Scores to compute: of one fold, arm and seed."""

    fold: Path
    arm: str
    seed: int
    weights: Path | None
    out: Path


def variants(arm: str) -> list[Variant]:
    """Those that this arm's head knows: PANet has no windows, and so no threshold."""
    return [variant for variant in VARIANTS if arm != "panet" or variant.threshold == HEADLINE[0]]


def plan(folds: Sequence[Path], seeds: int, steps: int, out: Path) -> tuple[list[Arm], list[Task]]:
    """Pre-training runs, and what is scored with them."""
    arms, tasks = [], []
    for number, folder in enumerate(folds):
        for seed in range(seeds):
            for name in ARMS:
                run = f"{name}_f{number}_s{seed}"
                weights = None if name == "random" else out / "runs" / run / "models" / "pretrain.pt"
                tasks.append(Task(folder, name, seed, weights, out / "scores" / f"{run}.csv"))
                if weights is not None:
                    keys = {
                        **ENCODER, **GEOMETRY, **PRETRAIN, "dataset_dir": str(folder), "seed": seed, "head_name": name,
                        "max_epochs": max(1, steps // PRETRAIN["steps_per_epoch"]), "cache_dir": str(out / "prepared"),
                    }  # fmt: skip
                    arms.append(Arm(run, ("pretrain",), keys))
    return arms, tasks


def segmenter(task: Task, variant: Variant) -> CoWProSegmenter:
    """The network of an arm; the random encoder is drawn from the seed."""
    seed_torch(task.seed, "random encoder")
    encoder = DenseEncoder(**ENCODER, in_channels=1)
    if task.weights is not None:
        load_state(encoder, task.weights)
    head = "cowpro" if task.arm == "random" else task.arm
    threshold = None if head == "panet" else "dynamic" if variant.threshold == "dynamic" else float(variant.threshold)
    prior: Any = None if variant.prior == "none" else variant.prior
    return CoWProSegmenter(encoder, build_head(head, threshold=threshold), len(ORGANS), quadrant_prior=prior).eval()


def read_fold(folder: Path) -> tuple[Compose, list[dict[str, Any]]]:
    """The test scans of a fold, prepared, with their masks as they were read under ``truth``."""
    keys = ["image", "label"]
    chain = Compose(
        [
            LoadImaged(keys, reader=MedicalImageReader, dtype=None),
            EnsureChannelFirstd(keys),
            CopyItemsd("label", names="truth"),
            EnsureTyped("image", dtype=torch.float32),
            *scan_transforms("image", "label", **GEOMETRY),
        ]
    )
    return chain, [chain(record) for record in load_datalist(folder).records("test")]


@torch.no_grad()
def score(task: Task) -> None:
    """Segment every scan of the fold by every other one and write the Dice of all, for every variant."""
    torch.set_num_threads(1)
    chain, scans = read_fold(task.fold)
    restore = RestoreLabelMapd("pred", chain, list(ORGANS))
    pairs = [labelled_scan(scan, list(ORGANS)) for scan in scans]
    features: list[torch.Tensor] = []
    rows = []
    for variant in variants(task.arm):
        network = segmenter(task, variant)
        features = features or [network.encode(image) for image, _ in pairs]  # heads do not change the encoder
        for s, (image, label) in enumerate(pairs):
            network.remember([image], [label], [features[s]])
            for q, (scan, (query, _)) in enumerate(zip(scans, pairs)):
                if s == q:
                    continue
                if variant.protocol == "paper":
                    ranges = label_ranges(scan["label"][None].as_tensor(), list(ORGANS))
                    logits = network.forward_within(query[None], ranges)[0]
                else:
                    logits = network.forward_encoded(query[None], features[q])[0]
                found = restore({"pred": logits, "image": scan["image"]})["pred"]
                dice = organ_dice(found[0].as_tensor().long(), scan["truth"][0].as_tensor().long(), len(ORGANS))
                rows += [[*variant, scans[s]["name"], scan["name"], *one] for one in zip(ORGANS.values(), dice)]
    make_folder(task.out.parent)
    with atomic_path(task.out) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["threshold", "prior", "protocol", "support", "query", "organ", "dice"])
        writer.writerows(rows)


def score_all(tasks: Sequence[Task], jobs: int, stop: Stop) -> bool:
    """Compute the scores that are missing and whose encoder is there; whether all are there then."""
    missing = [task for task in tasks if not task.out.is_file() and (task.weights is None or task.weights.is_file())]
    with ProcessPoolExecutor(jobs) as pool:
        for start in range(0, len(missing), jobs):
            if stop.reached:
                break
            for _ in pool.map(score, missing[start : start + jobs]):
                pass
            for task in missing[start : start + jobs]:
                print(f"{task.out.stem}: scored", flush=True)
    return all(task.out.is_file() for task in tasks)


def scan_dice(tasks: Sequence[Task], arm: str, variant: Variant) -> dict[str, np.ndarray]:
    """Dice of each organ, (O,) by name of the scan: the mean over seeds and supports."""
    found: dict[tuple[str, str], list[float]] = {}
    for task in tasks:
        if task.arm == arm:
            for row in _rows(task.out):
                if (row["threshold"], row["prior"], row["protocol"]) == variant:
                    found.setdefault((row["query"], row["organ"]), []).append(float(row["dice"]))
    names = sorted({name for name, _ in found})
    return {name: np.array([np.mean(found[name, organ]) for organ in ORGANS.values()]) for name in names}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)


def distribution(dice: dict[str, np.ndarray], column: int | None) -> Distribution:
    """Resampled over scans, the same resamples for every arm; ``None``: the mean of the organs."""
    values = np.stack([dice[name] for name in sorted(dice)])
    one = values.mean(axis=1) if column is None else values[:, column]
    return bootstrap_distribution("mean", None, one, n_boot=2000, seed=0)


def table(tasks: Sequence[Task]) -> str:
    """The arms at the headline's setting, what pre-training adds, and the ablations."""
    lines = []
    columns = [*range(len(ORGANS)), None]
    headline = Variant(*HEADLINE)
    rows = [["arm", *ORGANS.values(), "mean"]]
    of_arm = {arm: scan_dice(tasks, arm, headline) for arm in ARMS}
    for arm, dice in of_arm.items():
        rows.append([arm, *(_cell(distribution(dice, column)) for column in columns)])
    lines += ["Threshold 0.95, no quadrant prior, protocol blind:", "", markdown_table(rows), ""]
    rows = [["difference", *ORGANS.values(), "mean"]]
    for first, second in (("panet", "random"), ("alpnet", "random"), ("cowpro", "random"), ("cowpro", "alpnet")):
        pairs = [distribution(of_arm[first], column) - distribution(of_arm[second], column) for column in columns]
        rows.append([f"{first} - {second}", *(_cell(pair, (5, 95), "+.3f") for pair in pairs)])
    lines += ["Paired differences, 90 % intervals:", "", markdown_table(rows), ""]
    rows = [["arm", "threshold", "quadrants", "protocol", *ORGANS.values(), "mean"]]
    for arm in ARMS:
        for variant in variants(arm):
            dice = scan_dice(tasks, arm, variant)
            means = [float(distribution(dice, column).interval().estimate) for column in columns]
            rows.append([arm, *variant, *(f"{mean:.3f}" for mean in means)])
    return "\n".join([*lines, "Ablations (means):", "", markdown_table(rows)])


def _cell(found: Distribution, level: tuple[float, float] = (2.5, 97.5), form: str = ".3f") -> str:
    interval = found.interval(level)
    return f"{interval.estimate:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def main() -> int:
    """Prepare the data, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/cowpro_chaos"))
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000, help="of pre-training, four episodes each")
    parser.add_argument("--max-minutes", type=float, default=150, help="stop then; the same command goes on")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    out, stop = arguments.out.resolve(), Stop(arguments.max_minutes)
    datalist = prepare_dataset(
        "nifti", arguments.source, out / "data", progress=False, name="chaos_t2spir", modality="MR",
        image="image_{subject}.nii.gz", label="label_{subject}.nii.gz",
        labels=",".join(f"{value}={organ}" for value, organ in ORGANS.items()),
    )  # fmt: skip
    arms, tasks = plan(fold_folders(datalist, out, arguments.folds), arguments.seeds, arguments.steps, out)
    complete = run_arms(BUNDLE, arms, make_folder(out / "runs"), jobs=arguments.jobs, max_minutes=arguments.max_minutes)
    if not score_all(tasks, arguments.jobs, stop) or not all(complete.values()):
        print("\nnot complete: run the same command again to go on")
        return 1
    text = table(tasks)
    print(f"\n{text}")
    write_text(out / "table.md", text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
