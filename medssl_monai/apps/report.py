"""``medssl report``: one self-contained page of a run or a study, on request as PDF too."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from medssl_monai.core import OutputError, atomic_path, write_text
from medssl_monai.visualize.report import report_page

#: names under which Chromium and its kin lie on PATH
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_QUIET = (
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage",
)  # fmt: skip
_TIMEOUT = 120


def add_parser(subparsers: Any) -> None:
    """Add ``report``."""
    parser = subparsers.add_parser(
        "report",
        help="one HTML page of a run or a study",
        description="Write one self-contained HTML page of a run (a folder with models and eval) or of a study "
        "(a folder with study.json): the answer in plain words, figures with intervals, and what was run.",
    )
    parser.add_argument("folder", type=Path, metavar="RUN_OR_STUDY")
    parser.add_argument("--out", type=Path, help="the page (default: report.html in the folder)")
    parser.add_argument("--pdf", action="store_true", help="also a PDF beside the page; needs Chromium on PATH")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page, and the PDF where asked for; print their paths."""
    out: Path = arguments.out or arguments.folder / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise OutputError("a page is to be written here", where=out, found=repr(out.suffix), expected=".html")
    browser = find_browser() if arguments.pdf else None
    write_text(out, report_page(arguments.folder))
    print(out.resolve())
    if browser is not None:
        print_pdf(browser, out, out.with_suffix(".pdf"))
        print(out.with_suffix(".pdf").resolve())
    return 0


def find_browser() -> str:
    """The first Chromium on PATH.

    Raises:
        OutputError: when there is none.
    """
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    raise OutputError(
        "a PDF needs Chromium or Chrome, and none is on PATH", found="none of " + ", ".join(BROWSERS),
        advice="Install one, or open the page in any browser and print it to a file.",
    )  # fmt: skip


def browser_command(browser: str, profile: str | Path) -> list[str]:
    """Chromium without window, network habits and traces; ``profile`` is an empty folder of its own."""
    # Chromium refuses its sandbox to root, as which containers run
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [browser, *_QUIET, *sandbox, f"--user-data-dir={profile}"]


def print_pdf(browser: str, page: Path, target: Path) -> None:
    """Print a page to a PDF, whole or not at all.

    Raises:
        OutputError: when the browser fails, hangs or writes no PDF.
    """
    with tempfile.TemporaryDirectory(prefix="medssl-", ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "page.pdf"
        command = [
            *browser_command(browser, Path(folder) / "profile"), "--no-pdf-header-footer",
            f"--print-to-pdf={made}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OutputError(f"the browser {browser} did not print ({error})", where=target) from error
        if done.returncode or not made.is_file() or not made.read_bytes().startswith(b"%PDF"):
            lines = done.stderr.strip().splitlines()[-3:]
            raise OutputError(
                f"the browser {browser} printed nothing (exit code {done.returncode})", where=target,
                advice="It said: " + " / ".join(lines) if lines else None,
            )  # fmt: skip
        with atomic_path(target) as temporary:
            shutil.copyfile(made, temporary)
