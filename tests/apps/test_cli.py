"""The ``medssl`` command: sub-commands, exit codes, one clear message an error."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from medssl_monai import __version__
from medssl_monai.apps import cli
from medssl_monai.core import DataError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Puts a sub-command ``phantom`` in place that returns or raises what the list holds."""
    outcome: list[Any] = []

    def work(arguments: argparse.Namespace) -> int:
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return int(outcome[0])

    def add_parser(subparsers: Any) -> None:
        subparsers.add_parser("phantom").set_defaults(command=work)

    monkeypatch.setattr("medssl_monai.apps.phantom.add_parser", add_parser)
    return outcome


@pytest.mark.parametrize("code", [0, 1])
def test_the_command_s_own_exit_code(command: list[Any], code: int) -> None:
    command.append(code)
    assert cli.main(["phantom"]) == code


def test_an_error_the_user_can_mend(command: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    command.append(DataError("is empty", where="a.png", advice="Remove it."))
    assert cli.main(["phantom"]) == 2
    assert capsys.readouterr().err == "medssl: a.png: is empty. Remove it.\n"
    with pytest.raises(DataError):
        cli.main(["--verbose", "phantom"])


_LOADS = """
import sys, logging, warnings
from medssl_monai.apps import cli, phantom

def work(arguments):
    from monai.transforms import LoadImage
    LoadImage()
    if {fails}:
        logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").warning("a real one of the log")
        warnings.warn("a real warning")
    return 0

def add_parser(subparsers):
    subparsers.add_parser("phantom").set_defaults(command=work)

phantom.add_parser = add_parser
sys.exit(cli.main(["phantom"]))
"""


@pytest.mark.parametrize("fails", [False, True])
def test_a_decoder_that_is_not_asked_for_is_not_spoken_of(fails: bool) -> None:
    """MONAI's loader tries every reader it knows; other messages come through."""
    result = subprocess.run(
        [sys.executable, "-c", _LOADS.format(fails=fails)], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "nvImageCodec" not in result.stderr
    if fails:
        assert "a real one of the log" in result.stderr
        assert "a real warning" in result.stderr
    else:
        assert result.stderr == ""


def test_interrupted(command: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    command.append(KeyboardInterrupt())
    assert cli.main(["phantom"]) == 130
    assert capsys.readouterr().err == "medssl: interrupted\n"


def test_a_fault_of_ours_is_not_hidden(command: list[Any]) -> None:
    command.append(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["phantom"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trian"], "invalid choice: 'trian'"),
        (["bundle", "list", "surplus"], "unrecognized arguments: surplus"),
        (["run", "b", "train", "--overly", "smoke"], "unrecognized arguments: --overly smoke"),
        (["run", "b", "train", "--seed=3"], "unrecognized arguments: --seed=3"),
        (["run", "b"], "the following arguments are required: stage"),
    ],
)
def test_wrong_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"medssl-monai {__version__}" in out
    assert all(f"{name} " in out for name in cli.COMMANDS)
    assert "for example dataset_dir=" in " ".join(out.split())


def test_every_sub_command_has_its_module_and_parser() -> None:
    assert all(find_spec(f"medssl_monai.apps.{name}") for name in cli.COMMANDS)
    parser = cli.build_parser()
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    assert set(actions[0].choices) == set(cli.COMMANDS)


def test_only_the_named_sub_command_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    load = importlib.import_module

    def note(name: str) -> Any:
        imported.append(name)
        return load(name)

    monkeypatch.setattr(cli.importlib, "import_module", note)
    cli.main(["bundle", "list"])
    assert imported == ["medssl_monai.apps.bundle"]
