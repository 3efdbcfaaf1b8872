"""Contrastive losses compared by frozen embeddings on small real images: `medssl study`, then its report.

    python scripts/contrastive_encoders_study.py breastmnist SOURCE [--out runs/contrastive_encoders]
    python scripts/contrastive_encoders_study.py retinamnist SOURCE
    python scripts/contrastive_encoders_study.py ham10000 SOURCE

SOURCE is a folder with breastmnist.npz and retinamnist.npz (MedMNIST, 28 pixels), or with the HAM10000 images and their
metadata CSV. All arms of scripts/contrastive_encoders.yaml (on HAM10000 five of them) share a small encoder, its
starting weights, views, epochs and optimiser; each is judged by its 200 nearest neighbours and a linear probe with all
labels. A second call goes on with what is missing; the page is OUT/DATASET/study/report.html, and OUT/DATASET/table.md
holds each arm's figures and the orderings that the thesis claims, as paired differences.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from srcl_ham10000 import prepare

from medssl_monai.apps.arms import markdown_table
from medssl_monai.apps.cli import main as medssl
from medssl_monai.apps.study.collect import collect
from medssl_monai.apps.study.plan import Run
from medssl_monai.apps.study.results import Results, compare, summarise
from medssl_monai.core import read_json, write_text
from medssl_monai.data.prepare import prepare_dataset

BUNDLE = "contrastive_image_classification"
DEFINITION = Path(__file__).with_name("contrastive_encoders.yaml")
#: a quarter of the width; the thesis's optimiser and rate for small images (0.06 for a batch of 128, T 5.5.2), halved
#: with the batch
COMMON = {"backbone": "resnet18", "width": 0.25, "batch_size": 64, "learning_rate": 0.03, "watch_items": 128}
SETTINGS = {
    # grey images of 28 pixels; crops of at least a fifth, no colour to change but brightness and contrast
    "breastmnist": {"image_size": 28, "in_channels": 1},
    "retinamnist": {"image_size": 28, "in_channels": 3},
    "ham10000": {"image_size": 64, "in_channels": 3},
}
ARMS = {"ham10000": "random,nt_xent,combo,mio_v3,dystress"}
FIGURES = {"knn/macro_auroc": "kNN", "linear_probe/macro_auroc": "linear probe"}
#: the better one first, by what the thesis says and where; that training helps at all stands before
CLAIMED = (
    ("binary", "nt_xent", "T 4.5.3.3, by AUC"),
    ("binary", "combo", "T 4.5.3.3, by AUC"),
    ("mio_v3", "nt_xent", "T table 5.2"),
    ("mio_v3", "dcl", "T table 5.2"),
    ("mio_v3", "moco", "T table 5.2"),
    ("mio_v3", "mio_v1", "T table 5.8"),
    ("mio_v3", "mio_v2", "T table 5.8"),
    ("dystress", "nt_xent", "T table 6.1"),
    ("dystress", "dcl", "T table 6.1"),
    ("dystress", "moco", "T table 6.1"),
)


def table(study: Path) -> str:
    """Each arm's macro AUROC with 95 % intervals, and the thesis's orderings as paired differences."""
    record = read_json(study / "study.json")
    complete = [Run(run["arm"], run["budget"], run["seed"]) for run in record["runs"] if run["complete"]]
    results = collect(study, complete, n_boot=2000)
    if results is None:
        return "No run is complete."
    arms = list(dict.fromkeys(run.arm for run in complete))
    budget = complete[0].budget
    found = {(row["arm"], row["metric"]): row for row in summarise(results, [(arm, budget) for arm in arms])}
    rows = [["arm", *(f"{title}, macro AUROC (seeds)" for title in FIGURES.values())]]
    rows += [[arm, *(_estimate(found.get((arm, metric))) for metric in FIGURES)] for arm in arms]
    orders = [["first minus second", "said in", *FIGURES.values()]]
    trained = [(arm, "random", "") for arm in arms if arm != "random"]
    for first, second, place in [*trained, *CLAIMED]:
        if first in arms and second in arms:
            cells = [_difference(results, (first, budget), (second, budget), metric) for metric in FIGURES]
            orders.append([f"{first} - {second}", place, *cells])
    return "\n\n".join([markdown_table(rows), markdown_table(orders)])


def _estimate(row: dict[str, Any] | None) -> str:
    if row is None or row["interval_95"] is None:
        return "-"
    low, high = row["interval_95"]
    return f"{row['estimate']:.3f} [{low:.3f}, {high:.3f}] ({', '.join(f'{one:.3f}' for one in row['seed_values'])})"


def _difference(results: Results, first: tuple[str, str], second: tuple[str, str], metric: str) -> str:
    found = compare(results, first, second, (metric, ""))["difference"]
    if found["interval_95"] is None:
        return "-"
    low, high = found["interval_95"]
    return f"{found['estimate']:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> int:
    """Prepare the data, run what is missing of the study, write its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=sorted(SETTINGS))
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/contrastive_encoders"))
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--epochs", type=int, default=40, help="of pre-training (the thesis: 200)")
    parser.add_argument("--pool", type=float, default=0.57, help="share of HAM10000's training subjects used")
    parser.add_argument("--max-minutes", default="60", help="of training; preparation and the page come on top")
    parser.add_argument("--jobs", default="2", help="runs side by side, one thread each")
    arguments = parser.parse_args()
    out = arguments.out / arguments.dataset
    if arguments.dataset == "ham10000":
        data = prepare(arguments.source, out, arguments.pool)
    else:
        data = out / "data"
        prepare_dataset("medmnist", arguments.source / f"{arguments.dataset}.npz", data)
    keys = {**COMMON, **SETTINGS[arguments.dataset], "max_epochs": arguments.epochs}
    code = medssl(
        [
            "study", BUNDLE, "--definition", str(DEFINITION), "--arms", ARMS.get(arguments.dataset, "all"),
            "--data", str(data), "--budgets", "100%", "--seeds", arguments.seeds, "--jobs", arguments.jobs,
            "--max-minutes", arguments.max_minutes, "--out", str(out / "study"),
            *(f"{key}={value}" for key, value in keys.items()),
        ]
    )  # fmt: skip
    text = table(out / "study")
    print(f"\n{text}")
    write_text(out / "table.md", text + "\n")
    return medssl(["report", str(out / "study")]) or code


if __name__ == "__main__":
    sys.exit(main())
