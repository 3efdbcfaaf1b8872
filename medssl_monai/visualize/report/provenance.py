"""The parts of the page that say what was run, on what, how to do it again, and under which licences."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medssl_monai.core import ConfigError, DataError, bundle_dir, read_json
from medssl_monai.data.datalist import FILE_NAME
from medssl_monai.visualize.report.markup import Markup, folded, pairs, paragraphs, table, tag, text
from medssl_monai.visualize.report.parts import absent
from medssl_monai.visualize.report.sources import Run, Study
from medssl_monai.visualize.report.words import budget_words, count, duration, image_noun, is_full, percent, plural

_UNKNOWN = "not recorded"


def run_facts(run: Run) -> Markup:
    """What was run: bundle, data, labels, versions, machine, settings; the full configuration folded away."""
    metrics, budget = run.metrics or {}, run.budget or run.pretrain_budget or {}
    record = next(iter(run.records.values()), {})
    settings = metrics.get("settings") or next(iter(run.settings.values()), {})
    overlays = [name for one in run.records.values() for name in one.get("overlays") or []]
    facts = [
        ("Bundle", _bundle_words(record.get("bundle") or settings.get("bundle"), record.get("bundle_version"))),
        ("Dataset", run.dataset or _UNKNOWN),
        ("Fingerprint of the data", tag("code", run.fingerprint or _UNKNOWN)),
        *_seeds(run),
        ("Seed of the choice of labels", str(budget.get("split_seed", _UNKNOWN))),
        ("Started", record.get("started") or _UNKNOWN),
        ("Time", _times(run.records)),
        ("Machine", hardware_words([one.get("hardware") for one in run.records.values()])),
        ("Versions", versions_words([one.get("versions") for one in [*run.records.values(), metrics]])),
        ("Overlays", ", ".join(dict.fromkeys(overlays)) or "none"),
    ]  # fmt: skip
    return text([pairs(facts, "What was run"), _labels_used(run), configurations(run)])


def _seeds(run: Run) -> list[tuple[object, object]]:
    """The seed of each stage that learns, as its results tell it, or its configuration."""
    evaluated = (run.metrics or {}).get("settings") or {}
    shown: list[tuple[object, object]] = []
    for stage, name in {"pretrain": "pre-training", "train": "training"}.items():
        told = [evaluated if stage == "train" else {}, run.settings.get(stage, {}), _load(run.configs.get(stage, ""))]
        seed = next((one["seed"] for one in told if isinstance(one.get("seed"), int)), None)
        if seed is not None or (stage == "train" and not run.pretrained_only):
            shown.append((f"Seed of {name}", _UNKNOWN if seed is None else str(seed)))
    return shown or [("Seed of pre-training", _UNKNOWN)]


def _labels_used(run: Run) -> Markup:
    """Labels used before testing; of a run that was only pre-trained those of pre-training, which may need none."""
    if not run.pretrained_only or run.seen is None:
        return label_counts(run.budget or (run.pretrain_budget if run.pretrained_only else None) or {})
    if run.seen["labels"]:
        return label_counts(run.pretrain_budget or {})
    subjects = plural(run.seen["subjects"], "subject")
    return tag("p", f"Pre-training has used no labels. It has seen images of {subjects}.")


def study_facts(study: Study) -> Markup:
    """What a study has run."""
    content = study.content
    runs = content.get("runs") or []
    noun, subjects = image_noun(content.get("task")), count(content.get("n_test_subjects"))
    test = text([count(content.get("n_test")), f" {noun}s of ", subjects, " test subjects"])
    seconds = [run["seconds"] for run in runs if isinstance(run.get("seconds"), (int, float))]
    facts = [
        ("Bundle", _bundle_words(content.get("bundle"), content.get("bundle_version"))),
        ("Dataset", content.get("dataset") or _UNKNOWN),
        ("Task", content.get("task") or _UNKNOWN),
        ("Fingerprint of the data", tag("code", content.get("data_fingerprint") or _UNKNOWN)),
        ("Seeds", ", ".join(str(seed) for seed in content.get("seeds") or []) or _UNKNOWN),
        ("Overlays", ", ".join(content.get("overlays") or []) or "none"),
        ("Test set", test if content.get("n_test") else "not evaluated yet"),
        ("Runs", f"{sum(bool(run.get('complete')) for run in runs)} of {len(runs)} complete"),
        ("Time, all runs together", duration(sum(seconds)) if seconds else _UNKNOWN),
        ("Machine", hardware_words([content.get("hardware")])),
        ("Versions", versions_words([content.get("versions")])),
        ("State of the code", ", ".join(str(one) for one in content.get("code") or []) or _UNKNOWN),
    ]  # fmt: skip
    budgets = [
        (budget_words(content, one["name"]), count(one["n_labels_training"]), count(one["n_labels_validation"]),
         count(one["n_labels_training"] + one["n_labels_validation"]))
        for one in content["budgets"]
    ]  # fmt: skip
    arms = [
        (name, ", ".join(arm.get("stages") or []), _overrides(arm.get("overrides") or {}), _role(content, name))
        for name, arm in content["arms"].items()
    ]
    header = ("Budget", "Labels for training", "Labels for validation", "In all")
    return text([
        pairs(facts, "What was run"),
        table(header, budgets, "Labels used before testing"),
        table(("Arm", "Stages", "Settings that make it", "Role"), arms, "Arms"),
        folded("Every run", _runs_table(content)),
    ])  # fmt: skip


def _role(study: Mapping[str, Any], name: str) -> str:
    return {study["primary_arm"]: "the method in question", study["baseline_arm"]: "baseline"}.get(name, "exploratory")


def _runs_table(study: Mapping[str, Any]) -> Markup:
    order = {one["name"]: place for place, one in enumerate(study["budgets"])}
    runs = sorted(study.get("runs") or [], key=lambda run: order.get(run["budget"], len(order)))
    rows = [
        (run["arm"], budget_words(study, run["budget"]), str(run["seed"]), "yes" if run.get("complete") else "no",
         duration(run.get("seconds")), tag("code", run["folder"]))
        for run in runs
    ]  # fmt: skip
    return table(("Arm", "Budget", "Seed", "Complete", "Time", "Folder"), rows, "Every run of the study")


def _bundle_words(name: object, version: object) -> str:
    return f"{Path(str(name)).name} {version or '(version not recorded)'}" if name else _UNKNOWN


def _overrides(values: Mapping[str, Any]) -> Markup:
    return tag("code", " ".join(f"{key}={_plain(value)}" for key, value in values.items()) or "none")


def _times(records: Mapping[str, Mapping[str, Any]]) -> str:
    words = [f"{stage} {duration(one.get('seconds'))}" for stage, one in records.items()]
    return ", ".join(words) or _UNKNOWN


def hardware_words(machines: Iterable[Mapping[str, Any] | None]) -> str:
    """Machines in words, each once."""
    words = []
    for machine in machines:
        if machine:
            cores, memory = machine.get("cores", "?"), machine.get("memory_gib", "?")
            accelerator = machine.get("accelerator") or "no accelerator"
            words.append(f"{machine.get('processor', '?')}, {cores} cores, {memory} GiB memory, {accelerator}")
    return "; ".join(dict.fromkeys(words)) or _UNKNOWN


def versions_words(versions: Iterable[Mapping[str, Any] | None]) -> str:
    """Versions in words, each set once."""
    words = [", ".join(f"{name} {number}" for name, number in one.items()) for one in versions if one]
    return "; ".join(dict.fromkeys(words)) or _UNKNOWN


def label_counts(budget: Mapping[str, Any]) -> Markup:
    """Labels used, by class."""
    if not budget:
        return absent("Which labels were used is not known: models/budget.json is not there or cannot be read.")
    training, validation = budget.get("classes_training") or {}, budget.get("classes_validation") or {}
    rows = [(name, count(number), count(validation.get(name))) for name, number in training.items()]
    rows.append(("all", count(budget.get("n_labels_training")), count(budget.get("n_labels_validation"))))
    rows.append(("subjects", count(budget.get("n_subjects_training")), count(budget.get("n_subjects_validation"))))
    asked, share = budget.get("n_requested"), budget.get("label_fraction")
    words = [
        f"Asked for: {asked:,} labels" if isinstance(asked, int) else "Asked for: not recorded",
        f" ({percent(share)} of all)" if isinstance(share, (int, float)) else "", "; used: ",
        count(budget.get("n_labels")), ". Images used without label: ", count(budget.get("n_unlabeled")), ".",
    ]  # fmt: skip
    return text([table(("Class", "Training", "Validation"), rows, "Labels used before testing"), tag("p", words)])


def configurations(run: Run) -> Markup:
    """The settings that a reader asks for first, and each stage's full configuration folded."""
    parts: list[Markup] = []
    stages = {stage: _load(words) for stage, words in run.configs.items()}
    keys = [key for config in stages.values() for key, value in config.items() if _is_setting(key, value)]
    rows = [
        (key, *(_plain(config[key]) if key in config else "–" for config in stages.values()))
        for key in dict.fromkeys(keys)
    ]
    if rows:
        parts.append(folded("Settings of each stage", table(("Setting", *stages), rows, "Settings of each stage")))
    for stage, words in run.configs.items():
        parts.append(folded(f"Full configuration of stage {stage}", tag("pre", words)))
    return (
        text(parts) if parts else absent("The configuration was not recorded: the stages were not run by `medssl run`.")
    )


def _load(words: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(words)
    except yaml.YAMLError:
        return {}  # the text itself is shown below
    return content if isinstance(content, dict) else {}


def _is_setting(key: str, value: object) -> bool:
    if key.startswith("_") or isinstance(value, dict):
        return False
    values = value if isinstance(value, list) else [value]
    return all(not isinstance(one, (dict, list)) and not str(one).startswith(("$", "@")) for one in values)


def _plain(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip().removesuffix("\n...").strip()


def repeat_run(run: Run) -> Markup:
    """The commands that make this run again."""
    if not run.records:
        return absent("The commands are not known: the stages left no record (they were not run by `medssl run`).")
    lines = []
    for stage, record in run.records.items():
        given = [f"{key}={_plain(value)}" for key, value in (record.get("overrides") or {}).items()]
        layers = [word for name in record.get("overlays") or [] for word in ("--overlay", name)]
        words = ["medssl", "run", str(record["bundle"]), stage, *given, *layers, "--run-dir", "NEW_RUN"]
        lines.append(shlex.join(words))
    lines.append("medssl report NEW_RUN")
    return text([tag("pre", "\n".join(lines)), paragraphs(_REPEAT, class_="soft")])


_REPEAT = (
    "NEW_RUN is a folder of your choice. A bundle that does not ship with medssl is named by its folder.",
    "With the same versions on the same kind of machine the same commands give the same figures.",
)


def repeat_study(study: Study) -> Markup:
    """The command that makes this study again."""
    content = study.content
    # without the baseline's own runs with all labels: they are added to every study, and naming the budget would
    # have every arm run at it
    asked = {run["budget"] for run in content["runs"] if run["arm"] != content["baseline_arm"]}
    named = [one for one in content["budgets"] if not is_full(one) or one["name"] in asked]
    budgets = [
        "100%"
        if is_full(one)
        else f"{100 * one['label_fraction']:g}%"
        if one.get("label_fraction") is not None
        else str(one["label_budget"])
        for one in named or content["budgets"]
    ]
    words = ["medssl", "study", Path(str(content["bundle"])).name, "--data", "DATA"]
    words += ["--arms", ",".join(content["arms"]), "--budgets", ",".join(budgets)]
    seeds = [str(seed) for seed in content.get("seeds") or []]
    words += ["--seeds", ",".join(seeds if len(seeds) > 1 else 2 * seeds)]  # one number alone is how many
    words += [word for name in content.get("overlays") or [] for word in ("--overlay", str(name))]
    words += [f"{key}={_plain(value)}" for key, value in (content.get("overrides") or {}).items()]
    words += ["--vary-labels"] if content.get("vary_labels") else []
    words += ["--out", "NEW_STUDY"]
    look = "medssl report NEW_STUDY/runs/ARM/BUDGET/seedK"
    return text([
        *([tag("p", "As it was called:"), tag("pre", content["command"])] if content.get("command") else []),
        tag("p", "In general:") if content.get("command") else None,
        tag("pre", f"{shlex.join(words)}\nmedssl report NEW_STUDY"),
        tag("p", "DATA is the dataset's folder (its fingerprint is above), NEW_STUDY a folder of your choice. "
            "A single run of the study has a page of its own: ", tag("code", look), "."),
        paragraphs(_REPEAT[1:], class_="soft"),
    ])  # fmt: skip


def licences(bundle: object, runs: Iterable[Run]) -> Markup:
    """Licences of code, data and weights, as far as they are stated."""
    runs = list(runs)
    root = _bundle_root(bundle, runs)
    rows: list[tuple[object, object]] = []
    texts: list[Markup] = []
    if root is None:
        rows.append(("Bundle", "its folder is not found here; see LICENSE in it"))
    else:
        rows.append(("Bundle", _json_value(root / "configs" / "metadata.json", "license")))
        rows.append(("Code", _first_lines(root / "LICENSE")))
        path = root / "docs" / "data_license.txt"
        if path.is_file():
            texts.append(tag("h3", "What the bundle says of its data"))
            texts.append(tag("pre", path.read_text(encoding="utf-8", errors="replace").strip()))
    folder = _dataset_dir(runs)
    stated = _json_value(folder / FILE_NAME, "license") if folder else "the dataset's folder is not found here"
    rows.append(("Your dataset", stated))
    rows.append(("Trained weights", "subject to the terms of the data they were trained on"))
    words = "Images on this page are from the dataset: who may not see the dataset may not see this page."
    return text([pairs(rows, "Licences"), tag("p", words), *texts])


def _bundle_root(bundle: object, runs: Sequence[Run]) -> Path | None:
    named = [_load(words).get("bundle_root") for run in runs for words in run.configs.values()]
    records = [record.get("bundle") for run in runs for record in run.records.values()]
    for candidate in [*named, bundle, *records]:
        if isinstance(candidate, str) and not candidate.startswith(("$", "@")):
            try:
                return bundle_dir(candidate)
            except ConfigError:
                continue  # moved or removed since; the next one may be there
    return None


def _dataset_dir(runs: Sequence[Run]) -> Path | None:
    for run in runs:
        for words in run.configs.values():
            value = _load(words).get("dataset_dir")
            if isinstance(value, str) and not value.startswith(("$", "@")) and (Path(value) / FILE_NAME).is_file():
                return Path(value)
    return None


def _json_value(path: Path, key: str) -> str:
    try:
        content = read_json(path)
    except DataError as error:
        return f"not known ({path.name}: {error.what})"
    value = content.get(key) if isinstance(content, dict) else None
    return str(value) if value else f"not stated in {path.name}"


def _first_lines(path: Path) -> str:
    if not path.is_file():
        return "no LICENSE file"
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return ", ".join([line for line in lines if line][:2]) or "LICENSE is empty"
