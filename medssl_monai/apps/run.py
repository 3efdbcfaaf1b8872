"""``medssl run``: run a stage of a bundle with checked keys, recorded configuration and readable errors."""

from __future__ import annotations

import argparse
import inspect
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow

from medssl_monai.apps.run_record import start_record, write_record
from medssl_monai.core import ConfigError, MedSSLError, bundle_dir, did_you_mean, overlay_path, share_dir, write_text
from medssl_monai.core.distributed import is_main

logger = logging.getLogger(__name__)

#: keys that every stage of every bundle understands; overlays set these and nothing else
VOCABULARY = (
    "bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "device", "distributed", "deterministic", "seed", "amp",
    "amp_dtype", "num_workers", "cache_rate", "image_size", "in_channels", "max_epochs", "steps_per_epoch",
    "batch_size", "learning_rate", "label_fraction", "label_budget", "split_seed", "transductive", "resume",
    "checkpoint_every", "mlflow_uri", "pretrained", "backbone_weights", "width", "n_boot",
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may have an exponent without a point: ``1e-4`` is text in YAML 1.1, a number in 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)
_REFERENCE = re.compile(r"@([A-Za-z_]\w*)")


def add_parser(subparsers: Any) -> None:
    """Add ``run``."""
    parser = subparsers.add_parser(
        "run",
        help="run a stage of a bundle",
        description="Run a stage of a bundle. KEY=VALUE overrides a key of the stage's configuration (VALUE as YAML; "
        "nested keys as a::b::c).",
    )
    parser.add_argument("bundle", help="a bundle's folder, or the name of one that ships with the package")
    parser.add_argument("stage", help="pretrain, train, evaluate, inference: a file in the bundle's configs folder")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example dataset_dir=/data/lesions")
    parser.add_argument(
        "--overlay", action="append", default=[], help="an overlay's name (smoke, cpu) or file; may be repeated"
    )
    parser.add_argument(
        "--run-dir",
        type=Path,
        help="folder of this run: ckpt_dir is RUN_DIR/models, output_dir RUN_DIR/eval (default: the bundle's folder, "
        "or runs/BUNDLE for a bundle that ships with the package, and in it a folder for the bundle's run_name)",
    )
    parser.add_argument("--dry-run", action="store_true", help="check the keys and show the configuration, run nothing")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Entry point of the sub-command."""
    overrides = parse_overrides(arguments.overrides)
    if arguments.dry_run:
        config, _ = resolve_config(arguments.bundle, arguments.stage, overrides, arguments.overlay, arguments.run_dir)
        print(yaml.safe_dump(config, sort_keys=False))
        return 0
    run_stage(arguments.bundle, arguments.stage, overrides, arguments.overlay, arguments.run_dir)
    return 0


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """``["a=1", "b::c=[x, y]"]`` as a mapping; values are YAML.

    Raises:
        ConfigError: when a text has no ``=`` or its value is not YAML.
    """
    overrides = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError("not of the form KEY=VALUE", where=text)
        try:
            overrides[key.lstrip("-").replace("#", "::")] = yaml.load(value, _Loader) if value else ""  # noqa: S506 (a safe loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value is not YAML: {error}", where=key) from error
    return overrides


def resolve_config(
    bundle: str | Path,
    stage: str,
    overrides: Mapping[str, Any],
    overlays: Sequence[str] = (),
    run_dir: str | Path | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The stage's configuration with overlays and overrides, checked, and the files it comes from.

    Raises:
        ConfigError: when bundle, stage, overlay or a key is unknown.
    """
    root = bundle_dir(bundle)
    files = [str(stage_file(root, stage)), *(str(overlay_path(name)) for name in overlays)]
    own: Any = ConfigParser.load_config_file(files[0])
    for overlay in files[1:]:
        keys: Any = ConfigParser.load_config_file(overlay)
        check_keys(own, {key.lstrip("+").replace("#", "::"): value for key, value in keys.items()}, root.name, overlay)
    parser = ConfigParser()
    parser.read_config(files)
    config: Any = parser.config
    check_keys(config, overrides, root.name)
    if run_dir is None and root.parent == share_dir("bundles"):
        run_dir = Path("runs") / root.name / _run_name(config, overrides)
    defaults: dict[str, Any] = {"bundle_root": str(root)}
    if run_dir is not None:
        folder = Path(run_dir).resolve()
        defaults |= {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    for key, value in {**defaults, **overrides}.items():
        parser[key] = value
    return config, files


def _run_name(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """A bundle's name of a run within its own folder, where it has several side by side (``run_name``)."""
    if "run_name" not in config:
        return ""
    parser = ConfigParser({**config, **{key: value for key, value in overrides.items() if "::" not in key}})
    return str(parser.get_parsed_content("run_name"))


def stage_file(root: Path, stage: str) -> Path:
    """The configuration of a bundle's stage.

    Raises:
        ConfigError: when the bundle has no such stage.
    """
    stages = {path.stem: path for path in sorted((root / "configs").glob("*.y*ml")) if path.stem != "study"}
    if stage not in stages:
        raise ConfigError(f"{root.name} has no stage {stage!r}", advice=did_you_mean(stage, stages))
    return stages[stage]


def stage_keys(bundle: str | Path, stage: str) -> set[str]:
    """Top-level keys that a stage understands."""
    with stage_file(bundle_dir(bundle), stage).open(encoding="utf-8") as stream:
        return {*yaml.safe_load(stream), *VOCABULARY}


def check_keys(config: Mapping[str, Any], overrides: Mapping[str, Any], bundle: str, where: str | None = None) -> None:
    """Refuse override keys that nothing would read; ``where`` names the file they stand in.

    A key is known when the configuration holds it (with all its parents), the shared vocabulary names it, or some
    ``@reference`` of the configuration reads it.

    Raises:
        ConfigError: names every unknown key, with the nearest known one.
    """
    read = {name for text in _texts(config) for name in _REFERENCE.findall(text)}
    problems = []
    for key in overrides:
        first, *rest = key.split("::")
        node: Any = config.get(first)
        if first not in {*config, *VOCABULARY, *read}:
            problems.append(f"{key!r}: nothing in {bundle} reads it.{did_you_mean(first, {*config, *VOCABULARY})}")
            continue
        for depth, part in enumerate(rest):
            known = node if isinstance(node, Mapping) else {}
            inside_target = "_target_" in known and depth == len(rest) - 1 and _accepts(known["_target_"], part)
            is_position = isinstance(node, list) and part.isdecimal() and int(part) < len(node)
            if part not in known and not inside_target and not is_position:
                parent = "::".join([first, *rest[:depth]])
                problems.append(f"{key!r}: {parent} has no {part!r}.{did_you_mean(part, known)}")
                break
            node = node[int(part)] if is_position else known.get(part)
    if problems:
        text = "unknown key" + "s" * (len(problems) > 1) + ":\n  " + "\n  ".join(problems)
        raise ConfigError(text, where=where)


def _accepts(target: Any, argument: str) -> bool:
    """Whether a component takes an argument; ``True`` where that cannot be seen."""
    located = locate(target) if isinstance(target, str) and "." in target else None
    if located is None:
        return True
    try:
        parameters = inspect.signature(located).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True
    return any(p.name == argument or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)


def run_stage(
    bundle: str | Path,
    stage: str,
    overrides: Mapping[str, Any] | None = None,
    overlays: Sequence[str] = (),
    run_dir: str | Path | None = None,
) -> None:
    """Run a stage in this process, through MONAI's ``ConfigWorkflow``.

    When it begins the configuration is recorded as ``<stage>_config.yaml`` in its ``ckpt_dir`` (``output_dir`` for
    evaluation and inference); beside it ``<stage>_run.json`` says what was asked for, when, on which machine, and how
    many seconds this call took once it has ended well. A run that is refused leaves no record.

    Raises:
        MedSSLError: the cause, where one of ours lies behind MONAI's wrapping.
    """
    config, files = resolve_config(bundle, stage, overrides or {}, overlays, run_dir)
    root = Path(config["bundle_root"])
    logging_file = root / "configs" / "logging.conf"
    changed = {key: config[key] for key in ("bundle_root", "ckpt_dir", "output_dir")}
    with _without_the_note_on_folders():
        workflow = ConfigWorkflow(
            config_file=files,
            meta_file=str(bundle_dir(bundle) / "configs" / "metadata.json"),
            logging_file=str(logging_file) if logging_file.is_file() else False,
            workflow_type="train" if stage in ("pretrain", "train") else "infer",
            **{**changed, **(overrides or {})},
        )
    try:
        folder = workflow.parser.get_parsed_content("ckpt_dir" if stage in ("pretrain", "train") else "output_dir")
        record, start = start_record(bundle, stage, overrides or {}, overlays), time.monotonic()

        def begin() -> None:
            if is_main():
                write_text(Path(folder) / f"{stage}_config.yaml", yaml.safe_dump(config, sort_keys=False))
                write_record(folder, record)

        workflow.initialize()
        engine = _engine(workflow)
        if engine is None:
            begin()
        else:
            # not before it has the folder to itself and its checkpoint is found to be of this run: what a run that is
            # refused was asked for must not stand beside the results of another
            engine.add_event_handler(Events.STARTED, begin)
        workflow.run()
        workflow.finalize()
        if is_main():
            write_record(folder, {**record, "seconds": round(time.monotonic() - start, 1)})
    except MedSSLError:
        raise
    except Exception as error:
        raise readable_cause(error, stage) from error


@contextmanager
def _without_the_note_on_folders() -> Iterator[None]:
    """Keep back one warning of MONAI's: that an overlay does not lie in the bundle's folder.

    It is about where metadata and logging are then looked for, and those are named here.
    """

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Not all config files are in ")

    notes = logging.getLogger(ConfigWorkflow.__module__)
    notes.addFilter(wanted)
    try:
        yield
    finally:
        notes.removeFilter(wanted)


def _engine(workflow: ConfigWorkflow) -> Engine | None:
    """The engine that a stage runs; ``None`` where it has none under the usual names."""
    config: Any = workflow.parser.config
    for name in ("train::trainer", "evaluator"):
        # a path whose first part is missing is an error of the parser's
        if name.split("::")[0] in config and workflow.parser.get(name) is not None:
            engine = workflow.parser.get_parsed_content(name)
            return engine if isinstance(engine, Engine) else None
    return None


def readable_cause(error: Exception, stage: str) -> Exception:
    """The first of our errors behind an exception; else the deepest cause, in a message that names the stage.

    MONAI wraps whatever happens in a component as "Failed to evaluate ..."; what a user needs is what was wrong.
    """
    cause = root_cause(error)
    text = (cause.what if isinstance(cause, MedSSLError) else str(cause)).strip()
    if "in DataLoader worker" in text:
        # torch joins a worker's traceback to the message; its last line is what was wrong, behind the class's name
        text = text.splitlines()[-1].partition(": ")[2]
        if isinstance(cause, MedSSLError):
            return type(cause)(text)
    if isinstance(cause, MedSSLError):
        return cause
    return StageError(f"stage {stage} stopped: {type(cause).__name__}: {text}", advice="--verbose shows the traceback.")


class StageError(MedSSLError, RuntimeError):
    """A stage stopped for a reason that none of our checks foresaw."""


def root_cause(error: BaseException) -> BaseException:
    """The first of our errors behind an exception, else the deepest cause."""
    current, seen = error, [error]
    while True:
        if isinstance(current, MedSSLError):
            return current
        following = current.__cause__ or current.__context__
        if following is None or following in seen:
            return current
        seen.append(following)
        current = following
