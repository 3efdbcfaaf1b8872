"""Files a bundle must have, and whether the licences of code, weights and data are stated."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medssl_monai.apps.bundle_check.report import Problem, Rule
from medssl_monai.apps.bundle_check.source import Bundle

_HOUSE_FILES = ("configs/train.yaml", "configs/evaluate.yaml", "configs/study.yaml", "configs/logging.conf",
                "docs/data_license.txt")  # fmt: skip
#: sections every README of ours has, with something in them
SECTIONS = ("What it is for", "Data", "Commands", "Minutes and memory", "Licences", "Intended use and limits")
#: larger files are named in large_files.yml and fetched apart
_LIMIT = 25 * 2**20


def file_problems(bundle: Bundle, notes: list[str]) -> Iterator[Problem]:
    """Missing or empty files, sections and names."""
    root = bundle.root

    def missing(rule: Rule, name: str, advice: str) -> Iterator[Problem]:
        path = root / name
        if not path.is_file():
            yield Problem(rule, name, "", "the file is missing", advice)
        elif not path.stat().st_size:
            yield Problem(rule, name, "", "the file is empty", advice)

    yield from missing("MONAI", "configs/metadata.json", "MONAI, MONAI Label and Deploy read this very name.")
    yield from missing("MONAI", "LICENSE", "Put the licence of the code here.")
    if not _has(bundle, "inference"):
        mend = "Add it: the zoo's checks, MONAI Label and Deploy read it."
        yield Problem("model zoo", "configs/inference.yaml", "", "no such file, nor with .json", mend)
    if not _has(bundle, "train") and not bundle.house:
        notes.append("no train configuration: MONAI Label will not train it")
    yield from missing("model zoo", "docs/README.md", "Say what the bundle does and how it is run.")
    if bundle.house:
        for name in _HOUSE_FILES:
            yield from missing("house", name, "Every bundle of ours has it.")
        yield from _section_problems(bundle)
        if not re.search("_(classification|segmentation)$", root.name):
            what = f"the folder's name {root.name!r} does not end in _classification or _segmentation"
            yield Problem("house", ".", "", what, "MONAI Label reads the task from it.")
        if (root / "scripts").exists():
            what = "a folder of code: all bundles share this module's name"
            yield Problem("house", "scripts", "", what, "Put the code into the package.")
    for path in sorted(root.rglob("*")):
        local = path.relative_to(root)
        if local.parts[0] in ("eval", ".git") or not path.is_file() or path.stat().st_size <= _LIMIT:
            continue
        what = f"{path.stat().st_size / 2**20:.0f} MiB, over the model zoo's 25 MiB"
        if local.parts[0] == "models":  # weights may lie there for everybody but the zoo
            notes.append(f"{local.as_posix()}: {what}; for the zoo, name it in large_files.yml and leave it out")
        else:
            yield Problem("model zoo", local.as_posix(), "", what, "Name it in large_files.yml and leave it out.")


def _has(bundle: Bundle, stage: str) -> bool:
    return any((bundle.root / f"configs/{stage}.{suffix}").is_file() for suffix in ("json", "yaml", "yml"))


def _section_problems(bundle: Bundle) -> Iterator[Problem]:
    readme = _text(bundle, "docs/README.md")
    if readme:
        filled = re.findall(r"^## (.+)\n+(?=[^#\n])", readme, re.M)
        for name in SECTIONS:
            if name not in filled:
                what = f"the section {name!r} is missing or empty"
                yield Problem("house", "docs/README.md", f"## {name}", what, "Write it.")


def licence_problems(bundle: Bundle, notes: list[str]) -> Iterator[Problem]:
    """Weights and data without a word on their terms.

    MONAI and the zoo ask for the licence of the code only; so for bundles of others the rest is noted, unless files
    of weights lie in the bundle: those are handed on.
    """
    stated = str(bundle.metadata.get("license", ""))
    readme = _text(bundle, "docs/README.md")
    section = "\n".join(re.findall(r"^#+ .*[Ll]icen[cs]es?\b.*\n((?:(?!#).*\n?)*)", readme, re.M)) + "\n" + stated
    data_terms = _text(bundle, "docs/data_license.txt").strip()
    weights = [p for p in (bundle.root / "models").glob("*") if p.suffix in (".pt", ".ts", ".pth", ".onnx")]
    found = {
        "weights": bool(re.search(r"\bweights?\b|\bmodels?\b", section, re.I)),
        "data": bool(data_terms or re.search(r"\bdata(sets?)?\b|\bimages\b", section, re.I)),
    }
    for subject, told in found.items():
        if told:
            continue
        what = f"no word on the licence of the {subject}"
        mend = {
            "weights": "Say under a heading 'Licences' under which terms weights come, or that none are shipped.",
            "data": "Say it in docs/data_license.txt, or under a heading 'Licences'.",
        }[subject]
        if bundle.house:
            yield Problem("house", "docs/README.md", "## Licences", what, mend)
        elif subject == "weights" and weights:
            yield Problem("model zoo", "docs/README.md", "", f"{what}, and {weights[0].name} is shipped", mend)
        else:
            notes.append(what)


def _text(bundle: Bundle, name: str) -> str:
    path = bundle.root / name
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
