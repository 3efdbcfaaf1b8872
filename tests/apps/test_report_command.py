"""``medssl report``: where the page goes, the PDF, and what is said where there is no browser."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from report_folders import make_run

from medssl_monai.apps import report
from medssl_monai.apps.cli import main
from medssl_monai.apps.report import BROWSERS, browser_command, find_browser, print_pdf
from medssl_monai.core import OutputError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "run")


def make_browser(folder: Path, script: str, name: str = "chromium") -> Path:
    """A program that stands for the browser; ``$PDF`` is where it is told to print."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    find = 'for a in "$@"; do case "$a" in --print-to-pdf=*) PDF="${a#--print-to-pdf=}";; esac; done'
    path.write_text(f"#!/bin/sh\n{find}\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_page_goes_into_the_folder_or_where_it_is_told(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run)]) == 0
    page = run / "report.html"
    assert capsys.readouterr().out.strip() == str(page.resolve())
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    other = tmp_path / "new" / "page.html"
    assert main(["report", str(run), "--out", str(other)]) == 0
    assert other.read_bytes() == page.read_bytes()
    page.unlink()


def test_errors_are_one_message(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "neither a run nor a study" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert main(["report", str(run), "--out", str(tmp_path / "page.txt")]) == 2
    assert "a page is to be written here (found '.txt', expected .html)" in capsys.readouterr().err


def test_without_a_browser_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--pdf", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "a PDF needs Chromium or Chrome, and none is on PATH (found none of chromium, " in message
    assert "Install one, or open the page in any browser and print it to a file." in message
    assert not out.exists()


def test_the_first_browser_on_the_path_prints(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_browser(tmp_path / "bin", 'printf "%%PDF-other" > "$PDF"', BROWSERS[2])
    first = make_browser(tmp_path / "bin", 'printf "%%PDF-1.4 %s" "$*" > "$PDF"', BROWSERS[1])
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr(report, "BROWSERS", BROWSERS[1:3])
    assert find_browser() == str(first)
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--pdf", "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.with_suffix(".pdf"))]
    words = out.with_suffix(".pdf").read_text()
    assert words.startswith("%PDF-1.4 --headless")
    assert words.endswith(out.as_uri())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "page.html", "page.pdf"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo no display >&2; exit 3", r"chromium printed nothing \(exit code 3\)\. It said: no display$"),
        ("exit 0", r"chromium printed nothing \(exit code 0\)\.$"),
        ('printf "<html>" > "$PDF"', r"chromium printed nothing \(exit code 0\)\.$"),
        ("exec sleep 20", r"chromium did not print \(.* timed out after 0.5 seconds\)\.$"),
    ],
)
def test_a_browser_that_does_not_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(report, "_TIMEOUT", 0.5 if "sleep" in script else 20)
    browser = make_browser(tmp_path / "bin", script)
    target = tmp_path / "page.pdf"
    target.write_text("the old one")
    with pytest.raises(OutputError, match=message):
        print_pdf(str(browser), tmp_path / "page.html", target)
    assert target.read_text() == "the old one"


def test_a_browser_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"page.pdf: the browser .*nothing did not print \(.*No such file"):
        print_pdf(str(tmp_path / "nothing"), tmp_path / "page.html", tmp_path / "page.pdf")


def test_the_sandbox_is_left_out_for_root_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--no-sandbox" in browser_command("chromium", "profile")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    command = browser_command("chromium", "profile")
    assert "--no-sandbox" not in command
    assert command[0] == "chromium"
    assert command[-1] == "--user-data-dir=profile"
