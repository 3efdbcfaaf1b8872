"""SRCL against supervised training on HAM10000 at 5, 10 and 20 % of the labels: `medssl study`, then its report.

    python scripts/srcl_ham10000_study.py SOURCE [--out runs/srcl_ham10000_study] [--seeds 2] [--max-minutes 75]

SOURCE is a folder with the HAM10000 images and their metadata CSV (see `medssl prepare ham10000 -h`). About 2,000
training images, 64 pixels, a ResNet-18 of half width, 15 epochs a stage instead of 100: what two processor cores do in
an hour. A second call goes on with what is missing; the page is OUT/study/report.html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srcl_ham10000 import BUNDLE, SMALL, prepare

from medssl_monai.apps.cli import main as medssl


def main() -> int:
    """Prepare the data, run what is missing of the study, write its report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/srcl_ham10000_study"))
    parser.add_argument("--budgets", default="5%,10%,20%")
    parser.add_argument("--seeds", default="2")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each stage (the paper: 100)")
    parser.add_argument("--pool", type=float, default=0.57, help="share of the training subjects used")
    parser.add_argument("--max-minutes", default="75", help="of training; preparation and the page come on top")
    parser.add_argument("--jobs", default="2", help="runs side by side, one thread each")
    arguments = parser.parse_args()
    dataset = prepare(arguments.source, arguments.out, arguments.pool)
    keys = {**SMALL, "image_size": 64, "batch_size": 20, "max_epochs": arguments.epochs}
    code = medssl(
        [
            "study", BUNDLE, "--data", str(dataset), "--budgets", arguments.budgets, "--seeds", arguments.seeds,
            "--jobs", arguments.jobs, "--max-minutes", arguments.max_minutes, "--out", str(arguments.out / "study"),
            *(f"{key}={value}" for key, value in keys.items()),
        ]
    )  # fmt: skip
    return medssl(["report", str(arguments.out / "study")]) or code


if __name__ == "__main__":
    sys.exit(main())
