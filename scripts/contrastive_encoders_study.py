"""Contrastive losses compared by frozen embeddings on small real images: `medssl study`, then its report.

    python scripts/contrastive_encoders_study.py breastmnist SOURCE [--out runs/contrastive_encoders]
    python scripts/contrastive_encoders_study.py retinamnist SOURCE
    python scripts/contrastive_encoders_study.py ham10000 SOURCE

SOURCE is a folder with breastmnist.npz and retinamnist.npz (MedMNIST, 28 pixels), or with the HAM10000 images and their
metadata CSV. All arms of scripts/contrastive_encoders.yaml (on HAM10000 five of them) share a small encoder, its
starting weights, views, epochs and optimiser; each is judged by its 200 nearest neighbours and a linear probe with all
labels. A second call goes on with what is missing; the page is OUT/DATASET/study/report.html.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from srcl_ham10000 import prepare

from medssl_monai.apps.cli import main as medssl
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
    return medssl(["report", str(out / "study")]) or code


if __name__ == "__main__":
    sys.exit(main())
