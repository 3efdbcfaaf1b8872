"""The knee bundle end to end on phantoms: three planes with and without pre-training, joined; one table.

    python scripts/contrastive_knee_phantom.py [--out runs/contrastive_knee_phantom] [--labels 1.0] [--max-minutes 15]

160 exams of 64 pixels, a ResNet-18 of a quarter of the width. A second call runs only what is missing. The table is
written to OUT/table.md, the figures it rests on lie in OUT/<arm>/exam/eval/metrics.json; the first exams are predicted
once more from their DICOM series, OUT/<arm>/exam/new.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.apps.arms import format_entry, markdown_table, paired_difference
from medssl_monai.apps.processes import Stop, run_process
from medssl_monai.core import make_folder, read_json, write_json, write_text
from medssl_monai.data.phantoms import make_phantom

BUNDLE = "contrastive_knee_mri_classification"
PLANES = ("sagittal", "coronal", "axial")
LABELS = ("abnormal", "acl", "meniscus")
DATA: dict[str, Any] = {"size": 64, "field_of_view": 110.0, "split": [0.6, 0.15, 0.25], "dicom": 4}
SMALL = {"backbone": "resnet18", "width": 0.25, "image_size": 64}
#: crops of a few pixels say nothing here: the joint of a phantom fills the slice
PRETRAIN = {"batch_size": 32, "crop_scale": "[0.3, 1.0]", "optimizer_name": "adam", "learning_rate": 0.001}
TRAIN = {"learning_rate": 0.001}


@dataclass(frozen=True)
class Arm:
    """A start of the encoders and a share of the labels."""

    pretrained: bool
    labels: float

    @property
    def name(self) -> str:
        """Name of its folder and its row."""
        return f"{'combo' if self.pretrained else 'scratch'}_{100 * self.labels:g}"


class Chain:
    """Stages run as processes, those whose results are there left out."""

    def __init__(self, out: Path, stop: Stop, epochs: int, pretrain_epochs: int) -> None:
        self.out, self.stop, self.epochs, self.pretrain_epochs = out, stop, epochs, pretrain_epochs

    def stage(self, stage: str, run: Path, result: Path, **keys: Any) -> bool:
        """Run a stage unless it has ended well; whether its result is there."""
        record = result.parent / f"{stage}_run.json"
        ended = record.is_file() and read_json(record).get("seconds") is not None
        if result.is_file() and (ended or stage == "evaluate"):  # its files are written last
            return True
        if self.stop.reached:
            return False
        if stage in ("pretrain", "train"):
            keys |= {"resume": True, "cache_dir": self.out / "prepared"}
        pairs = [f"{key}={'null' if value is None else value}" for key, value in keys.items()]
        command = [sys.executable, "-m", "medssl_monai.apps", "run", BUNDLE, stage, "--run-dir", str(run), *pairs]
        log = make_folder(run) / f"{stage}.log"
        code = run_process(command, log, 1, self.stop)
        if code:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
            raise SystemExit("\n".join([f"{run} {stage} failed ({log}):", *tail]))
        print(f"{run.relative_to(self.out)} {stage}", flush=True)
        return code == 0

    def encoder(self, plane: str) -> Path:
        """Where the pre-trained encoder of a plane lies: one for all shares of the labels."""
        return self.out / "encoders" / plane / "models" / "pretrain.pt"

    def pretrain(self, plane: str) -> bool:
        """Pre-train the encoder of a plane."""
        encoder = self.encoder(plane)
        keys = {**self._common(plane), **PRETRAIN, "max_epochs": self.pretrain_epochs}
        return self.stage("pretrain", encoder.parents[1], encoder, **keys)

    def plane(self, arm: Arm, plane: str) -> bool:
        """Train a plane's classifier, evaluate it on both splits, predict the DICOM series."""
        run, common = self.out / arm.name / plane, self._common(plane)
        start = self.encoder(plane) if arm.pretrained else None
        train = {**common, **TRAIN, "max_epochs": self.epochs, "label_fraction": arm.labels, "pretrained": start}
        new = {**common, "dataset_dir": self.out / "data" / "dicom"}
        return (
            (not arm.pretrained or self.pretrain(plane))
            and self.stage("train", run, run / "models" / "model.pt", **train)
            and self.stage("evaluate", run, run / "eval" / "metrics.json", **common)
            and self.stage("evaluate", run, run / "eval" / "validation_metrics.json", **common, split="validation")
            and self.stage("inference", run, run / "eval" / "inference.csv", **new)
        )

    def exam(self, arm: Arm) -> bool:
        """Join the planes of the test exams, and of the new ones."""
        run = self.out / arm.name / "exam"
        place = {"dataset_dir": self.out / "data"}
        new = {"ckpt_dir": run / "models", "output_dir": run / "new", "new_exams": True}
        planes = "{" + ", ".join(f"{plane}: {run.parent / plane / 'eval'}" for plane in PLANES) + "}"
        return self.stage("ensemble", run, run / "eval" / "metrics.json", **place) and self.stage(
            "ensemble", run, run / "new" / "inference.csv", **place, **new, plane_dirs=planes
        )

    def _common(self, plane: str) -> dict[str, Any]:
        return {**SMALL, "plane": plane, "dataset_dir": self.out / "data"}


def run(chain: Chain, arms: Sequence[Arm], jobs: int) -> bool:
    """Run what is missing; whether all is there."""
    pairs = [(arm, plane) for arm in arms for plane in PLANES]
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return (
                all(list(pool.map(chain.pretrain, PLANES)))  # an encoder serves several arms: made first
                and all(list(pool.map(lambda pair: chain.plane(*pair), pairs)))
                and all(list(pool.map(chain.exam, arms)))
            )
        except BaseException:  # before the pool waits for what is running
            chain.stop.request()
            raise


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """All that decides a folder's results. Shares of the labels have folders of their own, and may be added."""
    asked = {name: getattr(arguments, name) for name in ("exams", "severity", "epochs", "pretrain_epochs")}
    fixed = {"data": DATA, "network": SMALL, "pretrain": PRETRAIN, "train": TRAIN}
    parts = {f"{part} {key}": value for part, values in fixed.items() for key, value in values.items()}
    settings: dict[str, Any] = json.loads(json.dumps({**asked, **parts}))
    return settings


def refuse_other_settings(out: Path, settings: dict[str, Any]) -> None:
    """A folder takes one set of settings: results of others would be left as they are.

    Raises:
        SystemExit: naming what differs.
    """
    path = out / "settings.json"
    if not path.is_file():
        write_json(path, settings)
        return
    stored = read_json(path)
    names = [name for name in {**stored, **settings} if stored.get(name) != settings.get(name)]
    if names:
        changed = "; ".join(
            f"{name}: found {stored.get(name, 'nothing recorded')}, asked for {settings.get(name, 'nothing')}"
            for name in names
        )
        raise SystemExit(f"{out} holds a run with other settings ({changed}): give the same ones, or another --out")


def table(out: Path, arms: Sequence[Arm]) -> str:
    """AUROC with 95 % intervals of the exams and of each plane, and what pre-training adds."""
    rows = [["arm", "labels (train + validation)", "prediction", "macro AUROC", *LABELS]]
    for arm in arms:
        for name in (*PLANES, "exam"):
            report = read_json(out / arm.name / name / "eval" / "metrics.json")
            counts = report["label_counts"]
            used = f"{counts['n_labels_training']} + {counts['n_labels_validation']}"
            figures = [report["metrics"]["macro_auroc"], *(report["per_class"][label]["auroc"] for label in LABELS)]
            rows.append([arm.name, used, name, *map(format_entry, figures)])
    lines = [markdown_table(rows), ""]
    for labels in sorted({arm.labels for arm in arms}, reverse=True):
        folders = [out / Arm(pretrained, labels).name / "exam" for pretrained in (True, False)]
        if all((folder / "eval" / "predictions.csv").is_file() for folder in folders):
            d = paired_difference("macro_auroc", [(folders[0], folders[1])])
            lines.append(
                f"pre-trained - scratch with {100 * labels:.0f} % of the labels, exam: macro AUROC {d.estimate:+.3f} "
                f"(90 % interval {d.low:+.3f} to {d.high:+.3f})"
            )
    return "\n".join(lines)


def main() -> int:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/contrastive_knee_phantom"))
    parser.add_argument("--exams", type=int, default=160)
    parser.add_argument("--severity", type=float, default=2.0, help="size of the lesions; 1 is that of real ones")
    parser.add_argument("--labels", default="1.0", help="shares of the labels, joined by commas; more may be added")
    parser.add_argument("--epochs", type=int, default=20, help="of training (the thesis: 10, of more exams)")
    parser.add_argument("--pretrain-epochs", type=int, default=60, help="the thesis: 100, of more exams")
    parser.add_argument("--max-minutes", type=float, default=15, help="stop then; the same command goes on")
    parser.add_argument("--jobs", type=int, default=2, help="planes side by side, one thread each")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    refuse_other_settings(make_folder(out), settings_of(arguments))
    make_phantom("knee", out / "data", subjects=arguments.exams, severity=arguments.severity, **DATA)
    stop = Stop(arguments.max_minutes)
    chain = Chain(out, stop, arguments.epochs, arguments.pretrain_epochs)
    arms = [Arm(pretrained, float(share)) for share in arguments.labels.split(",") for pretrained in (True, False)]
    if not run(chain, arms, arguments.jobs):
        print("\nnot complete: run the same command again to go on")
        return 1
    text = table(out, arms)
    print(f"\n{text}")
    write_text(out / "table.md", text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
