"""The ``medssl`` command: finds the sub-command, turns errors a user can mend into one clear message."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Sequence

from medssl_monai import __version__
from medssl_monai.core import MedSSLError

#: sub-command -> one-line help; each is a module of this package with ``add_parser(subparsers)``
COMMANDS = {
    "prepare": "turn a dataset as its publisher ships it into a dataset folder",
    "check": "read every file of a dataset folder and report all problems",
    "phantom": "make a synthetic dataset",
    "superpixels": "prepare scans and their superpixels for pre-training by episodes",
    "run": "run a stage of a bundle",
    "bundle": "list, copy or check bundles",
    "study": "compare a bundle's arms at several label budgets",
    "protocol": "judge an encoder by kNN, a linear probe or a linear SVM",
    "features": "embeddings of images by a bundle's encoder",
    "supports": "the best support among labelled scans",
    "next": "the unlabelled cases most worth labelling next",
    "report": "one HTML page of a run or a study",
    "demo": "pre-train, train, evaluate and predict on phantoms, in minutes",
}


def _leave_out_optional_decoder(record: logging.LogRecord) -> bool:
    return "nvImageCodec is not available" not in record.getMessage()


def silence_optional_decoder() -> None:
    """Keep MONAI from saying at every loader that a GPU decoder of DICOM is not installed, which no bundle asks for."""
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").addFilter(_leave_out_optional_decoder)
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader: nvImageCodec decoder plugin did not register")


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The command's parser; with ``only`` the other sub-commands are named but not imported, which is quicker."""
    parser = argparse.ArgumentParser(prog="medssl", description="Label-efficient learning for medical images.")
    parser.add_argument("--version", action="version", version=f"medssl-monai {__version__}")
    parser.add_argument("--verbose", action="store_true", help="show a traceback with every error")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if only is None or name == only:
            importlib.import_module(f"medssl_monai.apps.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``medssl``; returns 0 on success, 1 where a check found problems, 2 for an error the user can mend."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = [text for text in given if text != "--verbose"]  # may stand behind the sub-command too
    named = next((a for a in arguments if not a.startswith("-")), None)
    parser = build_parser(named if named in COMMANDS else "")
    parsed, rest = parser.parse_known_args(arguments)
    # argparse stops collecting KEY=VALUE at the first option; those behind it belong to the same list
    if hasattr(parsed, "overrides") and all("=" in text and not text.startswith("-") for text in rest):
        parsed.overrides += rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    silence_optional_decoder()
    try:
        return int(parsed.command(parsed))
    except MedSSLError as error:
        if len(given) > len(arguments):
            raise
        print(f"medssl: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("medssl: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
