"""What a report reads: a run's or a study's folder, each piece there, missing or damaged, but named."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.core import DataError, read_json
from medssl_monai.visualize.report.label_parts import label_groups
from medssl_monai.visualize.report.organ_parts import is_segmentation
from medssl_monai.visualize.report.words import in_words

STUDY_FILE = "study.json"
STUDY_FORMAT = 1
_PNG = b"\x89PNG\r\n\x1a\n"
#: stage -> folder of what it leaves
STAGES = {"pretrain": "models", "train": "models", "evaluate": "eval", "inference": "eval"}
#: stage -> what its encoder's description is called, which holds the settings it was trained with
_ENCODERS = {"pretrain": "pretrain_encoder.json", "train": "encoder.json"}
#: what holds embeddings, best first: of evaluation, of inference, of protocols
_EMBEDDINGS = ("eval/features.npz", "eval/embeddings.npz", "eval/protocols/features_*.npz")
_IMAGES = ("roc", "saliency")


@dataclass(frozen=True)
class Missing:
    """A piece that is not in the report.

    Attributes:
        piece: what, by its file.
        why: not there, or how it is damaged.
        advice: what would bring it.
    """

    piece: str
    why: str
    advice: str


@dataclass(frozen=True)
class Features:
    """Embeddings (N, D) of images with label and predicted class (N,), -1 where unknown, and the classes' names.

    Of labels that are each there or not a class is a set of labels, and no class is predicted. ``images`` says which
    images these are.
    """

    embeddings: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    class_names: list[str]
    images: str = "test images"


@dataclass
class Run:
    """What the folder of a run holds; a piece that is not there is ``None`` or absent, and stands in ``missing``.

    ``metrics`` are those of the test images, ``validation`` those of the images that checkpoint and thresholds were
    chosen on (evaluation with ``split=validation``). ``budget`` are the labels of training, ``pretrain_budget`` those
    that pre-training was given; ``seen`` says how many ``labels`` it used, and of how many ``subjects`` it saw images.
    ``settings`` are those stored with the encoder of a stage.
    """

    folder: Path
    title: str
    metrics: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    pretrain_budget: dict[str, Any] | None = None
    seen: dict[str, int] | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    histories: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    configs: dict[str, str] = field(default_factory=dict)
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    features: Features | None = None
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, as far as they are known."""
        return [str(name) for name in (self.metrics or {}).get("class_names", [])]

    @property
    def dataset(self) -> str | None:
        """Name of the dataset, by whatever piece tells it."""
        told = (self.metrics, self.validation, self.budget, self.pretrain_budget, *self.protocols.values())
        return next((str(one["dataset"]) for one in told if one and one.get("dataset")), None)

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the data, of training or else of pre-training."""
        told = [(self.budget or {}).get("fingerprint"), (self.pretrain_budget or {}).get("fingerprint")]
        told += [self.settings.get(stage, {}).get("data_fingerprint") for stage in ("train", "pretrain")]
        return next((str(one) for one in told if one), None)

    @property
    def pretrained_only(self) -> bool:
        """Whether the folder holds a pre-training and nothing that a classifier leaves."""
        measured = self.metrics is not None or self.validation is not None
        return "pretrain" in self.histories and "train" not in self.histories and not measured

    @property
    def on_validation_only(self) -> bool:
        """Whether figures are there, but of the validation images only."""
        return self.metrics is None and self.validation is not None


@dataclass
class Study:
    """A study's summary, its runs by (arm, budget, seed), and what is missing."""

    folder: Path
    content: dict[str, Any]
    runs: dict[tuple[str, str, int], Run] = field(default_factory=dict)
    missing: list[Missing] = field(default_factory=list)


def read_source(folder: str | Path) -> Run | Study:
    """Open a run's or a study's folder.

    Raises:
        DataError: when the folder is neither, or the study's summary cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("folder not found", where=folder, advice="Name the folder of a run or of a study.")
    if (folder / STUDY_FILE).is_file():
        return read_study(folder)
    if (folder / "models").is_dir() or (folder / "eval").is_dir():
        return read_run(folder)
    if (folder / "runs").is_dir():
        raise DataError(
            f"runs of a study, but no {STUDY_FILE}", where=folder,
            advice="Run the same `medssl study` command again: it writes the summary, also of what is incomplete.",
        )  # fmt: skip
    raise DataError(
        "neither a run nor a study", where=folder, expected=f"{STUDY_FILE}, or the folders models and eval",
        advice="Name what --run-dir named in `medssl run`, or --out in `medssl study`.",
    )  # fmt: skip


def read_study(folder: Path) -> Study:
    """Open a study's folder.

    Raises:
        DataError: when its summary is damaged or of another format.
    """
    content = read_json(folder / STUDY_FILE)
    found = content.get("format") if isinstance(content, dict) else None
    if found != STUDY_FORMAT:
        raise DataError(
            "not a study's summary",
            where=folder / STUDY_FILE,
            found=f"format {found}",
            expected=f"format {STUDY_FORMAT}",
        )
    study = Study(folder, content)
    for entry in content.get("runs", []):
        key = (str(entry["arm"]), str(entry["budget"]), int(entry["seed"]))
        title = f"{key[0]}, {in_words(content, key[1])}, seed {key[2]}"
        path = (folder / str(entry["folder"])).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_dir():
            study.missing.append(Missing(str(entry["folder"]), "the folder of this run is not there", _AGAIN))
        elif not entry.get("complete"):
            study.missing.append(Missing(str(entry["folder"]), "the run is not complete", _AGAIN))
        else:
            study.runs[key] = read_run(path, title)
    return study


_AGAIN = "Run the same `medssl study` command again."


def read_run(folder: Path, title: str = "") -> Run:
    """Read what there is of a run."""
    run = Run(folder, title or folder.resolve().name)
    run.metrics = _json(run, "eval/metrics.json", dict, "Run the evaluate stage.")
    run.validation = _present(run, "eval/validation_metrics.json", "Run the evaluate stage with split=validation.")
    run.budget = _json(run, "models/budget.json", dict, "Run the train stage.")
    if run.budget is not None:
        run.budget = _counts(run.budget)
    elif run.metrics is not None and isinstance(run.metrics.get("label_counts"), dict):
        run.budget = run.metrics["label_counts"]
    _read_pretraining(run)
    for stage, name in _ENCODERS.items():
        described = _present(run, f"models/{name}", f"Run the {stage} stage.")
        if described is not None and isinstance(described.get("settings"), dict):
            run.settings[stage] = described["settings"]
    # MONAI's own command leaves no configuration
    pretrained = any((folder / "models" / f"pretrain_{end}").is_file() for end in ("config.yaml", "history.json"))
    organs = is_segmentation(run.metrics)
    for stage, name in {"pretrain": "pretrain_history.json", "train": "history.json"}.items():
        # a bank of prototypes is written without a step of training
        if pretrained if stage == "pretrain" else not organs or (folder / "models" / name).is_file():
            rows = _json(run, f"models/{name}", list, f"Run the {stage} stage.")
            if rows:
                run.histories[stage] = [row for row in rows if isinstance(row, dict)]
    for stage, place in STAGES.items():
        if stage == "train" or stage == "evaluate" or (folder / place / f"{stage}_config.yaml").is_file():
            _stage_files(run, stage, place)
    if not organs:  # only what classifies leaves these
        for name in _IMAGES:
            _image(run, name)
        run.features = _features(run)
    for path in sorted((folder / "eval" / "protocols").glob("*/metrics.json")):
        found = _json(run, str(path.relative_to(folder)), dict, "Run `medssl protocol`.")
        if found is not None:
            run.protocols[path.parent.name] = found
    return run


def _counts(budget: dict[str, Any]) -> dict[str, Any]:
    """A budget without its lists: the chosen items are named in clear there, only counts enter a report."""
    return {key: value for key, value in budget.items() if not isinstance(value, list)}


def _read_pretraining(run: Run) -> None:
    budget = _present(run, "models/pretrain_budget.json", "Run the pretrain stage.")
    run.pretrain_budget = None if budget is None else _counts(budget)
    seen = _present(run, "models/pretrain.pt.seen.json", "Run the pretrain stage.")
    if seen is not None and all(isinstance(seen.get(key), list) for key in ("labeled", "subjects")):
        run.seen = {"labels": len(seen["labeled"]), "subjects": len(seen["subjects"])}


def _present(run: Run, relative: str, advice: str) -> dict[str, Any] | None:
    """A piece that many runs rightly lack."""
    found: dict[str, Any] | None = _json(run, relative, dict, advice) if (run.folder / relative).is_file() else None
    return found


def _stage_files(run: Run, stage: str, place: str) -> None:
    path = run.folder / place / f"{stage}_config.yaml"
    try:
        run.configs[stage] = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        run.missing.append(Missing(f"{place}/{path.name}", "not there", f"Run the {stage} stage with `medssl run`."))
    except (OSError, UnicodeDecodeError) as error:
        run.missing.append(
            Missing(f"{place}/{path.name}", f"cannot be read ({error})", f"Run the {stage} stage again.")
        )
    record = _json(run, f"{place}/{stage}_run.json", dict, f"Run the {stage} stage with `medssl run`.")
    if record is not None:
        run.records[stage] = record


def _json(run: Run, relative: str, kind: type, advice: str) -> Any:
    path = run.folder / relative
    if not path.is_file():
        run.missing.append(Missing(relative, "not there", advice))
        return None
    try:
        content = read_json(path)
    except DataError as error:
        run.missing.append(Missing(relative, f"damaged: {error.what}", f"{advice.removesuffix('.')} again."))
        return None
    if not isinstance(content, kind):
        why = f"holds a {type(content).__name__}, not a {kind.__name__}"
        run.missing.append(Missing(relative, why, f"{advice.removesuffix('.')} again."))
        return None
    return content


def _image(run: Run, name: str) -> None:
    relative = f"eval/{name}.png"
    path = run.folder / relative
    if not path.is_file():
        run.missing.append(Missing(relative, "not there", "Run the evaluate stage."))
        return
    data = path.read_bytes()
    if data.startswith(_PNG) and b"IEND" in data[-16:]:
        run.images[name] = data
    else:
        run.missing.append(Missing(relative, "damaged: not a whole PNG", "Run the evaluate stage again."))


def _features(run: Run) -> Features | None:
    first = _EMBEDDINGS[0]
    held = [path for name in _EMBEDDINGS for path in sorted(run.folder.glob(name))]
    if not held:
        run.missing.append(Missing(first, "not there", "Run the evaluate stage, or `medssl protocol`."))
        return None
    relative = str(held[0].relative_to(run.folder))
    try:
        with np.load(held[0], allow_pickle=False) as stored:
            return _checked(_of_test(dict(stored)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        advice = {first: "Run the evaluate stage again.", _EMBEDDINGS[1]: "Run the inference stage again."}
        why = f"damaged: {error}"
        run.missing.append(Missing(relative, why, advice.get(relative, "Run `medssl protocol` again.")))
        return None


def _of_test(stored: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
    """The rows of test images, where a file holds those of other splits too."""
    split = stored.get("split")
    if split is None or not (split == "test").any() or (split == "test").all():
        return stored
    rows = ("embeddings", "label", "predicted", "split")
    return {**stored, **{name: stored[name][split == "test"] for name in rows}}


def _checked(stored: Mapping[str, npt.NDArray[Any]]) -> Features:
    names = [str(name) for name in stored["class_names"]]
    embeddings, label = np.asarray(stored["embeddings"], np.float32), np.asarray(stored["label"], np.int64)
    predicted = np.asarray(stored["predicted"], np.int64)
    split = stored.get("split")
    images = "test images" if split is None or (split == "test").all() else "images"
    if label.ndim == 2 and label.shape == (len(embeddings), len(names)):
        # labels that are each there or not: images with the same labels are a class of the map
        known = (label >= 0).all(axis=1)
        groups, names = label_groups(label[known], names)
        label = np.full(len(label), -1, dtype=np.int64)
        label[known] = groups
        predicted = np.full(len(label), -1, dtype=np.int64)
    if embeddings.ndim != 2 or len(label) != len(embeddings) or len(predicted) != len(embeddings):
        raise ValueError(f"embeddings {embeddings.shape}, label {label.shape}, predicted {predicted.shape}")
    if not np.isfinite(embeddings).all():
        raise ValueError("some embeddings are not finite")
    if max(label.max(initial=-1), predicted.max(initial=-1)) >= len(names):
        raise ValueError(f"a class beyond the {len(names)} names")
    return Features(embeddings, label, predicted, names, images)
