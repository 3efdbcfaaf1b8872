"""A study in plain words: the table, the claim at each budget, annotation saved, what to be careful about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medssl_monai.apps.arms import format_entry, markdown_table
from medssl_monai.metrics.comparison import HEADLINE
from medssl_monai.visualize.report.verdicts import claim_doubt, dropped_words
from medssl_monai.visualize.report.words import PROTOCOL_NAMES, label_noun, metric_name, plural

_SIGNIFICANT = 0.05
#: columns of the table of a study of organs
_ORGAN_COLUMNS = ("mean_dice", "mean_hd95_mm", "mean_volume_error_percent")


def study_table(study: Mapping[str, Any]) -> str:
    """Arms and budgets with the labels used, the figures (mean over seeds, 95 % interval) and the seeds' own.

    Figures of protocols stand in a table of their own, one a protocol.
    """
    cells: dict[str, dict[tuple[str, str], dict[str, Mapping[str, Any]]]] = {}
    for entry in study["summary"]:
        if entry["class"] is None:
            source, _, metric = entry["metric"].rpartition("/")
            cells.setdefault(source, {}).setdefault((entry["budget"], entry["arm"]), {})[metric] = entry
    tables = []
    for source, rows in cells.items():
        title = f"Protocol: {PROTOCOL_NAMES[source]}\n" if source else ""
        tables.append(title + _table(study, source, rows))
    return "\n\n".join(tables)


def _table(
    study: Mapping[str, Any], source: str, cells: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]]
) -> str:
    labels = {b["name"]: f"{b['n_labels_training']} + {b['n_labels_validation']}" for b in study["budgets"]}
    primary, _, metric = study["primary_metric"].rpartition("/")
    headline = _headline(study)
    shown = metric if primary == source else headline[0]
    minutes: dict[tuple[str, str], float] = {}
    for run in study["runs"]:
        place = (run["budget"], run["arm"])
        minutes[place] = minutes.get(place, 0.0) + run["seconds"] / 60
    # labels that are each there or not have no figures of the most probable class
    columns = [name for name in headline if any(name in entries for entries in cells.values())]
    names = [metric_name(name) for name in columns]
    rows = [["budget", f"{label_noun(study)}s (train + val.)", "arm", *names, "seeds", "minutes"]]
    for (budget, arm), entries in cells.items():
        values = ", ".join("-" if value is None else f"{value:.3f}" for value in entries[shown]["seed_values"])
        figures = [format_entry(entries[name]) if name in entries else "-" for name in columns]
        rows.append([budget, labels[budget], arm, *figures, values, f"{minutes[budget, arm]:.1f}"])
    return markdown_table(rows)


def _headline(study: Mapping[str, Any]) -> tuple[str, ...]:
    return _ORGAN_COLUMNS if study.get("task") == "segmentation" else HEADLINE


def claim_text(claim: Mapping[str, Any], primary: str, baseline: str, n_claims: int, doubt: str | None = None) -> str:
    """One claim as a sentence; ``doubt`` is why its difference cannot be judged."""
    name, difference = metric_name(claim["metric"]), claim["difference"]
    start = f"{claim['budget']}: {primary} - {baseline}, {name}"
    if difference["estimate"] is None:
        return f"{start}: not known ({claim['note']})."
    seeds = len(claim["seed_differences"])
    over = f", mean of {seeds} seeds" if seeds > 1 else ", one seed"
    if claim["p"] is None:
        return f"{start} {difference['estimate']:+.3f}{over}; no interval ({claim['note']})."
    low, high = difference["interval_95"]
    p_holm = f", {_p(claim['p_holm'])} corrected for {n_claims} budgets (Holm)" if n_claims > 1 else ""
    dropped = dropped_words(claim)
    verdict = "no difference can be shown"
    if doubt:
        verdict = f"cannot be judged, {doubt}"
    elif claim["p_holm"] < _SIGNIFICANT:
        verdict = f"{primary} is {'better' if difference['estimate'] > 0 else 'worse'}"
    return (
        f"{start} {difference['estimate']:+.3f} (95 % interval {low:+.3f} to {high:+.3f}{over}; "
        f"{_p(claim['p'])}{p_holm}{f'; {dropped}' if dropped else ''}): {verdict}."
    )


def saved_text(
    arm: str, saved: Mapping[str, Any], baseline: str, metric: str, doubt: str | None = None, noun: str = "label"
) -> str:
    """Annotation saved as a sentence; ``doubt`` is why it says nothing, ``noun`` what a label is called."""
    if doubt:
        return f"{arm}: cannot be said, {doubt}."
    name, margin = metric_name(metric), saved["margin"]
    reference = f"{baseline} with all {plural(saved['labels_full'], noun)}"
    if saved["budget"] is None:
        return f"{arm}: at no budget is the {name} shown to be within {margin} of {reference}."
    text = (
        f"{arm}: with {plural(saved['labels'], noun)} ({saved['budget']}) the {name} is at most {margin} below "
        f"{reference} (lower end of the 90 % interval): {saved['saved_fraction']:.0%} of the {noun}s saved."
    )
    if saved["larger_insufficient"]:
        text += f" Doubtful: the larger {', '.join(saved['larger_insufficient'])} does not show it."
    return text


def study_text(study: Mapping[str, Any]) -> str:
    """Everything a user is told at the end."""
    primary, baseline, metric = study["primary_arm"], study["baseline_arm"], study["primary_metric"]
    parts = []
    if study["summary"]:
        parts.append(study_table(study))
        parts.append(
            "Figures are means over seeds with 95 % intervals over test subjects; "
            f"`seeds` are the {metric_name(metric)} of each training{_protocol_note(study)}."
        )
    if study["claims"]:
        texts = [
            claim_text(claim, primary, baseline, len(study["claims"]), claim_doubt(study, claim))
            for claim in study["claims"]
        ]
        parts.append("The claim\n" + "\n".join(f"- {text}" for text in texts))
    saved = [entry["text"] for entry in study["annotation_saved"].values()]
    if saved:
        parts.append("Annotation saved\n" + "\n".join(f"- {text}" for text in saved))
    if study["exploratory"]:
        parts.append(
            f"{len(study['exploratory'])} further comparisons are exploratory (not corrected for their number): "
            "`exploratory` in study.json."
        )
    if study["warnings"]:
        parts.append("Be careful\n" + "\n".join(f"- {text}" for text in study["warnings"]))
    return "\n\n".join(parts)


def _protocol_note(study: Mapping[str, Any]) -> str:
    if not any("/" in entry["metric"] for entry in study["summary"]):
        return ""
    note = f" (by the other protocols the {metric_name(_headline(study)[0])})"
    shared = any(arm.get("shared_pretrain") or not arm["stages"] for arm in study["arms"].values())
    return f"{note}; what the budgets of an arm share is not in its minutes" if shared else note


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
