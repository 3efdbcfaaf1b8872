"""``medssl demo``: the whole way on phantoms, in minutes: data, check, training, evaluation, prediction."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.apps.arms import Arm, markdown_table, paired_difference, results_table, run_arms
from medssl_monai.core import DataError, read_json
from medssl_monai.data.check import check_dataset
from medssl_monai.data.phantoms import make_phantom
from medssl_monai.handlers.predictions import INFERENCE_FILE, METRICS_FILE
from medssl_monai.visualize import save_figure, summary_figure

BUNDLE = "srcl_skin_lesion_classification"
METRICS = {
    "macro_auroc": "macro AUROC [95 % interval]",
    "balanced_top1_accuracy": "balanced accuracy",
    "top1_accuracy": "accuracy",
}
#: a narrow net on small images: minutes on two processor cores; everything else is the bundle's own default
SMALL: Mapping[str, Any] = {
    "backbone": "resnet18",
    "width": 0.25,
    "image_size": 48,
    "learning_rate": 0.001,
    "lr_decay": 0.96,
}


def add_parser(subparsers: Any) -> None:
    """Add ``demo``."""
    parser = subparsers.add_parser("demo", help="pre-train, train, evaluate and predict on phantoms, in minutes")
    parser.add_argument("--out", type=Path, default=Path("demo_output"), help="folder of everything it writes")
    parser.add_argument("--subjects", type=int, default=700, help="subjects of the phantom")
    parser.add_argument("--label-fraction", type=float, default=0.15, help="share of the labels that may be used")
    parser.add_argument("--epochs", type=int, default=50, help="epochs of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="arms side by side")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what is missing, print the table, and the picture's path last."""
    out: Path = arguments.out
    print(f"1. A synthetic dataset of skin lesions in {out / 'data'}")
    make_phantom(
        "skin_lesions", out / "data", subjects=arguments.subjects, seed=arguments.seed, size=96, balance=0.6
    )  # fmt: skip
    print("2. Checking every file of it")
    report = check_dataset(out / "data", progress=False)
    if not report.ok:
        raise DataError(
            f"{len(report.problems)} problems", where=out / "data", advice="Remove the folder and try again."
        )
    share = f"{arguments.label_fraction:.0%}"
    print(f"3. Two ways to use {share} of the labels: supervised alone, and SRCL (logs in {out}/*/*.log)")
    common = {
        **SMALL, "dataset_dir": str((out / "data").resolve()), "label_fraction": arguments.label_fraction,
        "max_epochs": arguments.epochs, "seed": arguments.seed,
    }  # fmt: skip
    arms = [
        Arm("srcl", ("pretrain", "train", "evaluate", "inference"), {**common, "regime": "srcl"}),
        Arm("supervised", ("train", "evaluate"), {**common, "regime": "supervised"}),
    ]
    run_arms(BUNDLE, arms, out, jobs=arguments.jobs)
    names = ["supervised", "srcl"]
    print()
    print(markdown_table(results_table(out, names, METRICS)))
    difference = paired_difference("macro_auroc", [(out / "srcl", out / "supervised")])
    print(
        f"\nsrcl - supervised: macro AUROC {difference.estimate:+.3f}, "
        f"90 % interval {difference.low:+.3f} to {difference.high:+.3f} over {difference.n_groups} test subjects"
    )
    print(f"predictions of every image: {out / 'srcl' / 'eval' / INFERENCE_FILE}")
    results = {name: read_json(out / name / "eval" / METRICS_FILE)["metrics"] for name in names}
    picture = out / "summary.png"
    title = f"Skin-lesion phantom, {share} of the labels"
    save_figure(summary_figure(results, list(METRICS), title=title), picture)
    print(picture.resolve())
    return 0
