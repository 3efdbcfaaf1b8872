"""Cardiac MR volumes of five diagnostic groups, pre-trained against from scratch: cross-validation, one table.

    python scripts/contrastive_acdc_study.py SOURCE [--out runs/contrastive_acdc] [--budgets 1.0,0.5] [--max-minutes 20]

SOURCE is ACDC as published, or the folder of its npz copies (see `medssl prepare acdc -h`). The knee bundle's path for
volumes (slices encoded one by one, the largest of each feature kept) at 64 pixels, with a ResNet-18 of a quarter of the
width. `medssl study` compares on one test split; with 40 patients that would be eight to test, so that here every
patient is tested once, by the network of the fold that did not see it. A second call runs only what is missing.
The table is written to OUT/table.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fold_folders import fold_folders

from medssl_monai.apps.arms import Arm, markdown_table, read_predictions, run_arms
from medssl_monai.core import make_folder, read_json, write_text
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.prepare.acdc import GROUPS
from medssl_monai.metrics import Distribution, average_distributions, bootstrap_distribution

BUNDLE = "contrastive_knee_mri_classification"
SMALL = {
    "plane": None, "labels": list(GROUPS), "backbone": "resnet18", "width": 0.25, "image_size": 64,
    "crop_scale": [0.3, 1.0],
    # no patient is spared for validation: 30 are few, the epochs are fixed and the last network is taken
    "validation_share": 0,
}  # fmt: skip
PRETRAIN = {"loss_name": "combo", "batch_size": 30, "optimizer_name": "adam", "learning_rate": 0.001}
TRAIN = {"learning_rate": 0.001}
ARMS = ("scratch", "pretrained")
METRICS = {"macro_auroc": "macro AUROC", "balanced_accuracy": "balanced accuracy"}


def plan(data: Sequence[Path], budgets: Sequence[float], seeds: int, epochs: int, pretrain_epochs: int) -> list[Arm]:
    """All runs; one encoder a fold and seed serves all budgets."""
    arms = []
    for fold, folder in enumerate(data):
        for seed in range(seeds):
            common = {**SMALL, "dataset_dir": str(folder), "seed": seed}
            encoder = Arm(
                f"fold{fold}, seed {seed}, the encoder", ("pretrain",),
                {**common, **PRETRAIN, "max_epochs": pretrain_epochs},
            )  # fmt: skip
            for budget in budgets:
                keys = {**common, **TRAIN, "max_epochs": epochs, "label_fraction": budget}
                stages = ("train", "evaluate")
                place = f"../encoder_f{fold}_s{seed}"
                arms += [
                    Arm(run_name("pretrained", budget, fold, seed), stages, keys, shared=encoder, shared_place=place),
                    Arm(run_name("scratch", budget, fold, seed), stages, {**keys, "pretrained": None}),
                ]
    return arms


def run_name(arm: str, budget: float, fold: int, seed: int) -> str:
    """Name of a run's folder."""
    return f"{arm}_{100 * budget:g}_f{fold}_s{seed}"


def pooled(out: Path, arm: str, budget: float, seed: int, k: int, metric: str) -> Distribution:
    """A metric over the patients of all folds, each predicted by the network that had not seen it."""
    tables = [read_predictions(out / run_name(arm, budget, fold, seed)) for fold in range(k)]
    names, subjects, labels, scores = (list(part) for part in zip(*tables))
    # resamples of all arms are of the same patients in the same order
    order = np.argsort(np.concatenate(names))
    return bootstrap_distribution(
        metric, np.concatenate(labels)[order], np.concatenate(scores)[order],
        groups=np.concatenate(subjects)[order], n_boot=2000, seed=0,
    )  # fmt: skip


def table(out: Path, budgets: Sequence[float], seeds: int, k: int) -> str:
    """Means of the seeds with 95 % intervals over patients, the single seeds, and the paired differences."""
    rows = [["labels a fold", "arm", *METRICS.values()]]
    lines = []
    for budget in budgets:
        counts = [
            read_json(out / run_name("scratch", budget, fold, 0) / "eval" / "metrics.json")["label_counts"]["n_labels"]
            for fold in range(k)
        ]
        used = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else str(counts[0])
        found = {
            (arm, metric): [pooled(out, arm, budget, seed, k, metric) for seed in range(seeds)]
            for arm in ARMS for metric in METRICS
        }  # fmt: skip
        for arm in ARMS:
            cells = []
            for metric in METRICS:
                mean = average_distributions(found[arm, metric]).interval((2.5, 97.5))
                single = ", ".join(f"{one.interval().estimate:.3f}" for one in found[arm, metric])
                cells.append(f"{mean.estimate:.3f} [{mean.low:.3f}, {mean.high:.3f}] ({single})")
            rows.append([used, arm, *cells])
        for metric, title in METRICS.items():
            pairs = zip(found["pretrained", metric], found["scratch", metric])
            d = average_distributions([a - b for a, b in pairs]).interval((5, 95))
            lines.append(
                f"pretrained - scratch with {100 * budget:g} % of the labels: {title} {d.estimate:+.3f} "
                f"(90 % interval {d.low:+.3f} to {d.high:+.3f})"
            )
    return "\n".join([markdown_table(rows), "", *lines])


def main() -> int:
    """Prepare the data, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/contrastive_acdc"))
    parser.add_argument("--budgets", default="1.0", help="shares of the labels, joined by commas")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40, help="of training")
    parser.add_argument("--pretrain-epochs", type=int, default=150, help="of 30 slices each")
    parser.add_argument("--max-minutes", type=float, default=20, help="stop then; the same command goes on")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one thread each")
    arguments = parser.parse_args()
    budgets = [float(text) for text in arguments.budgets.split(",")]
    out = arguments.out.resolve()
    datalist = prepare_dataset("acdc", arguments.source, out / "data", progress=False)
    data = fold_folders(datalist, out, arguments.folds)
    arms = plan(data, budgets, arguments.seeds, arguments.epochs, arguments.pretrain_epochs)
    runs = make_folder(out / "runs")
    complete = run_arms(BUNDLE, arms, runs, jobs=arguments.jobs, max_minutes=arguments.max_minutes)
    if not all(complete.values()):
        print("\nnot complete: run the same command again to go on")
        return 1
    text = table(runs, budgets, arguments.seeds, arguments.folds)
    print(f"\n{text}")
    write_text(out / "table.md", text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
