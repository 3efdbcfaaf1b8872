"""``medssl run``: overrides, checked keys, overlays, run folders, readable causes."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_bundle import make_bundle
from monai.bundle import ConfigWorkflow

from medssl_monai.apps.cli import main
from medssl_monai.apps.run import (
    VOCABULARY,
    check_keys,
    parse_overrides,
    readable_cause,
    resolve_config,
    root_cause,
    run_stage,
)  # fmt: skip
from medssl_monai.core import ConfigError, DataError, share_dir

SRCL = "srcl_skin_lesion_classification"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "b")


# --- overrides
def test_values_are_yaml() -> None:
    texts = [
        "seed=3", "rate=0.5", "labels=[a, b]", "flag=true", "pretrained=null", "name=a=b", "empty=", "--dashes=1",
        "a::b::0=x", "a#b=y", "path=/data/x y",
    ]  # fmt: skip
    assert parse_overrides(texts) == {
        "seed": 3, "rate": 0.5, "labels": ["a", "b"], "flag": True, "pretrained": None, "name": "a=b", "empty": "",
        "dashes": 1, "a::b::0": "x", "a::b": "y", "path": "/data/x y",
    }  # fmt: skip
    assert parse_overrides([]) == {}


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "2e5", "1e-05"])
def test_exponents_are_numbers(text: str) -> None:
    assert parse_overrides([f"learning_rate={text}"]) == {"learning_rate": float(text)}


def test_what_is_no_override() -> None:
    for text in ("seed", "=3"):
        with pytest.raises(ConfigError, match=rf"^{text}: not of the form KEY=VALUE\.$"):
            parse_overrides([text])
    with pytest.raises(ConfigError, match=r"^labels: the value is not YAML: "):
        parse_overrides(["labels=[a, b"])


# --- keys
@pytest.mark.parametrize(
    "key",
    [
        "rate", "seed", "nested::deep::list", "nested::deep::list::1", "layer::in_features",
        "layer::bias",  # an argument the configuration leaves at its default
        "elsewhere",  # not in the configuration, but some @reference reads it
        "batch_size",  # vocabulary: an overlay or a habit may set it for every stage
        "run",
    ],
)  # fmt: skip
def test_known_keys_pass(bundle: Path, key: str) -> None:
    config = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    check_keys(config, {key: 1}, "fake")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("rat", "'rat': nothing in fake reads it. Did you mean 'rate'?"),
        ("bath_size", "'bath_size': nothing in fake reads it. Did you mean 'batch_size'?"),
        ("elsewere", "'elsewere': nothing in fake reads it."),
        ("zzz", "'zzz': nothing in fake reads it. Known: "),
        ("nested::dep::list", "'nested::dep::list': nested has no 'dep'. Did you mean 'deep'?"),
        ("nested::deep::lst", "'nested::deep::lst': nested::deep has no 'lst'. Did you mean 'list'?"),
        ("nested::deep::list::2", "'nested::deep::list::2': nested::deep::list has no '2'."),
        ("rate::x", "'rate::x': rate has no 'x'."),
        ("layer::weight::x", "'layer::weight::x': layer has no 'weight'."),
        ("batch_size::x", "'batch_size::x': batch_size has no 'x'."),
    ],
)
def test_unknown_keys_are_met_with_the_nearest(bundle: Path, key: str, message: str) -> None:
    config = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    with pytest.raises(ConfigError) as caught:
        check_keys(config, {"rate": 1, key: 1}, "fake")
    assert str(caught.value).startswith(f"unknown key:\n  {message}")


def test_all_unknown_keys_at_once(bundle: Path) -> None:
    config = yaml.safe_load((bundle / "configs" / "train.yaml").read_text())
    with pytest.raises(ConfigError, match=r"^unknown keys:\n  'rat': .*\n  'nested::dep': nested has no 'dep'"):
        check_keys(config, {"rat": 1, "nested::dep": 2}, "fake")


def test_every_stage_of_the_shipped_bundles_holds_the_vocabulary() -> None:
    stages = [path for path in share_dir("bundles").glob("*/configs/*.yaml") if path.stem != "study"]
    assert stages
    for path in stages:
        missing = set(VOCABULARY) - yaml.safe_load(path.read_text()).keys()
        assert not missing, f"{path}: {missing}"


def test_an_import_line_of_a_configuration_binds_one_name() -> None:
    # MONAI binds the first name of `from x import a, b` alone; the second fails when it is used
    lines = [
        (path.name, line)
        for path in share_dir("bundles").glob("*/configs/*.yaml")
        for line in yaml.safe_load(path.read_text()).get("imports", [])
    ]
    assert lines
    assert [entry for entry in lines if "," in entry[1]] == []


def test_shipped_overlays_set_vocabulary_keys_only() -> None:
    overlays = list(share_dir("configs").rglob("*.yaml"))
    assert overlays
    for path in overlays:
        beyond = (yaml.safe_load(path.read_text()) or {}).keys() - set(VOCABULARY) - {"labels"}
        assert not beyond, f"{path}: {beyond}"


#: keys that change where or how fast a run computes
NO_NUMBERS = {
    "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "device", "num_workers", "cache_rate", "resume", "n_boot",
    "checkpoint_every",
    "distributed", "mlflow_uri", "imports", "initialize", "run", "finalize", "network", "exported",
}  # fmt: skip


@pytest.mark.parametrize("stage", ["pretrain", "train"])
def test_a_resumed_run_compares_every_key_that_changes_its_numbers(stage: str) -> None:
    config = yaml.safe_load((share_dir("bundles") / SRCL / "configs" / f"{stage}.yaml").read_text())
    compared = set(re.findall(r"@(\w+)", str(config["settings"])))
    plain = {key for key, value in config.items() if not isinstance(value, dict)}
    assert plain - NO_NUMBERS - compared == set()


# --- the configuration of a run
def test_overlays_come_before_overrides_and_both_before_the_bundle_s_own(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("rate: 0.2\nseed: 5\n")
    (tmp_path / "two.yaml").write_text("seed: 6\n")
    overlays = [str(tmp_path / "one.yaml"), str(tmp_path / "two.yaml")]
    config, files = resolve_config(bundle, "train", {"rate": 0.3, "nested::deep::list::0": 9}, overlays)
    assert (config["rate"], config["seed"], config["nested"]["deep"]["list"]) == (0.3, 6, [9, 2])
    assert files == [str(bundle / "configs" / "train.yaml"), *overlays]
    assert config["bundle_root"] == str(bundle)
    assert (config["ckpt_dir"], config["output_dir"]) == ("$@bundle_root + '/models'", "$@bundle_root + '/eval'")


def test_a_misspelt_key_of_an_overlay_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("bath_size: 4\n")
    with pytest.raises(ConfigError, match=r"'bath_size'.*Did you mean 'batch_size'"):
        resolve_config(bundle, "train", {}, [str(tmp_path / "mine.yaml")])


def test_run_folders(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, _ = resolve_config(bundle, "train", {}, run_dir="mine")
    assert (config["ckpt_dir"], config["output_dir"]) == (str(tmp_path / "mine/models"), str(tmp_path / "mine/eval"))
    config, _ = resolve_config(bundle, "train", {"ckpt_dir": "/elsewhere"}, run_dir="mine")
    assert config["ckpt_dir"] == "/elsewhere"
    # a bundle that ships with the package is not written into
    config, _ = resolve_config(SRCL, "train", {})
    assert config["ckpt_dir"] == str(tmp_path / "runs" / SRCL / "models")


def test_unknown_bundle_stage_and_overlay(bundle: Path) -> None:
    with pytest.raises(ConfigError, match=r"^fake_classification has no stage 'trian'\. Did you mean 'train'\?$"):
        resolve_config(bundle, "trian", {})
    with pytest.raises(ConfigError, match=r"has no stage 'study'\. Known: evaluate, train\."):
        resolve_config(bundle, "study", {})
    with pytest.raises(ConfigError, match=r"no overlay 'smok'\. Did you mean 'smoke'\?"):
        resolve_config(bundle, "train", {}, ["smok"])
    with pytest.raises(ConfigError, match=rf"no bundle 'srcl_skin_lesion'.*Did you mean '{SRCL}'"):
        resolve_config("srcl_skin_lesion", "train", {})


# --- running
def test_a_stage_runs_and_records_its_configuration(bundle: Path, tmp_path: Path) -> None:
    run_stage(bundle, "train", {"rate": 0.25, "regime": "x"}, run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "models" / "runs.txt").read_text() == "train 0.25 x 0\n"
    recorded = yaml.safe_load((tmp_path / "run" / "models" / "train_config.yaml").read_text())
    assert (recorded["rate"], recorded["regime"], recorded["ckpt_dir"]) == (0.25, "x", str(tmp_path / "run" / "models"))
    run_stage(bundle, "evaluate", {}, run_dir=tmp_path / "run")
    assert (tmp_path / "run" / "eval" / "evaluate_config.yaml").is_file()
    assert not (bundle / "models").exists()


def test_the_recorded_configuration_makes_the_same_run(bundle: Path, tmp_path: Path) -> None:
    run_stage(bundle, "train", {"rate": 0.25}, run_dir=tmp_path / "run")
    (bundle / "configs" / "again.yaml").write_bytes((tmp_path / "run" / "models" / "train_config.yaml").read_bytes())
    main(["run", str(bundle), "again"])
    assert (tmp_path / "run" / "models" / "runs.txt").read_text().splitlines() == ["train 0.25 plain 0"] * 2


def test_the_cause_comes_through_monai_s_wrapping(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^x\.png: the data is broken\. Mend it\.$"):
        run_stage(bundle, "train", {"regime": "broken"}, run_dir=tmp_path / "run")


def test_root_cause() -> None:
    ours = DataError("ours")

    def wrapped() -> None:
        try:
            raise ours
        except DataError as inner:
            raise RuntimeError("MONAI's") from inner

    with pytest.raises(RuntimeError) as caught:
        wrapped()
    assert root_cause(caught.value) is ours
    foreign = RuntimeError("x")
    foreign.__cause__ = foreign  # a ring must not hang
    assert root_cause(foreign) is foreign
    assert root_cause(ours) is ours


# --- from the command line
def test_dry_run_shows_the_configuration_and_writes_nothing(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(bundle), "train", "rate=0.5", "--run-dir", str(tmp_path / "run"), "--dry-run"]
    assert main(arguments) == 0
    shown: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    assert (shown["rate"], shown["ckpt_dir"]) == (0.5, str(tmp_path / "run" / "models"))
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "rat=0.5"]) == 2


def test_overrides_may_stand_behind_options(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\n")
    folder = str(tmp_path / "run")
    overlay = str(tmp_path / "mine.yaml")
    assert main(["run", str(bundle), "train", "--run-dir", folder, "rate=0.75", "--overlay", overlay, "regime=y"]) == 0
    assert main(["run", "--overlay", overlay, str(bundle), "train", "rate=0.5", "--run-dir", folder, "regime=z"]) == 0
    assert (tmp_path / "run" / "models" / "runs.txt").read_text() == "train 0.75 y 4\ntrain 0.5 z 4\n"


def test_an_overlay_elsewhere_is_nothing_to_warn_of(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MONAI warns that metadata may not be found where overlays lie elsewhere; its other warnings are shown."""
    (tmp_path / "mine.yaml").write_text("rate: 0.25\n")
    files = [str(bundle / "configs" / "train.yaml"), str(tmp_path / "mine.yaml")]
    monai = logging.getLogger("monai.bundle.workflows")
    monai.addHandler(caplog.handler)
    try:
        ConfigWorkflow(config_file=files, meta_file=str(bundle / "configs/metadata.json"), logging_file=False)
        assert "Not all config files are in" in caplog.text  # MONAI still says so
        caplog.clear()
        run_stage(bundle, "train", {}, files[1:], tmp_path / "run")
        assert "Not all config files are in" not in caplog.text
        assert "Logging file is set to False, skipping logging." in caplog.text
        assert not monai.filters
    finally:
        monai.removeHandler(caplog.handler)
    assert (tmp_path / "run/models/runs.txt").read_text() == "train 0.25 plain 0\n"


def test_an_error_is_one_message(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(bundle), "train", "regime=broken", "--run-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == "medssl: x.png: the data is broken. Mend it."
    assert "Traceback" not in error
    with pytest.raises(DataError, match="the data is broken"):
        main(["--verbose", "run", str(bundle), "train", "regime=broken", "--run-dir", str(tmp_path / "run")])


def test_arguments_of_a_target_are_those_of_its_signature() -> None:
    config = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1}, "dataloader": {"_target_": "DataLoader"}}
    check_keys(config, {"optimizer::weight_decay": 0.1, "dataloader::anything": 1}, "x")
    with pytest.raises(ConfigError, match="optimizer has no 'weight_decy'"):
        check_keys(config, {"optimizer::weight_decy": 0.1}, "x")


def test_an_unforeseen_error_is_named_by_its_deepest_cause() -> None:
    def fail() -> None:
        try:
            raise ValueError("first line\nthe matter")
        except ValueError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error

    with pytest.raises(RuntimeError) as caught:
        fail()
    cause = readable_cause(caught.value, "train")
    assert str(cause) == "stage train stopped: ValueError: first line\nthe matter. --verbose shows the traceback."
    own = DataError("is damaged", where="a.png")
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = own
    assert readable_cause(wrapped, "train") is own
    text = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback\n  x\ncore.errors.DataError: a.png: bad."
    )
    found = readable_cause(DataError(text), "train")
    assert (type(found), str(found)) == (DataError, "a.png: bad.")
