"""Benchmarks: what the pieces and the stages cost on this machine.

    python scripts/bench.py [NAME ...] [--threads N] [--clock wall|cpu] [--out FILE.json] [--page docs/performance.md]

Without a name all run. A peer is timed in turn with ours on the same input, after the results have been compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from benchmarks import BENCHMARKS, NOTES
from benchmarks.harness import CLOCKS, Row, choose_clock, machine, to_json
from benchmarks.page import markdown, page

from medssl_monai.core import did_you_mean, read_json, write_json, write_text


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all; print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Benchmarks, paired with their peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument(
        "--clock", choices=sorted(CLOCKS), default="wall", help="cpu: processor time, for a busy machine (wall)"
    )
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--page", type=Path, help="write the page; needs all benchmarks")
    parser.add_argument("--tiny", action="store_true", help="each once at tiny size: does it still work?")
    parser.add_argument(
        "--join", type=Path, nargs="+", default=[], metavar="FILE.json", help="tables measured before, for the page"
    )
    options = parser.parse_args(arguments)
    if options.join:
        return _join(parser, options)
    names = options.names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}.{did_you_mean(name, BENCHMARKS)}")
    if options.page and (set(names) != set(BENCHMARKS) or options.tiny):
        parser.error("the page shows all benchmarks at full size: name none, and leave --tiny out")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("processor time adds up over threads: --clock cpu needs --threads 1")
    choose_clock(options.clock)
    torch.set_num_threads(options.threads)
    command = " ".join(
        ["python scripts/bench.py", *options.names, f"--threads {options.threads}", f"--clock {options.clock}"]
    )
    facts = machine(command, options.threads)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in names:
        start = time.perf_counter()
        made = BENCHMARKS[name](options.tiny)
        seconds[name] = round(time.perf_counter() - start, 1)
        rows += made
        table = to_json(facts, made, seconds)["rows"]
        print(f"\n{name} ({seconds[name]:.0f} s)\n" + "\n".join(markdown(table)), flush=True)
    result = to_json(facts, rows, seconds)
    if options.out:
        write_json(options.out, result)
    if options.page:
        write_text(options.page, page(json.loads(json.dumps(result)), NOTES))
    print(f"\n{sum(seconds.values()):.0f} s in all")
    return 0


def _join(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Write the page from tables that were measured in parts, one after the other or at once."""
    tables = [read_json(path) for path in options.join]
    rows = sorted(
        (row for table in tables for row in table["rows"]), key=lambda row: list(NOTES).index(row["benchmark"])
    )
    if {row["benchmark"] for row in rows} != set(BENCHMARKS) or not options.page or options.names:
        parser.error("--join takes tables that hold all benchmarks together, and --page")
    facts = tables[0]["machine"]
    facts["command"] = "`; `".join(table["machine"]["command"] for table in tables)
    other: dict[str, list[str]] = {}
    for table in tables:
        if table["machine"]["clock"] != facts["clock"]:
            other.setdefault(table["machine"]["clock"], []).extend(dict.fromkeys(r["benchmark"] for r in table["rows"]))
    facts["other_clocks"] = other
    facts["load_at_start"] = max(table["machine"]["load_at_start"] for table in tables)
    write_text(options.page, page({"machine": facts, "rows": rows}, NOTES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
