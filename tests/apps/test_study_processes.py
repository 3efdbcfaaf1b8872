"""A study with real processes: stopped from outside, and the SRCL bundle's study on phantoms."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from study_bundle import make_dataset, make_study_bundle

from medssl_monai.apps.cli import main
from medssl_monai.data.phantoms import make_phantom

#: a train stage that lasts; it leaves a checkpoint when it is asked to end
WAITING = """
import signal, sys, time
from pathlib import Path

def train(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    def save(number, frame):
        (folder / "checkpoint.pt").write_text("state")
        sys.exit(143)
    signal.signal(signal.SIGTERM, save)
    print("waiting", flush=True)
    time.sleep(120)
"""


def test_a_study_that_is_asked_to_end_passes_it_on(tmp_path: Path) -> None:
    bundle, data, out = make_study_bundle(tmp_path / "b"), make_dataset(tmp_path / "data"), tmp_path / "out"
    (tmp_path / "waiting_stage.py").write_text(WAITING)
    train = bundle / "configs" / "train.yaml"
    train.write_text(
        train.read_text().replace("imports:\n", 'imports:\n- "$from waiting_stage import train"\n')
        + '\nrun: ["$train(@ckpt_dir)"]\n'
    )
    command = [
        sys.executable, "-m", "medssl_monai.apps", "study", str(bundle), "--data", str(data), "--out", str(out),
        "--budgets", "10%", "--seeds", "1", "--arms", "plain",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    log = out / "runs/plain/10pct/seed0/train.log"
    limit = time.monotonic() + 60
    while not (log.is_file() and "waiting" in log.read_text()):
        assert time.monotonic() < limit, "the stage has not begun"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 143, text
    assert "not complete: run the same command again to go on" in text
    assert (out / "runs/plain/10pct/seed0/models/checkpoint.pt").read_text() == "state"
    assert not (out / "runs/plain/100pct").exists()
    state = json.loads((out / "study.json").read_text())
    assert [run["complete"] for run in state["runs"]] == [False, False]
    assert json.loads((log.parent / "train.stage.json").read_text())["complete"] is False


@pytest.mark.bundle
def test_study_of_the_srcl_bundle(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_phantom("skin_lesions", tmp_path / "data", subjects=140, seed=1, size=48, balance=1.0)
    capfd.readouterr()
    options = [
        "study", "srcl_skin_lesion_classification", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"),
        "--budgets", "100%", "--seeds", "1", "--overlay", "smoke", "--jobs", "2",
    ]  # fmt: skip
    assert main(options) == 0
    out = capfd.readouterr().out
    assert "100pct: srcl - supervised, macro AUROC" in out
    record = json.loads((tmp_path / "out" / "study.json").read_text())
    assert record["complete"] is True
    assert {(run["arm"], run["budget"]) for run in record["runs"]} == {
        ("supervised", "100pct"), ("srcl", "100pct"),
    }  # fmt: skip
    with (tmp_path / "out" / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for run in record["runs"]:
        folder = tmp_path / "out" / run["folder"]
        metrics = json.loads((folder / "eval" / "metrics.json").read_text())
        (row,) = [r for r in rows if (r["arm"], r["budget"], r["metric"]) == (run["arm"], run["budget"], "macro_auroc")]
        # the study's own figures are those of the evaluate stage, and so are the labels counted
        assert float(row["estimate"]) == pytest.approx(metrics["metrics"]["macro_auroc"]["estimate"], abs=1e-6)
        counts = metrics["label_counts"]
        assert int(row["n_labels_training"]) == counts["n_labels_training"]
        (budget,) = [b for b in record["budgets"] if b["name"] == run["budget"]]
        assert budget["n_labels_training"] == counts["n_labels_training"]
        assert budget["n_labels_validation"] == counts["n_labels_validation"]
        for name, entry in metrics["per_class"].items():
            (row,) = [r for r in rows if (r["arm"], r["budget"], r["class"]) == (run["arm"], run["budget"], name)]
            assert float(row["estimate"]) == pytest.approx(entry["auroc"]["estimate"], abs=1e-6)
    assert (tmp_path / "out/runs/srcl/100pct/seed0/models/pretrain.pt").is_file()
    # nothing is run again
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.stage.json")}
    assert main(options) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.stage.json")}
