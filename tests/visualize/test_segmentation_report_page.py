"""The page of a run on organs: their figures, and no part that only a classifier has."""

from __future__ import annotations

import json
from pathlib import Path

from report_folders import make_run

from medssl_monai.metrics import OrganScore, segmentation_report
from medssl_monai.visualize.report.page import report_page


def scores(offset: float) -> list[list[OrganScore]]:
    return [
        [
            OrganScore("liver", "both", 0.5 + 0.02 * k + offset, 4.0 + k, 1000.0 + k, 1100.0),
            OrganScore("spleen", "missed", 0.0, None, 0.0, 80.0) if k == 3 else
            OrganScore("spleen", "both", 0.3 + 0.01 * k + offset, 9.0, 90.0, 80.0),
        ]
        for k in range(12)
    ]  # fmt: skip


def test_page_of_a_segmentation(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    blind, paper = (segmentation_report(scores(one), [f"s{k}" for k in range(12)], n_boot=30) for one in (0.0, 0.2))
    metrics = json.loads((folder / "eval" / "metrics.json").read_text())
    kept = {key: metrics[key] for key in ("dataset", "settings", "label_counts", "versions") if key in metrics}
    named = {f"paper/{name}": entry for name, entry in paper["metrics"].items()}
    content = {
        **kept, "task": "segmentation", **blind, "metrics": {**blind["metrics"], **named}, "protocol": "blind",
        "protocols": {"paper": paper},
    }  # fmt: skip
    (folder / "eval" / "metrics.json").write_text(json.dumps(content))
    page = report_page(folder)
    for word in ("Mean Dice", "Mean Dice (slices known)", "HD95 (mm)", "protocol blind", "protocol paper", "Missed"):
        assert word in page, word
    for word in ("Confusion matrix", "ROC curves", "cannot be shown", "Where the network looks"):
        assert word not in page, word
    for report in (blind, paper):
        for name in ("liver", "spleen"):
            assert f"{report['per_class'][name]['dice']['estimate']:.3f}" in page
    assert "0 is no overlap with the truth, 1 is perfect." in page
