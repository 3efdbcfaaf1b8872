"""Check every bundle of the repository: files, metadata, configuration traps, shared keys, network in and out.

    python scripts/check_bundles.py [BUNDLE ...]

Lists all problems; exit code 1 where there is one. MONAI's metadata schema is not shipped: it is looked for in the
folder named by MEDSSL_TEST_DATA, then in ../shared/data, and its check is left out, and said so, where neither has it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.bundle.config_parser import ConfigParser

from medssl_monai.apps.run import VOCABULARY, stage_keys
from medssl_monai.core import read_json, share_dir

FILES = ("LICENSE", "configs/metadata.json", "configs/inference.yaml", "configs/train.yaml", "configs/evaluate.yaml",
         "configs/study.yaml", "configs/logging.conf", "docs/README.md", "docs/data_license.txt")  # fmt: skip
#: required by MONAI's schema, and what the model zoo requires beyond
METADATA = ("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
            "task", "description", "authors", "copyright", "network_data_format", "changelog", "name", "license",
            "intended_use")  # fmt: skip
#: sections every bundle's README has, with something in them
SECTIONS = ("What it is for", "Data", "Commands", "Minutes and memory", "Licences", "Intended use and limits")
SCHEMA = "monai_schema/meta_schema_20240725.json"
SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"


def texts(node: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All strings of a configuration with the place they stand at."""
    if isinstance(node, str):
        yield where, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from texts(value, f"{where}::{key}" if where else str(key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from texts(value, f"{where}::{index}")


def file_problems(bundle: Path) -> Iterator[str]:
    """Files that are missing, and metadata that is not as MONAI and the model zoo want it."""
    yield from (f"{name} is missing" for name in FILES if not (bundle / name).is_file())
    metadata = read_json(bundle / "configs/metadata.json")
    yield from (f"metadata.json: key {key!r} is missing" for key in METADATA if key not in metadata)
    readme = bundle / "docs/README.md"
    headings = (
        re.findall(r"^## (.+)\n+(?=[^#\n])", readme.read_text(encoding="utf-8"), re.M) if readme.is_file() else []
    )
    yield from (f"README.md: section {name!r} is missing or empty" for name in SECTIONS if name not in headings)
    if metadata.get("version") not in metadata.get("changelog", {}):
        yield f"metadata.json: the changelog has no entry for version {metadata.get('version')}"
    if not re.search("_(classification|segmentation)$", bundle.name):
        yield "the name must end in _classification or _segmentation: MONAI Label reads the task from it"


def config_problems(bundle: Path) -> Iterator[str]:
    """Traps of MONAI's configuration language, and keys of the shared vocabulary that a stage lacks."""
    for path in sorted((bundle / "configs").glob("*.yaml")):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        for where, text in texts(config):
            if "#" in text:
                yield f"{path.name} {where}: '#' in a string becomes '::'"
            if re.match(r"\$import [\w]+\.[\w.]+$", text):
                yield f"{path.name} {where}: '$import a.b' does not bind a.b; use '$from a import b'"
            if re.search(r"^(/|[A-Za-z]:\\)|['\"](/(home|root|mnt|tmp|usr)/|[A-Za-z]:\\)", text):
                yield f"{path.name} {where}: absolute path {text!r}"
            if (
                where.endswith("_target_")
                and "." in text
                and not text.startswith(("medssl_monai.", "monai.", "torch."))
            ):
                yield f"{path.name} {where}: {text} is neither ours, MONAI's nor torch's"
            if where.split("::")[-1] == "keys" and re.match(r"(image|label|pred)_", text):
                yield f"{path.name} {where}: data key {text!r} collides with MONAI's metadata keys"
        if path.stem != "study":
            yield from (
                f"{path.name}: key {key!r} of the vocabulary is missing" for key in VOCABULARY if key not in config
            )


def study_problems(bundle: Path) -> Iterator[str]:
    """Arms whose stages or keys do not exist."""
    path = bundle / "configs/study.yaml"
    if not path.is_file():
        return
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    stages = {file.stem for file in (bundle / "configs").glob("*.yaml")} - {"study"}
    for name in ("baseline_arm", "primary_arm"):
        if study.get(name) not in study["arms"]:
            yield f"study.yaml: {name} {study.get(name)!r} is not an arm"
    for name, arm in study["arms"].items():
        yield from (f"study.yaml: arm {name} has the unknown stage {s!r}" for s in arm["stages"] if s not in stages)
        known = {key for stage in arm["stages"] if stage in stages for key in stage_keys(bundle, stage)}
        yield from (f"study.yaml: no stage of arm {name} reads {key!r}" for key in arm["overrides"] if key not in known)


def overlay_problems() -> Iterator[str]:
    """Overlay keys that are not of the shared vocabulary."""
    for path in sorted(share_dir("configs").rglob("*.yaml")):
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        yield from (f"overlay {path.name}: {key!r} is not of the vocabulary" for key in keys if key not in VOCABULARY)


def schema_file() -> Path | None:
    """MONAI's metadata schema, where there is one on this machine."""
    named = os.environ.get("MEDSSL_TEST_DATA")
    folders = [Path(named)] if named else []
    folders.append(Path(__file__).resolve().parents[2] / "shared" / "data")
    return next((folder / SCHEMA for folder in folders if (folder / SCHEMA).is_file()), None)


def monai_problems(bundle: Path) -> Iterator[str]:
    """What MONAI's own checks say: metadata against the schema, the network's input and output, the properties."""
    meta, inference = str(bundle / "configs/metadata.json"), str(bundle / "configs/inference.yaml")
    schema = schema_file()
    if schema is None:
        print(f"  {bundle.name}: metadata not checked against MONAI's schema, no {SCHEMA} here")
    else:
        try:
            verify_metadata(meta_file=meta, filepath=str(schema), hash_val=SCHEMA_MD5)
        except Exception as error:
            yield f"verify_metadata: {error}"
    try:
        verify_net_in_out("network_def", meta_file=meta, config_file=inference, device="cpu")
    except Exception as error:
        yield f"verify_net_in_out: {error}"
    with tempfile.TemporaryDirectory() as folder:
        # properties are resolved, so the run needs images: any will do
        from medssl_monai.data.phantoms import make_phantom

        make_phantom("skin_lesions", Path(folder) / "data", subjects=100, size=32, balance=1.0)
        smoke = ConfigParser.load_config_file(str(share_dir("configs") / "smoke.yaml"))
        common = {
            "dataset_dir": f"{folder}/data",
            "ckpt_dir": f"{folder}/models",
            "output_dir": f"{folder}/eval",
            **smoke,
        }
        workflow = ConfigWorkflow(
            config_file=str(bundle / "configs/train.yaml"), meta_file=meta, logging_file=False, workflow_type="train",
            regime="supervised", **common,
        )  # fmt: skip
        workflow.initialize()
        wrong = workflow.check_properties()
        if wrong:
            yield f"check_properties of train.yaml: {', '.join(wrong)}"


def main() -> int:
    """Check and print."""
    named = [Path(name) for name in sys.argv[1:]]
    bundles = named or sorted(path for path in share_dir("bundles").iterdir() if (path / "configs").is_dir())
    problems = list(overlay_problems())
    for bundle in bundles:
        found = [*file_problems(bundle), *config_problems(bundle), *study_problems(bundle), *monai_problems(bundle)]
        print(f"{bundle.name}: {len(found) or 'no'} problem{'s' * (len(found) != 1)}")
        problems += [f"{bundle.name}: {text}" for text in found]
    for text in problems:
        print(f"  {text}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
