"""Metadata: required keys and types without any schema file, misspelt keys, changelog; then MONAI's own schema."""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from monai.apps.utils import check_hash, download_url
from monai.bundle.scripts import _get_fake_spatial_shape

import medssl_monai
from medssl_monai.apps.bundle_check.quiet import cause, quiet
from medssl_monai.apps.bundle_check.report import Problem
from medssl_monai.apps.bundle_check.source import PACKAGE, Bundle
from medssl_monai.core import ConfigError, make_folder, read_json

SCHEMA_NAME = "meta_schema_20240725.json"
SCHEMA_URL = f"https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/{SCHEMA_NAME}"
SCHEMA_MD5 = "06954cad2cc5d3784e72077ac76f0fc8"
_PATIENCE = 20.0  # seconds

#: keys of MONAI's schema of 2024-07-25 with their types; the first group is required
_REQUIRED = {
    "schema": str, "version": str, "monai_version": str, "pytorch_version": str, "numpy_version": str,
    "required_packages_version": dict, "task": str, "description": str, "authors": str, "copyright": str,
    "network_data_format": dict,
}  # fmt: skip
_OPTIONAL = {
    "changelog": dict, "data_source": str, "data_type": str, "image_classes": str, "label_classes": str,
    "pred_classes": str, "intended_use": str, "eval_metrics": dict, "references": list, "supported_apps": dict,
}  # fmt: skip
#: what the model zoo's checks and pages use beside them
_ZOO = ("changelog", "name")
_HOUSE = ("license", "intended_use", "data_source")
_TENSOR = {"type": str, "format": str, "num_channels": int, "spatial_shape": list, "dtype": str, "value_range": list}
_TENSOR_OPTIONAL = {"modality": str, "is_patch_data": bool, "channel_def": dict}
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number", bool: "true or false"}


def metadata_problems(bundle: Bundle) -> Iterator[Problem]:
    """What can be said of ``metadata.json`` without MONAI's schema."""
    file = bundle.metadata_file
    if file.content is None:
        return
    content = file.content
    yield from _typed(bundle, content, _REQUIRED, _OPTIONAL, "")
    references = content.get("references", [])
    if isinstance(references, list) and not all(isinstance(entry, str) for entry in references):
        yield file.problem("MONAI", "references", "holds something else than texts", "Write each as one text.")
    known = {*_REQUIRED, *_OPTIONAL, "name", "license", "optional_packages_version"}
    for key in content:
        near = difflib.get_close_matches(key, known - set(content), n=1, cutoff=0.8) if key not in known else []
        if near:
            yield file.problem("MONAI", key, f"unknown key; {near[0]!r} is missing", f"Did you mean {near[0]!r}?")
    if "optional_packages_version" in content:
        yield file.problem(
            "MONAI", "optional_packages_version", "an old name",
            "Rename it to 'required_packages_version', which the schema of 2024-07-25 wants.",
        )  # fmt: skip
    for key, value in content.items():
        if key.endswith("_data_format") and isinstance(value, dict):
            yield from _format_problems(bundle, key, value)
    for key in (*_ZOO, *(_HOUSE if bundle.house else ())):
        if not content.get(key):
            yield file.problem("model zoo" if key in _ZOO else "house", key, "the key is missing or empty", "Add it.")
    yield from _changelog_problems(bundle)
    if bundle.house:
        yield from _package_problems(bundle)
    elif bundle.names_package:
        what = f"does not name {PACKAGE}, whose classes the configurations use"
        yield file.problem("model zoo", "required_packages_version", what, "Name it with its version.")


def _typed(
    bundle: Bundle, node: dict[str, Any], required: Mapping[str, Any], optional: Mapping[str, Any], where: str
) -> Iterator[Problem]:
    file = bundle.metadata_file
    for key, kind in {**optional, **required}.items():
        place = f"{where}::{key}" if where else key
        if key not in node:
            if key in required:
                yield file.problem("MONAI", place, "the required key is missing", f"Add it: {_WORDS[kind]}.")
        elif not isinstance(node[key], kind) or (kind is int and isinstance(node[key], bool)):
            found = type(node[key]).__name__
            yield file.problem("MONAI", place, f"is of type {found}", f"The schema wants {_WORDS[kind]}.")


def _format_problems(bundle: Bundle, key: str, node: dict[str, Any]) -> Iterator[Problem]:
    """Inputs and outputs of a network; a value that is no object is a plain argument, which the schema allows."""
    yield from _typed(bundle, node, {"inputs": dict, "outputs": dict}, {"post_processed_outputs": dict}, key)
    file = bundle.metadata_file
    for side, tensors in node.items():
        for name, tensor in tensors.items() if isinstance(tensors, dict) else ():
            if not isinstance(tensor, dict):
                continue
            place = f"{key}::{side}::{name}"
            yield from _typed(bundle, tensor, _TENSOR, _TENSOR_OPTIONAL, place)
            free = {*_TENSOR, *_TENSOR_OPTIONAL} - set(tensor)
            for unknown in set(tensor) - {*_TENSOR, *_TENSOR_OPTIONAL}:
                for near in difflib.get_close_matches(unknown, free, n=1, cutoff=0.8):
                    yield file.problem("MONAI", f"{place}::{unknown}", "unknown key", f"Did you mean {near!r}?")
            channels, names = tensor.get("num_channels"), tensor.get("channel_def")
            if isinstance(channels, int) and isinstance(names, dict) and names and len(names) != channels:
                what = f"names {len(names)} channels, but num_channels is {channels}"
                yield file.problem("MONAI", f"{place}::channel_def", what, "Name every channel once.")
    if key == "network_data_format":
        yield from _shape_problems(bundle, node)
    if key == "network_data_format" and all(isinstance(node.get(s), dict) for s in ("inputs", "outputs")):
        for side, name in (("inputs", "image"), ("outputs", "pred")):
            if name not in node[side]:
                what = f"no {name!r} (found: {', '.join(node[side]) or 'nothing'})"
                mend = "verify_net_in_out, MONAI Label and Deploy read this name: use it for the main tensor."
                yield file.problem("MONAI", f"{key}::{side}", what, mend)


def _shape_problems(bundle: Bundle, node: dict[str, Any]) -> Iterator[Problem]:
    """Edges of the image that MONAI's ``verify_net_in_out`` cannot make into a number."""
    inputs = node.get("inputs")
    image = inputs.get("image") if isinstance(inputs, dict) else None
    shape = image.get("spatial_shape") if isinstance(image, dict) else None
    for index, edge in enumerate(shape if isinstance(shape, list) else ()):
        try:
            _get_fake_spatial_shape([edge], p=4, n=2, any=32)
        except Exception as error:  # whatever the expression raises
            place = f"network_data_format::inputs::image::spatial_shape::{index}"
            what = f"{edge!r} is no edge that MONAI can evaluate ({cause(error)})"
            mend = "Write a number, '*' for any, or an expression of p and n such as '16*n', '2**p' or '2**p*n'."
            yield bundle.metadata_file.problem("MONAI", place, what, mend)


def _changelog_problems(bundle: Bundle) -> Iterator[Problem]:
    file, content = bundle.metadata_file, bundle.metadata
    version, changelog = content.get("version"), content.get("changelog")
    if not isinstance(version, str) or not isinstance(changelog, dict) or not changelog:
        return
    if version not in changelog:
        what = f"no entry for version {version}"
        yield file.problem("model zoo", "changelog", what, "Say in it what this version changes.")
    for key, text in changelog.items():
        if not isinstance(text, str) or not text.strip():
            yield file.problem("model zoo", f"changelog::{key}", "the entry says nothing", "Say what changed.")
        if _number(key) is None:
            yield file.problem("model zoo", f"changelog::{key}", "not a version number", "Use numbers, as in 0.2.1.")
    if _number(version) is None:
        yield file.problem("model zoo", "version", f"{version!r} is not a version number", "Use numbers, as in 0.2.1.")
        return
    newer = [key for key in changelog if (_number(key) or ()) > (_number(version) or ())]
    if newer:
        what = f"is {version}, but the changelog has an entry for {newer[0]}"
        yield file.problem("model zoo", "version", what, "Raise the version with its changelog.")


def _number(version: str) -> tuple[int, ...] | None:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else None


def _package_problems(bundle: Bundle) -> Iterator[Problem]:
    packages = bundle.metadata.get("required_packages_version", {})
    declared = next((v for k, v in packages.items() if k.replace("_", "-") == PACKAGE), None)
    if declared != medssl_monai.__version__:
        what = f"requires {PACKAGE} {declared}, but {medssl_monai.__version__} is installed"
        key = f"required_packages_version::{PACKAGE}"
        yield bundle.metadata_file.problem("house", key, what, "State the version that the bundle is released with.")


def find_schema(given: Path | None, offline: bool) -> tuple[Path | None, str]:
    """MONAI's metadata schema and, where there is none, why.

    It is looked for in the file given, in ``monai_schema`` of the folder named by ``MEDSSL_TEST_DATA``, in the user's
    cache, and then downloaded into that.

    Raises:
        ConfigError: when the file given does not exist or is not the schema that MONAI pins.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError("no such file", where=given, advice=f"It is published at {SCHEMA_URL}.")
        with quiet():
            right = check_hash(given, SCHEMA_MD5, "md5")
        if not right:
            raise ConfigError("not the schema that MONAI pins", where=given, expected=f"md5 {SCHEMA_MD5}")
        return given, ""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medssl_monai" / SCHEMA_NAME
    data = os.environ.get("MEDSSL_TEST_DATA")
    with quiet():
        for path in [*([Path(data) / "monai_schema" / SCHEMA_NAME] if data else []), cache]:
            if path.is_file() and check_hash(path, SCHEMA_MD5, "md5"):
                return path, ""
        if offline:
            return None, "no copy here, and --offline"
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(_PATIENCE)  # MONAI's download has none
        try:
            make_folder(cache.parent)
            cache.unlink(missing_ok=True)  # of another content; MONAI would refuse to replace it
            download_url(SCHEMA_URL, cache, hash_val=SCHEMA_MD5, hash_type="md5", progress=False)
        except Exception as error:
            return None, f"no copy here, and the download failed ({cause(error)})"
        finally:
            socket.setdefaulttimeout(before)
    return cache, ""


def schema_problems(bundle: Bundle, schema: Path, told: set[str]) -> Iterator[Problem]:
    """All deviations from MONAI's schema, but those of the places in ``told``, which have been named already."""
    from jsonschema.validators import validator_for  # type: ignore[import-untyped]

    content = read_json(schema)
    for error in validator_for(content)(content).iter_errors(bundle.metadata):
        place = "::".join(map(str, error.absolute_path))
        missing = re.match(r"'(.+)' is a required property", error.message)
        if missing:
            place = f"{place}::{missing[1]}" if place else missing[1]
        # an object that fits none of several forms is reported as a whole: its parts have been named before
        if not any(known == place or known.startswith(f"{place}::") for known in told):
            yield bundle.metadata_file.problem("MONAI", place, f"against the schema: {error.message[:300]}")
