"""Benchmarks: what the pieces and the stages cost on this machine.

    python scripts/bench.py [NAME ...] [--threads N] [--out FILE.json] [--page docs/performance.md]

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
from benchmarks.harness import Row, machine, to_json
from benchmarks.page import markdown, page

from medssl_monai.core import did_you_mean, write_json, write_text


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks, or all; print, and write what was asked for."""
    parser = argparse.ArgumentParser(description="Benchmarks, paired with their peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    parser.add_argument("--page", type=Path, help="write the page; needs all benchmarks")
    parser.add_argument("--tiny", action="store_true", help="each once at tiny size: does it still work?")
    options = parser.parse_args(arguments)
    names = options.names or list(BENCHMARKS)
    for name in names:
        if name not in BENCHMARKS:
            parser.error(f"unknown benchmark {name!r}.{did_you_mean(name, BENCHMARKS)}")
    if options.page and (set(names) != set(BENCHMARKS) or options.tiny):
        parser.error("the page shows all benchmarks at full size: name none, and leave --tiny out")
    torch.set_num_threads(options.threads)
    command = " ".join(["python scripts/bench.py", *options.names, f"--threads {options.threads}"])
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


if __name__ == "__main__":
    sys.exit(main())
