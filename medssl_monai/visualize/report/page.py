"""The report: one self-contained page, of a run or of a study, with nothing to fetch and nothing to execute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medssl_monai import __version__
from medssl_monai.visualize.report import provenance, run_parts, study_parts
from medssl_monai.visualize.report.cautions import run_cautions, study_cautions
from medssl_monai.visualize.report.embedding import features_part
from medssl_monai.visualize.report.markup import Markup, bullets, folded, prose, table, tag, text
from medssl_monai.visualize.report.organ_parts import CLASSIFIERS_ONLY, is_segmentation
from medssl_monai.visualize.report.organ_study_parts import organ_curves_part
from medssl_monai.visualize.report.parts import Section, guarded, missing_of_runs, missing_table
from medssl_monai.visualize.report.protocol_parts import protocols_part
from medssl_monai.visualize.report.sources import Missing, Run, Study, read_source
from medssl_monai.visualize.report.styles import STYLE
from medssl_monai.visualize.report.validation_part import CHOSEN_ON_THEM, validation_part
from medssl_monai.visualize.report.verdicts import saved_doubt
from medssl_monai.visualize.report.words import (
    GLOSSARY,
    capital,
    count,
    image_noun,
    in_words,
    metric_name,
    number,
    plural,
    span,
)

_DISCLAIMER = "Research software, not a medical device. Not for diagnosis."


def report_page(folder: str | Path) -> str:
    """The page of a run's or a study's folder; the same folder gives the same page.

    Args:
        folder: of a run (with ``models`` and ``eval``) or of a study (with ``study.json``).

    Returns:
        HTML in one piece: style, charts and pictures inside, no script, no reference to anything outside. What a folder
        lacks is named in the page.

    Raises:
        DataError: when the folder is neither a run nor a study, or a study's summary cannot be read.
    """
    source = read_source(folder)
    return _study_page(source) if isinstance(source, Study) else _run_page(source)


def _run_page(run: Run) -> str:
    missing = run.missing
    dataset = run.dataset or "unknown dataset"
    cautions = run_cautions(run)
    parts = [
        guarded(lambda: _run_answer(run), "the answer", missing),
        _caution_box(cautions),
        _not_to_conclude(_RUN_LIMITS),
    ]
    figures = Section("figures", "Figures", guarded(lambda: run_parts.metrics_part(run), "the figures", missing))
    if run.on_validation_only:
        shown = guarded(lambda: validation_part(run), "the figures of validation", missing)
        figures = Section("figures", "Figures of validation, not of a test", shown)
    sections = [
        *([] if run.pretrained_only else [figures]),
        *_details(run, missing, level=2),
        Section("what", "What was run", guarded(lambda: provenance.run_facts(run), "what was run", missing)),
        Section("repeat", "How to repeat it", guarded(lambda: provenance.repeat_run(run), "the commands", missing)),
        Section("licences", "Licences", guarded(lambda: provenance.licences(None, [run]), "the licences", missing)),
    ]
    return _page(f"Run “{run.title}” on {dataset}", parts, sections, missing)


def _run_answer(run: Run) -> Markup:
    metrics = run.metrics
    if run.on_validation_only:
        words = "No test result: this run was measured on its validation images only."
        return tag("div", tag("p", words, class_="headline"), tag("p", CHOSEN_ON_THEM), class_="answer")
    if metrics is None:
        words = "This run was pre-trained only: no figures"
        words = words if run.pretrained_only else "This run has not been evaluated: no figures"
        words += " of a classifier; its frozen features were judged, see below." if run.protocols else "."
        watched = run_parts.watched_words(run) if run.pretrained_only else ""
        return tag("div", tag("p", words, class_="headline"), tag("p", watched) if watched else None, class_="answer")
    noun = image_noun(metrics.get("task"))
    name, entry = next(iter(metrics["metrics"].items()))
    budget = run.budget or {}
    labels = text([count(budget.get("n_labels")), " labels used before testing, validation included."])
    ends = entry.get("interval_95")
    sure = text([", 95 % interval ", span(ends)]) if ends else f"; no interval ({entry.get('reason')})"
    head = text([f"{capital(metric_name(name))} ", number(entry.get("estimate")), sure, "."])
    subjects = plural(metrics["n_subjects"], "test subject")
    lines = [
        f"On {plural(metrics['n'], f'test {noun}')} of {subjects}. {_chance(name)}",
        labels if budget.get("n_labels") else "How many labels were used is not known.",
        f"Whether the unlabelled {noun}s helped one run cannot say: `medssl study` compares with training without "
        "them.",
    ]
    return tag("div", tag("p", head, class_="headline"), *(tag("p", prose(line)) for line in lines), class_="answer")


def _chance(name: str) -> str:
    return {
        "macro_auroc": "0.5 is chance, 1 is perfect.",
        "top1_accuracy": "It is the share of images called rightly.",
        "mean_dice": "0 is no overlap with the truth, 1 is perfect.",
    }.get(name, "What it means stands among the terms at the end of the page.")


def _study_page(study: Study) -> str:
    content, missing = study.content, study.missing
    missing += missing_of_runs(study)
    title = guarded(lambda: text(_study_title(study)), "the title", missing)
    chosen, organs = _chosen(study), is_segmentation(content)
    parts = [
        guarded(lambda: _study_answer(study), "the answer", missing),
        guarded(lambda: _caution_box(study_cautions(study)), "the cautions", missing),
        _not_to_conclude(_ORGAN_STUDY_LIMITS if organs else _STUDY_LIMITS),
    ]

    def part(ident: str, heading: str, build: object, piece: str) -> Section:
        return Section(ident, heading, guarded(lambda: build(content), piece, missing))  # type: ignore[operator]

    sections = [
        part("curve", "Label-budget curve", study_parts.curve_part, "the label-budget curve"),
        part("claims", "The claim", study_parts.claims_part, "the claims"),
        *([part("organs", "Each organ", organ_curves_part, "the curves of organs")] if organs else []),
        part("saved", "Annotation saved", study_parts.saved_part, "annotation saved"),
        part("exploratory", "Exploratory figures", study_parts.exploratory_part, "the exploratory figures"),
        *(Section(f"run-{k}", f"A closer look: {run.title}",
                  text([one.markup() for one in _details(run, missing, 3, f"r{k}-")]))
          for k, run in enumerate(chosen)),
        Section("what", "What was run", text([
            guarded(lambda: provenance.study_facts(study), "what was run", missing),
            *(folded(f"Configuration: {run.title}", provenance.configurations(run)) for run in chosen)])),
        Section("repeat", "How to repeat it", guarded(lambda: provenance.repeat_study(study), "the commands", missing)),
        Section("licences", "Licences", guarded(
            lambda: provenance.licences(content.get("bundle"), study.runs.values()), "the licences", missing)),
    ]  # fmt: skip
    return _page(title, parts, sections, missing)


def _study_title(study: Study) -> str:
    content = study.content
    return f"Did {content['primary_arm']} help? A label-budget study on {content.get('dataset') or 'unknown data'}"


def _study_answer(study: Study) -> Markup:
    content = study.content
    budgets = study_parts.budget_listing(content, [one["name"] for one in content["budgets"]])
    noun = image_noun(content.get("task"))
    test = f"no test {noun}s yet"
    if isinstance(content.get("n_test"), int):
        subjects = plural(content["n_test_subjects"], "test subject")
        test = f"{plural(content['n_test'], f'test {noun}')} of {subjects} never trained on"
    asked = (
        f"Asked: does {content['primary_arm']} reach a better {metric_name(content['primary_metric'])} than "
        f"{content['baseline_arm']} with the same labels? Tried with {budgets}, "
        f"{plural(len(content.get('seeds') or []), 'seed')} each, on {test}."
    )
    saved = (content.get("annotation_saved") or {}).get(content["primary_arm"]) or {}
    doubt = saved_doubt(content)
    said = f"cannot be said: {doubt}." if doubt else in_words(content, str(saved.get("text")))
    return tag(
        "div",
        tag("p", study_parts.headline(content), class_="headline"),
        tag("p", asked),
        bullets(study_parts.answer_lines(content)),
        tag("p", f"Annotation saved: {said}") if saved.get("text") else None,
        class_="answer",
    )


def _chosen(study: Study) -> list[Run]:
    """The runs that are looked at closely: method and baseline at the smallest budget that both have, first seed."""
    content = study.content
    arms = [content.get("primary_arm"), content.get("baseline_arm")]
    budgets = [one.get("name") for one in content.get("budgets") or [] if isinstance(one, dict)]
    for budget in budgets:
        for seed in sorted({key[2] for key in study.runs}):
            found = [study.runs.get((str(arm), str(budget), seed)) for arm in arms]
            if all(found):
                return [run for run in found if run is not None]
    return list(study.runs.values())[:1]


def _details(run: Run, missing: list[Missing], level: int, prefix: str = "") -> list[Section]:
    """The sections of one run."""
    wanted = [
        ("classes", "Organs" if is_segmentation(run.metrics) else "Classes", lambda: run_parts.classes_part(run)),
        ("confusion", "Confusion matrix", lambda: run_parts.confusion_part(run)),
        ("roc", "ROC curves", lambda: run_parts.roc_part(run)),
        ("calibration", "Calibration", lambda: run_parts.calibration_part(run)),
        ("saliency", "Where the network looks", lambda: run_parts.saliency_part(run)),
        ("features", "Map of the features", lambda: features_part(run)),
        ("subgroups", "Subgroups", lambda: run_parts.subgroups_part(run)),
        ("training", "Training curves", lambda: run_parts.curves_part(run, level + 1)),
    ]
    if run.pretrained_only:  # what only a classifier leaves is not missed
        wanted = [one for one in reversed(wanted) if one[0] in ("features", "training")]
    if run.on_validation_only:  # these are of test images
        wanted = [one for one in wanted if one[0] in ("features", "training")]
    if is_segmentation(run.metrics):
        without = CLASSIFIERS_ONLY if run.histories else CLASSIFIERS_ONLY | {"training"}
        wanted = [one for one in wanted if one[0] not in without]
    if run.protocols:
        wanted = [("protocols", "Protocols on frozen features", lambda: protocols_part(run)), *wanted]
    return [
        Section(f"{prefix}{ident}", heading, guarded(build, f"{run.title}: {heading.lower()}", missing), level)
        for ident, heading, build in wanted
    ]


_SIDES = "If the dataset's subjects are lesions or images, not patients, one patient may be on both sides."
_RUN_LIMITS = (
    "That the method is better or worse than another: that takes a comparison on the same labels and test subjects.",
    "That the figure holds at another hospital, with other devices, or where the classes are otherwise frequent: the "
    "intervals know of chance in the choice of these test subjects only.",
    "That a class with few test subjects is recognised well or badly.",
    _SIDES,
)
_SHOWN_NOTHING = "“No difference shown” is not “no difference”: the interval says how large one may still be."
_ONLY_CLAIM = (
    "Only the comparison under “The claim” was set beforehand. What stands under “Exploratory” suggests questions."
)
_STUDY_LIMITS = (
    _SHOWN_NOTHING,
    "The figures hold for these images, this network and this number of labels. The intervals know of chance in the "
    "choice of test subjects, not of other hospitals, devices or years.",
    _ONLY_CLAIM,
    "A better AUROC is not yet a better decision at a given threshold.",
    _SIDES,
)
_ORGAN_STUDY_LIMITS = (
    _SHOWN_NOTHING,
    "The figures hold for these scans, this network and these labelled scans: another labelled scan may serve better "
    "or worse (`medssl supports`). The intervals know of chance in the choice of test subjects only.",
    _ONLY_CLAIM,
    "A better mean Dice is not yet a mask that a volume can be read from: look at the pictures and at each organ.",
    "Annotation saved is measured against the baseline arm as it is. Where that is an untrained encoder with a bank of "
    "prototypes of all labelled scans, it does not say how a network trained on all their masks would do.",
    _SIDES,
)


def _not_to_conclude(lines: Sequence[str]) -> Markup:
    return Section("limits", "What not to conclude", bullets([*(prose(line) for line in lines), _DISCLAIMER])).markup()


def _caution_box(cautions: Sequence[str]) -> Markup:
    if not cautions:
        return Markup("")
    heading = f"Bear in mind ({plural(len(cautions), 'caution')})"
    return Section("cautions", heading, bullets(list(cautions)), class_="caution").markup()


def _page(title: object, parts: Sequence[Markup], sections: Sequence[Section], missing: Sequence[Missing]) -> str:
    rows = missing_table(missing)
    terms = [part for name, meaning in GLOSSARY.items() for part in (tag("dt", name), tag("dd", meaning))]
    last = [Section("terms", "Terms", tag("dl", *terms))]
    if rows:
        shown = table(("Piece", "Why", "What brings it"), rows, "Pieces that this page lacks")
        last.append(Section("missing", f"What is missing ({len(rows)})", shown))
    everything = [*sections, *last]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Markup(STYLE)),
    )  # fmt: skip
    written = f"Page written by medssl-monai {__version__}. {_DISCLAIMER}"
    header = tag("header", tag("h1", title), tag("p", written, class_="soft small"))
    main = tag("main", *parts, _contents(everything), *(one.markup() for one in everything))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', header, main), lang='en')}\n"


def _contents(sections: Sequence[Section]) -> Markup:
    links = [tag("li", tag("a", one.heading, href=f"#{one.ident}")) for one in sections]
    return tag("nav", tag("ul", *links), aria_label="Contents")
