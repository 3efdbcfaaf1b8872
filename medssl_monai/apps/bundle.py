"""``medssl bundle``: list and copy the bundles that ship with the package."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from medssl_monai.core import OutputError, bundle_dir, make_folder, read_json, share_dir

#: written by runs, never part of a bundle that is handed on
_RUN_FOLDERS = ("models", "eval", "__pycache__")


def add_parser(subparsers: Any) -> None:
    """Add ``bundle`` with its actions."""
    parser = subparsers.add_parser("bundle", help="list or copy the bundles that ship with the package")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    actions.add_parser("list", help="names, versions and tasks").set_defaults(command=list_bundles)
    copy = actions.add_parser("copy", help="copy a bundle to a folder of yours, to change it there")
    copy.add_argument("name", help="a bundle's name")
    copy.add_argument("folder", type=Path, help="where to; the bundle becomes FOLDER/NAME")
    copy.set_defaults(command=copy_bundle)


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
