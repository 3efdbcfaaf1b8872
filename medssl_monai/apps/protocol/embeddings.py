"""Embeddings that are computed once: a file beside the encoder, shared by all protocols and budgets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from filelock import FileLock

from medssl_monai.apps._model import OpenRun
from medssl_monai.apps.features import Case, embed
from medssl_monai.core import DataError, file_digest, hash_case, make_folder, text_digest
from medssl_monai.data import Datalist
from medssl_monai.data.fingerprint import item_digests
from medssl_monai.handlers.features import Features, read_features

logger = logging.getLogger(__name__)


def protocols_folder(run: Path) -> Path:
    """Where a run keeps its embeddings and the protocols' results."""
    return run / "eval" / "protocols"


def cached_embeddings(opened: OpenRun, datalist: Datalist, cases: Sequence[Case], path: Path) -> np.ndarray:
    """Embeddings (N, D) of cases, in their order; what the file does not hold yet is computed and added to it.

    What is held is used only while the encoder, its settings, the user's hash key and the image itself (size and both
    ends of its files) are as they were. Two processes that ask at once compute one after the other.

    Raises:
        DataError: when an image cannot be read, or an embedding is not finite.
    """
    make_folder(path.parent)
    digests = ["".join(one) for one in item_digests(datalist.root, [case.item for case in cases if case.item])]
    keys = [hash_case(f"{case.name}|{digest}") for case, digest in zip(cases, digests)]
    state = text_digest(
        [file_digest(opened.weights), repr(sorted(opened.describe()["settings"].items())), opened.layer]
    )
    with FileLock(path.with_suffix(".lock")):
        held = read_features(path) if path.is_file() else None
        if held is not None and (held.metadata.get("state"), held.metadata.get("key")) != (state, hash_case("key")):
            logger.info("%s is of another encoder or of other settings: computed anew", path)
            held = None
        known = {} if held is None else {str(key): row for row, key in enumerate(held.metadata["content"])}
        missing = [place for place, key in enumerate(keys) if key not in known]
        if missing:
            logger.info("embedding %d images (%d are known)", len(missing), len(keys) - len(missing))
            found = embed(opened, [cases[place] for place in missing])
            content = [keys[place] for place in missing]
            held = _joined(held, found, content, state)
            held.save(path)
            known = {str(key): row for row, key in enumerate(held.metadata["content"])}
    assert held is not None  # noqa: S101  (either it was there or something was missing)
    embeddings = held.embeddings[[known[key] for key in keys]]
    broken = int((~np.isfinite(embeddings).all(axis=1)).sum())
    if broken:
        raise DataError(
            f"{broken} of {len(embeddings)} embeddings are not finite", where=opened.weights,
            advice="The training has diverged: look at its curves (`medssl report`), lower the learning rate.",
        )  # fmt: skip
    return np.asarray(embeddings)


def _joined(held: Features | None, found: Features, content: list[str], state: str) -> Features:
    metadata = {**found.metadata, "state": state}
    if held is None:
        return replace(found, metadata={**metadata, "content": content})
    rows = [one.name for one in fields(Features) if one.name not in ("class_names", "metadata")]
    arrays = {name: np.concatenate([getattr(held, name), getattr(found, name)]) for name in rows}
    return Features(
        **arrays, class_names=found.class_names, metadata={**metadata, "content": [*held.metadata["content"], *content]}
    )
