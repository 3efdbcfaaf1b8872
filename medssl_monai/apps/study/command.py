"""The command ``medssl study``: run what is missing, compare, say it in words."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medssl_monai.apps.arms import arm_complete, arm_seconds, results_whole, run_side_by_side
from medssl_monai.apps.processes import Stop
from medssl_monai.apps.run import parse_overrides
from medssl_monai.apps.study.collect import collect
from medssl_monai.apps.study.definition import parse_budgets, parse_seeds, read_study
from medssl_monai.apps.study.plan import Plan, Run, check_same_study, make_plan, read_stored
from medssl_monai.apps.study.record import study_record
from medssl_monai.apps.study.results import write_table
from medssl_monai.apps.study.words import study_text
from medssl_monai.core import ConfigError, MedSSLError, make_folder, write_json
from medssl_monai.core.files import FolderLock

N_BOOT = 2000


def add_parser(subparsers: Any) -> None:
    """Add ``study``."""
    parser = subparsers.add_parser(
        "study",
        help="compare a bundle's arms at several label budgets",
        description="Run a bundle's arms at several label budgets with several seeds, and compare them on the same "
        "test subjects. The baseline with all labels is added. A second call runs only what is missing; more arms, "
        "budgets or seeds may go into the same folder. Exit code: 0 complete, 1 not complete yet, 2 a run failed.",
    )
    parser.add_argument("bundle", help="a bundle's folder, or the name of one that ships with the package")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="keys for every run, such as max_epochs=20")
    parser.add_argument("--data", type=Path, required=True, help="dataset folder (made by `medssl prepare`)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the study")
    parser.add_argument(
        "--budgets", default="5%,10%,20%", help="shares of the labels, or numbers of labels: 5%%,10%%,40"
    )
    parser.add_argument("--seeds", default="3", help="how many (3 means 0, 1, 2), or which: 0,1,7")
    parser.add_argument(
        "--arms", help="names joined by commas, or all (default: the bundle's baseline and primary arm)"
    )
    parser.add_argument("--definition", type=Path, help="arms and claim of your own, in place of study.yaml")
    parser.add_argument("--overlay", action="append", default=[], help="an overlay's name or file; may be repeated")
    parser.add_argument("--max-minutes", type=float, help="stop then: running stages save and end, none is begun")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads of computation for each run")
    parser.add_argument(
        "--vary-labels", action="store_true",
        help="draw the labels anew for each seed (split_seed = seed); otherwise every seed has the same labels",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Entry point of the sub-command."""
    plan = _plan(arguments)
    out = make_folder(arguments.out)
    lock = FolderLock(out)
    lock.acquire()
    try:
        stored = read_stored(out)
        if stored is not None:
            check_same_study(plan, stored, out)
        return _run(plan, stored, out, arguments)
    finally:
        lock.release()


def _plan(arguments: argparse.Namespace) -> Plan:
    for name in ("jobs", "threads"):
        if getattr(arguments, name) < 1:
            raise ConfigError("below 1", where=f"--{name}", found=getattr(arguments, name))
    if arguments.max_minutes is not None and not arguments.max_minutes > 0:
        raise ConfigError("not a time", where="--max-minutes", found=arguments.max_minutes, expected="above 0")
    definition = read_study(arguments.bundle, arguments.definition)
    return make_plan(
        arguments.bundle,
        definition,
        definition.choose(arguments.arms),
        parse_budgets(arguments.budgets),
        parse_seeds(arguments.seeds),
        arguments.data,
        parse_overrides(arguments.overrides),
        arguments.overlay,
        arguments.vary_labels,
    )


def _run(plan: Plan, stored: Mapping[str, Any] | None, out: Path, arguments: argparse.Namespace) -> int:
    runs = plan.runs()
    state = {run: arm_complete(plan.bundle, plan.arm(run), out / run.folder) for run in runs}
    older = _older_runs(stored, runs, out)
    command = _command(arguments)
    missing = [run for run in runs if not state[run]]
    write_json(out / "study.json", study_record(plan, stored, out, {**older, **state}, [], None, command))
    print(
        f"{len(runs)} runs: {len(runs) - len(missing)} complete, {len(missing)} to run, {arguments.jobs} at a time; "
        f"logs in {out}/runs/*/*/*/*.log",
        flush=True,
    )
    stop = Stop(arguments.max_minutes)
    failed: list[Run] = []
    with _signals(stop) as received:
        places = {run: (plan.arm(run), out / run.folder) for run in missing}
        done = len(runs) - len(missing)
        for run, result in run_side_by_side(plan.bundle, places, arguments.jobs, arguments.threads, stop):
            state[run] = result is True
            done += state[run]
            if isinstance(result, MedSSLError):
                failed.append(run)
                print(f"{run}: FAILED\n{result}", flush=True)
            elif state[run]:
                minutes = arm_seconds(out / run.folder) / 60
                print(f"[{done}/{len(runs)}] {run}: complete ({minutes:.1f} min)", flush=True)
    everything = {**older, **state}
    results = collect(out, [run for run, complete in everything.items() if complete], N_BOOT)
    record = study_record(plan, stored, out, everything, failed, results, command)
    write_table(out / "results.csv", results)
    write_json(out / "study.json", record)
    print(f"\n{study_text(record)}\n\n{out / 'study.json'}\n{out / 'results.csv'}")
    if failed:
        print(f"\n{len(failed)} runs failed: {'; '.join(str(run) for run in failed)}")
    if not all(state.values()):
        print("\nnot complete: run the same command again to go on")
    if received:
        return 128 + received[0]
    return 2 if failed else int(not all(state.values()))


def _older_runs(stored: Mapping[str, Any] | None, runs: list[Run], out: Path) -> dict[Run, bool]:
    """Complete runs of earlier calls that this call does not ask for: they stay part of the study."""
    found = {}
    for entry in (stored or {}).get("runs", []):
        run = Run(entry["arm"], entry["budget"], entry["seed"])
        if run in runs or not entry["complete"]:
            continue
        if results_whole(out / run.folder):
            found[run] = True
        else:
            print(f"{run}: left out, its results are lost or damaged; ask for it again to have it evaluated anew")
    return found


@contextlib.contextmanager
def _signals(stop: Stop) -> Iterator[list[int]]:
    """SIGINT and SIGTERM ask the runs to end while the block lasts; yields the list of those received."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may receive signals
        return

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        # not print: its buffer may be in use by what was interrupted
        os.write(2, b"stopping: running stages save and end; once more stops at once\n")
        stop.request()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(arguments: argparse.Namespace) -> list[str]:
    """The command line that repeats this study."""
    parts = ["medssl", "study", arguments.bundle, "--data", str(arguments.data), "--budgets", arguments.budgets]
    parts += ["--seeds", arguments.seeds]
    if arguments.arms:
        parts += ["--arms", arguments.arms]
    if arguments.definition:
        parts += ["--definition", str(arguments.definition)]
    parts += [text for name in arguments.overlay for text in ("--overlay", name)]
    if arguments.vary_labels:
        parts.append("--vary-labels")
    parts += ["--jobs", str(arguments.jobs), "--threads", str(arguments.threads), "--out", str(arguments.out)]
    return [*parts, *arguments.overrides]
