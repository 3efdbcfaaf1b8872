"""``medssl bundle``: list and copy the bundles that ship with the package, check anybody's."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from medssl_monai.core import ConfigError, OutputError, bundle_dir, make_folder, read_json, share_dir

#: written by runs, never part of a bundle that is handed on
_RUN_FOLDERS = ("models", "eval", "__pycache__")

_CHECK = """Check bundles, ours or anybody's, and list all problems: files, metadata (also against MONAI's schema),
references and keys, traps of the configuration format, components and their arguments, MONAI's properties, the
network's input and output, its export as TorchScript, changelog, licences; for bundles that require this package also
the shared vocabulary and study.yaml. Each line names whose rule it is: MONAI, model zoo, or house. Nothing is written
into a bundle. The exit code is 0 when nothing is wrong, 1 when there are problems, 2 when there is no bundle to check;
a name that is no bundle is a problem where others are checked beside it.
Building the network and the stages' objects executes what the bundle says; --no-run leaves that out."""


def add_parser(subparsers: Any) -> None:
    """Add ``bundle`` with its actions."""
    parser = subparsers.add_parser("bundle", help="list, copy or check bundles")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="names, versions and tasks").set_defaults(command=list_bundles)
    copy = actions.add_parser("copy", help="copy a bundle to a folder of yours, to change it there")
    copy.add_argument("name", help="a bundle's name")
    copy.add_argument("folder", type=Path, help="where to; the bundle becomes FOLDER/NAME")
    copy.set_defaults(command=copy_bundle)
    check = actions.add_parser("check", help="list all that is wrong with bundles", description=_CHECK)
    check.add_argument("folders", nargs="*", metavar="DIR", help="a bundle's folder or name (default: all that ship)")
    check.add_argument("--data", type=Path, metavar="DIR", help="dataset_dir on which every stage's objects are built")
    check.add_argument("--schema", type=Path, metavar="FILE", help="MONAI's metadata schema (default: fetched)")
    check.add_argument("--offline", action="store_true", help="do not fetch the schema")
    check.add_argument("--no-run", action="store_true", help="read only: build no network and no stage")
    check.add_argument("--json", action="store_true", help="write the report as JSON, for machines")
    check.set_defaults(command=check_bundles)


def list_bundles(arguments: argparse.Namespace) -> int:
    """Print one line a bundle."""
    for folder in sorted(share_dir("bundles").iterdir()):
        if (folder / "configs" / "metadata.json").is_file():
            metadata = read_json(folder / "configs" / "metadata.json")
            print(f"{folder.name}  {metadata['version']}  {metadata['task']}")
    return 0


def copy_bundle(arguments: argparse.Namespace) -> int:
    """Copy a bundle without what runs have written into it.

    Raises:
        OutputError: when the target exists.
    """
    source = bundle_dir(arguments.name)
    target = make_folder(arguments.folder) / source.name
    if target.exists():
        raise OutputError("exists already", where=target, advice="Name another folder, or remove it first.")
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_RUN_FOLDERS))
    print(target)
    return 0


def check_bundles(arguments: argparse.Namespace) -> int:
    """Check the bundles named, or all that ship and the overlays, and print the problems.

    A name that is no bundle is a problem beside those of the others.

    Returns:
        0 when nothing is wrong, else 1.

    Raises:
        ConfigError: when none of the names is a bundle, for a dataset folder that does not exist, or another schema.
    """
    # loads MONAI's networks and engines, which listing and copying do without
    from medssl_monai.apps.bundle_check import BundleReport, Problem, check_bundle, find_schema, overlay_problems

    if arguments.data is not None and not arguments.data.is_dir():
        raise ConfigError("no such folder", where=arguments.data, advice="--data names a dataset_dir of the bundle.")
    folders, absent = _folders(arguments.folders)
    if not arguments.folders:
        folders = sorted(path.parent for path in share_dir("bundles").glob("*/configs"))
    schema, why = find_schema(arguments.schema, arguments.offline)
    overlays = [] if arguments.folders else overlay_problems(share_dir("configs"))
    reports = []
    for folder in [*folders, *absent]:
        if folder in absent:
            error = absent[folder]
            report = BundleReport(
                folder, problems=[Problem("MONAI", ".", "", error.what, (error.advice or "").strip())]
            )
        else:
            report = check_bundle(folder, schema=schema, schema_note=why, data=arguments.data, run=not arguments.no_run)
        reports.append(report)
        if not arguments.json:
            print("\n".join(report.lines()), flush=True)
    if arguments.json:
        content = {
            "bundles": [report.to_json() for report in reports], "overlays": [entry.to_json() for entry in overlays],
        }  # fmt: skip
        print(json.dumps(content, indent=2, ensure_ascii=False))
    elif overlays:
        number = len(overlays)
        print(f"overlays: {number} problem{'s'[: number != 1]}", *(f"  {entry.text()}" for entry in overlays), sep="\n")
    return 1 if overlays or any(report.problems for report in reports) else 0


def _folders(names: list[str]) -> tuple[list[Path], dict[Path, ConfigError]]:
    """The bundles to check, and why the other names are none.

    Raises:
        ConfigError: when there are names, and none of them is a bundle.
    """
    folders: list[Path] = []
    absent: dict[Path, ConfigError] = {}
    for name in names:
        try:
            folders.append(_folder(name))
        except ConfigError as error:
            absent[Path(name)] = error
    if absent and not folders:
        if len(absent) == 1:
            raise next(iter(absent.values()))
        raise ConfigError(
            "none of these is a bundle", where=", ".join(map(str, absent)),
            advice=" ".join(str(error) for error in absent.values()),
        )  # fmt: skip
    return folders, absent


def _folder(name: str) -> Path:
    """A bundle to check: one without its metadata is still a bundle, with a problem.

    Raises:
        ConfigError: when there is no ``configs`` folder, nor a bundle of that name.
    """
    path = Path(name)
    if (path / "configs").is_dir():
        return path.resolve()
    if path.is_dir():
        raise ConfigError("no bundle: it has no folder 'configs'", where=path, advice="Name the bundle's own folder.")
    return bundle_dir(name)
