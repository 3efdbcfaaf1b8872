"""``medssl bundle check``: exit codes, lines, JSON, the schema; and the whole check of the shipped bundle."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from monai_bundle import make_monai_bundle

from medssl_monai.apps.bundle_check import SCHEMA_NAME, check_bundle, find_schema
from medssl_monai.apps.bundle_check.quiet import cause, quiet
from medssl_monai.apps.cli import main
from medssl_monai.core import ConfigError, bundle_dir

NAME = "srcl_skin_lesion_classification"


@pytest.fixture
def no_schema(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MEDSSL_TEST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_schema")
def test_exit_codes_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_monai_bundle(tmp_path)
    arguments = ["bundle", "check", str(bundle), "--offline", "--no-run"]
    assert main(arguments) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("organ_segmentation 0.2.0: no problems; skipped: MONAI's metadata schema (no copy here, and")
    (bundle / "LICENSE").unlink()
    assert main(arguments) == 1
    head, problem = capsys.readouterr().out.splitlines()
    assert head.startswith("organ_segmentation 0.2.0: 1 problem; ")
    assert problem == "  [MONAI] LICENSE: the file is missing. Put the licence of the code here."
    assert main([*arguments, "--json"]) == 1
    (report,) = json.loads(capsys.readouterr().out)["bundles"]
    assert report["problems"] == [
        {
            "rule": "MONAI", "file": "LICENSE", "line": None, "key": "", "what": "the file is missing",
            "advice": "Put the licence of the code here.",
        }
    ]  # fmt: skip
    assert (report["bundle"], report["version"], report["house_rules"]) == ("organ_segmentation", "0.2.0", False)


@pytest.mark.usefixtures("no_schema")
def test_all_shipped_bundles_and_overlays_are_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "check", "--offline", "--no-run", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    shipped = {path.parent.name for path in bundle_dir(NAME).parent.glob("*/configs")}
    assert {report["bundle"] for report in content["bundles"]} == shipped
    assert content["overlays"] == []


def test_nothing_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "check", str(tmp_path)]) == 2
    assert "no bundle: it has no folder 'configs'. Name the bundle's own folder." in capsys.readouterr().err
    assert main(["bundle", "check", "srcl_skin_lesion_clasification"]) == 2
    assert f"Did you mean '{NAME}'?" in capsys.readouterr().err
    assert main(["bundle", "check", NAME, "--data", str(tmp_path / "no")]) == 2
    assert "no such folder. --data names a dataset_dir of the bundle." in capsys.readouterr().err


@pytest.mark.usefixtures("no_schema")
def test_a_name_that_is_no_bundle_leaves_the_others_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_monai_bundle(tmp_path)
    (bundle / "LICENSE").unlink()
    absent = tmp_path / "nonexistent"
    arguments = ["bundle", "check", str(absent), str(bundle), "--offline", "--no-run"]
    assert main(arguments) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "  [MONAI] LICENSE: the file is missing. Put the licence of the code here."
    assert lines[2] == "nonexistent: 1 problem"
    assert lines[3].startswith(f"  [MONAI] .: no bundle '{absent}' (a folder with configs/metadata.json, or a name).")
    assert main([*arguments, "--json"]) == 1
    reports = json.loads(capsys.readouterr().out)["bundles"]
    assert [(report["bundle"], len(report["problems"])) for report in reports] == [(bundle.name, 1), ("nonexistent", 1)]
    assert main(["bundle", "check", str(absent), str(tmp_path), "--offline"]) == 2
    error = capsys.readouterr().err
    assert f"{absent}, {tmp_path}: none of these is a bundle." in error
    assert "it has no folder 'configs'" in error


@pytest.mark.usefixtures("no_schema")
def test_schema_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no\.json: no such file\. It is published at https://github\.com/Project-M"):
        find_schema(tmp_path / "no.json", offline=True)
    wrong = tmp_path / "monai_schema" / SCHEMA_NAME
    wrong.parent.mkdir()
    wrong.write_text("{}")
    with pytest.raises(
        ConfigError, match=r"not the schema that MONAI pins \(expected md5 06954cad2cc5d3784e72077ac76f"
    ):
        find_schema(wrong, offline=True)
    monkeypatch.setenv("MEDSSL_TEST_DATA", str(tmp_path))  # a wrong copy is none
    assert find_schema(None, offline=True) == (None, "no copy here, and --offline")


@pytest.mark.usefixtures("no_schema")
def test_a_download_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("medssl_monai.apps.bundle_check.metadata.download_url", fail)
    assert find_schema(None, offline=False) == (None, "no copy here, and the download failed (OSError: no network)")


@pytest.mark.real
def test_against_monais_schema(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSSL_TEST_DATA", str(real_data))
    schema, why = find_schema(None, offline=True)
    assert (schema, why) == (real_data / "monai_schema" / SCHEMA_NAME, "")
    bundle = make_monai_bundle(tmp_path)
    assert check_bundle(bundle, schema=schema, run=False).problems == []
    path = bundle / "configs/metadata.json"
    content = json.loads(path.read_text())
    del content["copyright"]  # our own check says so already: told once
    content["network_data_format"]["outputs"]["pred"]["value_range"] = ["low", "high"]  # only the schema sees this
    path.write_text(json.dumps(content))
    found = [problem.text() for problem in check_bundle(bundle, schema=schema, run=False).problems]
    assert len(found) == 2, found
    assert "copyright: the required key is missing" in found[0]
    assert "network_data_format::outputs::pred: against the schema: " in found[1]


def test_the_whole_check_of_the_shipped_bundle(tmp_path: Path) -> None:
    # the network at its published size, its export, and every stage built and trained at the smoke overlay's
    bundle = Path(shutil.copytree(bundle_dir(NAME), tmp_path / NAME, ignore=shutil.ignore_patterns("models", "eval")))
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    path, modules = sys.path[:], set(sys.modules)
    report = check_bundle(bundle)
    assert report.problems == []
    assert report.notes == ["skipped: MONAI's metadata schema (not given)", "TorchScript: script"]
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert sys.path == path
    assert not [name for name in set(sys.modules) - modules if name.startswith("scripts")]


def test_a_stage_that_cannot_be_run(tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundle_dir(NAME), tmp_path / NAME, ignore=shutil.ignore_patterns("models", "eval")))
    path = bundle / "configs/pretrain.yaml"
    text = path.read_text()
    assert "temperature: 0.1 " in text
    path.write_text(text.replace("temperature: 0.1 ", "temperature: -1 "))
    report = check_bundle(bundle)
    (problem,) = report.problems
    assert problem.text().startswith("[MONAI] configs/pretrain.yaml: cannot be built and run (ValueError: temperature")
    assert report.notes[-1] == "properties of the stages behind pretrain checked by their ids only"


def test_quiet_keeps_the_noise_and_leaves_loggers_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("medssl_test_noise")
    handler = logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with quiet() as noise:
            print("printed")
            logger.error("logged")
            warnings.warn("warned", stacklevel=1)
            logger.setLevel(logging.CRITICAL)
        assert noise.getvalue() == "printed\nERROR logged\n"
        assert (logger.handlers, logger.level) == ([handler], logging.NOTSET)
    finally:
        logger.removeHandler(handler)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_cause_is_the_deepest_with_what_was_logged_last() -> None:
    outer = RuntimeError("Failed to evaluate ConfigExpression")
    outer.__cause__ = ValueError("the  rate\nis negative")
    assert cause(outer) == "ValueError: the rate is negative"
    noise = "WARNING x\nERROR first\nERROR the disk is full\nWARNING y\n"
    assert cause(outer, noise) == "ValueError: the rate is negative; logged before: the disk is full"
