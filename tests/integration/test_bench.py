"""Every benchmark still runs, with its equalities asserted; and the page says what the table says."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    try:
        return importlib.import_module("bench")
    finally:
        sys.path.remove(str(REPOSITORY / "scripts"))


NAMES = [
    "losses",
    "views",
    "batched-views",
    "intervals",
    "knn",
    "saliency",
    "grad-cam",
    "volumes",
    "superpixels",
    "episode-item",
    "prototype-head",
    "organ-inference",
    "engine",
    "micro-batches",
    "stages",
]


def test_these_are_all(bench: ModuleType) -> None:
    assert list(bench.BENCHMARKS) == list(bench.NOTES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_runs_at_tiny_size(bench: ModuleType, name: str, tmp_path: Path) -> None:
    assert bench.main([name, "--tiny", "--out", str(tmp_path / "table.json")]) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["rows"]
    assert {row["benchmark"] for row in table["rows"]} == {name}
    for row in table["rows"]:
        assert row["ours"] > 0
        assert (row["peer"] is None) == (row["ratio"] is None) == (row["equal"] is None)
        assert row["met"] is None  # nothing is claimed of a tiny run
    facts = table["machine"]
    assert facts["command"] == f"python scripts/bench.py {name} --threads 1 --clock wall"
    assert {"torch", "monai", "numpy", "python"} <= facts["versions"].keys()


def test_a_wrong_result_stops_a_benchmark(bench: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    explain = importlib.import_module("benchmarks.explain")
    right = explain.saliency
    monkeypatch.setattr(explain, "saliency", lambda net, x: right(net, x) * (1.001 if len(x) > 1 else 1))
    with pytest.raises(AssertionError, match="not close"):
        bench.main(["saliency", "--tiny"])


def test_unknown_names_and_incomplete_pages(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["saliancy"], "unknown benchmark 'saliancy'. Did you mean 'saliency'?"),
        (["losses", "--page", "x.md"], "the page shows all benchmarks at full size"),
        (["--tiny", "--page", "x.md"], "the page shows all benchmarks at full size"),
        (["--clock", "cpu", "--threads", "2"], "processor time adds up over threads"),
    ):
        with pytest.raises(SystemExit):
            bench.main(arguments)
        assert message in capsys.readouterr().err


class TestPage:
    def page(self, bench: ModuleType, **further: object) -> str:
        row = bench.Row("saliency", "a net", 2.0, "ms", "a peer", 1234.0, 12.3456, (9.0, 15.0), "maps", **further)
        alone = bench.Row("stages", "train", 12.34, "s")
        facts = {
            "date": "2026-11-20", "command": "python scripts/bench.py --threads 1", "processor": "A Processor",
            "cores": 2, "threads": 1, "memory_gib": 23, "load_at_start": 0.1, "accelerator": None, "clock": "cpu",
            "versions": {"torch": "2.13"},
        }  # fmt: skip
        table = bench.to_json(facts, [row, alone], {"saliency": 1.0})
        return str(bench.page(json.loads(json.dumps(table)), bench.NOTES))

    def test_shows_every_row(self, bench: ModuleType) -> None:
        text = self.page(bench)
        assert "| a net | 2 ms | a peer | 1,234 ms | 12.3 (9 to 15) | maps |" in text
        assert "| train | 12.3 s |" in text
        assert "A Processor, 2 cores of which 1 used, 23 GiB, no accelerator" in text
        assert "`python scripts/bench.py --threads 1`; load of the machine at the start 0.1" in text
        assert "Times are processor time of the process on one thread" in text
        assert bench.NOTES["saliency"] in text

    def test_says_plainly_what_was_not_met(self, bench: ModuleType) -> None:
        assert "| 8 times | **no** |" in self.page(bench, goal="8 times", met=False)
        assert "| 8 times | yes |" in self.page(bench, goal="8 times", met=True)

    def test_of_parts_says_which_was_measured_by_another_clock(self, bench: ModuleType, tmp_path: Path) -> None:
        files = []
        for clock, names in (("wall", NAMES[:-2]), ("cpu", NAMES[-2:])):
            bench.choose_clock(clock)
            table = bench.to_json(bench.machine(f"by {clock}", 1), [bench.Row(name, "x", 1.0) for name in names], {})
            files.append(tmp_path / f"{clock}.json")
            files[-1].write_text(json.dumps(table))
        bench.choose_clock("wall")
        assert bench.main(["--join", *map(str, files), "--page", str(tmp_path / "page.md")]) == 0
        text = (tmp_path / "page.md").read_text()
        assert "- Times are those of the clock on the wall" in text
        assert f"- Measured by another clock (cpu: {NAMES[-2]}, {NAMES[-1]})." in text
        assert "by another clock" not in self.page(bench)

    def test_of_the_repository_is_complete(self, bench: ModuleType) -> None:
        text = (REPOSITORY / "docs/performance.md").read_text(encoding="utf-8")
        assert [line[3:].lower() for line in text.splitlines() if line.startswith("## ")] == ["machine", *NAMES]
