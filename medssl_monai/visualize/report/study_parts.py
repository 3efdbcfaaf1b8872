"""The parts of the page that show a study: answer, label-budget curve, claims, annotation saved, exploratory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai.visualize.report.charts import Series, difference_chart, legend, line_chart
from medssl_monai.visualize.report.markup import Markup, figure, table, tag, text
from medssl_monai.visualize.report.organ_parts import STUDY_FIGURES, is_segmentation
from medssl_monai.visualize.report.parts import absent
from medssl_monai.visualize.report.verdicts import (
    HELPED,
    OPEN,
    UNKNOWN,
    WORSE,
    claim_doubt,
    dropped_words,
    saved_doubt,
    study_doubt,
    verdict,
)
from medssl_monai.visualize.report.words import (
    budget_words,
    capital,
    count,
    estimate,
    in_words,
    is_full,
    label_noun,
    listing,
    metric_name,
    number,
    percent,
    span,
)

Row = Mapping[str, Any]


def budget_listing(study: Row, names: Sequence[object]) -> str:
    """Budgets as one phrase: ``5 % and 10 % of the labels``."""
    ending = f" of the {label_noun(study)}s"
    parts: list[str] = []
    words = [budget_words(study, name) for name in names]
    for share, run in itertools.groupby(words, key=lambda one: one.endswith(ending)):
        same = list(run)
        parts += [listing([one.removesuffix(ending) for one in same]) + ending] if share else same
    return listing(parts)


def n_labels(study: Row, name: object) -> int:
    """All labels of a budget, validation included.

    Raises:
        KeyError: for a budget that the study does not name.
    """
    for budget in study["budgets"]:
        if budget["name"] == name:
            return int(budget["n_labels_training"]) + int(budget["n_labels_validation"])
    raise KeyError(f"budget {name!r}")


def claims_of(study: Row) -> list[Row]:
    """The claims on the primary metric."""
    return [claim for claim in study.get("claims") or [] if claim["metric"] == study["primary_metric"]]


def headline(study: Row) -> str:
    """The answer in one sentence."""
    primary, baseline = study["primary_arm"], study["baseline_arm"]
    claims = claims_of(study)
    if not claims:
        return f"No answer yet: {primary} and {baseline} have not both been run to the end at any budget."
    doubt = study_doubt(study)
    if doubt:
        return f"No answer: {doubt}."
    groups = {kind: [c for c in claims if verdict(study, c) == kind] for kind in (HELPED, WORSE, OPEN, UNKNOWN)}

    def at(kind: str) -> str:
        return "at " + budget_listing(study, [claim["budget"] for claim in groups[kind]])

    said = []
    if groups[HELPED]:
        said.append(f"Yes {at(HELPED)}: {primary} was better than {baseline}.")
    if groups[WORSE]:
        said.append(f"{'But ' if said else 'No: '}{at(WORSE)} {primary} was worse than {baseline}.")
    if groups[OPEN]:
        said.append(f"{capital(at(OPEN))} no difference was shown.")
    if groups[UNKNOWN]:
        reasons = [claim.get("note") or claim_doubt(study, claim) for claim in groups[UNKNOWN]]
        notes = dict.fromkeys(str(reason) for reason in reasons if reason)
        why = "; ".join(notes) or "there is no interval"
        said.append(f"{capital(at(UNKNOWN))} it cannot be said: {why}.")
    return " ".join(said)


def answer_lines(study: Row) -> list[Markup]:
    """A line for each budget: both figures, the difference and how sure it is."""
    metric = metric_name(study["primary_metric"])
    rows = {(row["arm"], row["budget"]): row for row in primary_rows(study)}
    lines = []
    for claim in claims_of(study):
        difference = claim["difference"]
        both = [rows.get((study[role], claim["budget"]), {}) for role in ("primary_arm", "baseline_arm")]
        badge = {HELPED: ("better", "good"), WORSE: ("worse", "bad"), OPEN: ("no difference shown", "soft")}.get(
            verdict(study, claim), ("cannot be said", "soft")
        )
        budget, labels = budget_words(study, claim["budget"]), count(n_labels(study, claim["budget"]))
        lines.append(
            text([
                tag("strong", capital(budget)), " (", labels, " in all): ",
                f"{study['primary_arm']} ", number(both[0].get("estimate")), f", {study['baseline_arm']} ",
                number(both[1].get("estimate")), f" ({metric}). Difference ", number(difference.get("estimate"), True),
                _interval_words(difference), " ", tag("span", badge[0], class_=f"badge {badge[1]}"),
            ])
        )  # fmt: skip
    return lines


def _interval_words(difference: Row) -> Markup:
    ends = difference.get("interval_95")
    return text([", 95 % interval ", span(ends, True), "."]) if ends else Markup(", no interval.")


def primary_rows(study: Row) -> list[Row]:
    """Rows of the summary on the primary metric over all classes."""
    return [
        row for row in study.get("summary") or []
        if row["metric"] == study["primary_metric"] and row.get("class") is None
    ]  # fmt: skip


def curve_part(study: Row) -> Markup:
    """The label-budget curve, with the baseline at 100 % as a line."""
    rows = [row for row in primary_rows(study) if row.get("estimate") is not None]
    if not rows:
        return absent("No label-budget curve: no arm has been evaluated at any budget yet.")
    name = capital(metric_name(study["primary_metric"]))
    caption = (
        "Bars are 95 % intervals over test subjects; rings are single seeds. Arms are moved apart a little so that "
        "their bars can be told apart. The vertical axis does not begin at 0."
    )
    return figure(budget_curve(study, rows, name), caption, summary_table(study, rows, f"{name} by arm and budget"))


def budget_curve(study: Row, rows: Sequence[Row], name: str) -> Markup:
    """A figure against the number of labels, a line an arm, with its legend.

    Args:
        study: the study.
        rows: of its summary, those of the figure; each with an estimate.
        name: of the figure, as the axis says it.
    """
    full = _full_budget(study)
    reference = next((r for r in rows if r["arm"] == study["baseline_arm"] and r["budget"] == full), None)
    drawn = [row for row in rows if row["budget"] != full or row["arm"] != study["baseline_arm"]]
    arms = list(dict.fromkeys(row["arm"] for row in drawn))
    places = {budget["name"]: float(n_labels(study, budget["name"])) for budget in study["budgets"]}
    series = [
        _arm_series(arm, k, len(arms), [row for row in drawn if row["arm"] == arm], places)
        for k, arm in enumerate(arms)
    ]  # fmt: skip
    # the 100 % line stands for the far right: without a second arm there it would only stretch the axis
    shown = {row["budget"] for row in drawn} or {row["budget"] for row in rows}
    ticks = {places[name]: f"{places[name]:,.0f}\n{_short(study, name)}" for name in places if name in shown}
    # with room that does not depend on how far apart the arms are moved
    ends = sorted(places[name] for name in shown)
    line = (reference["estimate"], reference.get("interval_95")) if reference else None
    noun = label_noun(study)
    words = "; ".join(f"{row['arm']} with {budget_words(study, row['budget'])} {row['estimate']:.3f}" for row in rows)
    chart = line_chart(
        series or [_arm_series(row["arm"], 0, 1, [row], places) for row in rows],
        title=f"{name} against number of {noun}s", description=f"{name}: {words}.",
        x_label=f"{capital(noun)}s (training and validation), logarithmic", y_label=name, x_ticks=ticks, x_log=True,
        reference=line, x_range=(ends[0] / 1.15, ends[-1] * 1.15),
    )  # fmt: skip
    others = [(f"{study['baseline_arm']} with all {noun}s, band: 95 % interval", "reference")] if reference else []
    return text([chart, legend([(arm, k) for k, arm in enumerate(arms)], others=others)])


def _full_budget(study: Row) -> str | None:
    return next((budget["name"] for budget in study["budgets"] if is_full(budget)), None)


def _short(study: Row, name: str) -> str:
    words = budget_words(study, name)
    noun = label_noun(study)
    return "100 %" if words == f"all {noun}s" else words.removesuffix(f" of the {noun}s") if "%" in words else ""


def _arm_series(arm: str, index: int, n_arms: int, rows: Sequence[Row], places: Mapping[str, float]) -> Series:
    span_of_all = max(places.values()) / min(places.values())
    shift = max(span_of_all, 2.0) ** (0.012 * (index - (n_arms - 1) / 2))
    ordered = sorted(rows, key=lambda row: places[row["budget"]])
    at = [places[row["budget"]] * shift for row in ordered]
    bars = [(x, *row["interval_95"]) for x, row in zip(at, ordered) if row.get("interval_95")]
    seeds = [(x, value) for x, row in zip(at, ordered) for value in row.get("seed_values") or [] if value is not None]
    return Series(arm, [(x, row["estimate"]) for x, row in zip(at, ordered)], index, bars, seeds)


def summary_table(study: Row, rows: Sequence[Row], caption: str) -> Markup:
    """Estimates with intervals and the single seeds."""
    cells = []
    for row in rows:
        seeds = [number(value) for value in row.get("seed_values") or []]
        joined = text([part for k, value in enumerate(seeds) for part in ((", ", value) if k else (value,))])
        budget = budget_words(study, row["budget"])
        cells.append(
            (row["arm"], budget, count(n_labels(study, row["budget"])), estimate(row), joined,
             count(row.get("n_subjects")), row.get("note") or dropped_words(row))
        )  # fmt: skip
    labels = f"{capital(label_noun(study))}s"
    header = ("Arm", "Budget", labels, "Mean over seeds (95 % interval)", "Single seeds", "Subjects", "Note")
    return table(header, cells, caption)


def claims_part(study: Row) -> Markup:
    """The claim at each budget as a chart and a table."""
    claims = claims_of(study)
    if not claims:
        return absent("No claim yet: it needs the primary and the baseline arm at the same budget.")
    metric = metric_name(study["primary_metric"])
    rows = [
        (budget_words(study, c["budget"]), c["difference"]["estimate"], c["difference"].get("interval_90"),
         c["difference"].get("interval_95"))
        for c in claims if c["difference"].get("estimate") is not None
    ]  # fmt: skip
    words = {HELPED: "better", WORSE: "worse", OPEN: "no difference shown", UNKNOWN: "cannot be said"}
    cells = []
    for claim in claims:
        seeds = [number(value, True) for value in claim.get("seed_differences") or []]
        joined = text([part for k, value in enumerate(seeds) for part in ((", ", value) if k else (value,))])
        difference, dropped = claim["difference"], dropped_words(claim)
        said = words[verdict(study, claim)]
        cells.append(
            (budget_words(study, claim["budget"]), estimate(difference, True),
             span(difference.get("interval_90"), True), number(claim.get("p")), number(claim.get("p_holm")),
             joined, f"{said} ({dropped})" if dropped else said)
        )  # fmt: skip
    name = f"{study['primary_arm']} minus {study['baseline_arm']}"
    header = ("Budget", "Difference (95 % interval)", "90 % interval", "p", "p after Holm", "Single seeds", "Verdict")
    numbers = table(header, cells, f"The claim: {name}, {metric}")
    if not rows:
        return numbers
    described = "; ".join(f"{budget} {middle:+.3f}" for budget, middle, *_ in rows)
    chart = difference_chart(
        rows, title=f"{metric}: {name}", description=f"Differences: {described}.", x_label=f"{name}, {metric}"
    )
    caption = (
        "To the right of zero the method is better. Thick bars are 90 %, thin ones 95 % intervals over test subjects."
    )
    return text([figure(chart, caption), numbers])


def saved_part(study: Row) -> Markup:
    """How many labels each arm saves against all labels."""
    saved = study.get("annotation_saved") or {}
    if not saved:
        return absent("Annotation saved is not known: it needs the baseline arm with all labels.")
    doubt = saved_doubt(study)
    if doubt:
        return absent(f"Annotation saved cannot be said: {doubt}.")
    rows = []
    for arm, entry in saved.items():
        share = entry.get("saved_fraction")
        budget, words = entry.get("budget"), in_words(study, entry.get("text") or "")
        rows.append(
            (arm, budget_words(study, budget) if budget else "none of those tried", count(entry.get("labels")),
             count(entry.get("labels_full")), percent(share) if share is not None else "–", words)
        )  # fmt: skip
    margin = next(iter(saved.values())).get("margin", 0.01)
    noun = label_noun(study)
    header = ("Arm", "Smallest budget", f"{capital(noun)}s", f"All {noun}s", "Saved", "In words")
    words = (
        f"The smallest budget at which an arm is shown to be less than {margin:g} worse than {study['baseline_arm']} "
        f"with all {noun}s (lower end of the 90 % interval of the paired difference, that is a one-sided error of 5 %)."
    )
    return text([tag("p", words), table(header, rows, "Smallest sufficient budget of each arm")])


def exploratory_part(study: Row) -> Markup:
    """Everything that is no claim: other arms, other metrics, single classes."""
    warning = (
        "Nobody committed to these comparisons beforehand and they are not corrected for their number. They "
        "can suggest a question for a new study, not answer one."
    )
    parts: list[Markup] = [tag("p", tag("span", "exploratory", class_="badge"), " ", warning)]
    rows = [
        (row["arm"], row["versus"], budget_words(study, row["budget"]), metric_name(row["metric"]),
         estimate(row["difference"], True), number(row.get("p")), dropped_words(row))
        for row in study.get("exploratory") or []
    ]  # fmt: skip
    if rows:
        header = ("Arm", "Against", "Budget", "Figure", "Difference (95 % interval)", "p, not corrected", "Note")
        parts.append(table(header, rows, "Other comparisons"))
    organs = is_segmentation(study)
    if organs:
        parts.append(tag("p", "Of distances and volume errors less is better."))
    summary = [row for row in study.get("summary") or [] if not organs or row["metric"] in STUDY_FIGURES]
    metrics = list(dict.fromkeys(row["metric"] for row in summary if row.get("class") is None))
    for metric in metrics:
        if metric != study["primary_metric"]:
            chosen = [row for row in summary if row["metric"] == metric and row.get("class") is None]
            parts.append(summary_table(study, chosen, f"{capital(metric_name(metric))} by arm and budget"))
        majority = study.get("majority_accuracy")
        if metric.rpartition("/")[2] == "top1_accuracy" and majority is not None:
            naive = "Always naming the most frequent class of the test images would reach "
            parts.append(tag("p", naive, number(majority), "."))
    parts.append(_class_tables(study, [row for row in summary if row.get("class") is not None]))
    return text(parts)


def _class_tables(study: Row, rows: Sequence[Row]) -> Markup:
    parts = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric]
        names = list(dict.fromkeys(row["class"] for row in chosen))
        lines: dict[tuple[str, str], dict[str, Row]] = {}
        for row in chosen:
            lines.setdefault((row["arm"], row["budget"]), {})[row["class"]] = row
        cells = [
            (
                arm,
                budget_words(study, budget),
                *(estimate(of[name], brief=True) if name in of else "–" for name in names),
            )
            for (arm, budget), of in lines.items()
        ]
        which = "organ" if study.get("task") == "segmentation" else "class"
        caption = f"{capital(metric_name(metric))} of each {which}, 95 % intervals"
        parts.append(table(("Arm", "Budget", *names), cells, caption))
    return text(parts)
