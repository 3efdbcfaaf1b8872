"""How the report says numbers, and what its terms mean."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from medssl_monai.visualize.report.markup import Markup, tag, text

METRIC_NAMES = {
    "macro_auroc": "macro AUROC",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "macro_average_precision": "macro average precision",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "subset_accuracy": "share of images with every label right",
    "balanced_top1_accuracy": "balanced accuracy",
    "top1_accuracy": "accuracy",
    "top1_sensitivity": "sensitivity (most probable class)",
    "top1_specificity": "specificity (most probable class)",
    "ovr_accuracy": "accuracy, one class against the rest",
    "ovr_sensitivity": "sensitivity, one class against the rest",
    "ovr_specificity": "specificity, one class against the rest",
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "volume_bias_ml": "volume bias (ml)",
    "volume_error_ml": "volume error (ml)",
    "volume_error_percent": "volume error (%)",
    "mean_dice": "mean Dice",
    "mean_hd95_mm": "mean HD95 (mm)",
    "mean_volume_bias_ml": "mean volume bias (ml)",
    "mean_volume_error_ml": "mean volume error (ml)",
    "mean_volume_error_percent": "mean volume error (%)",
}

GLOSSARY = {
    "Alignment (of the embedding)": "Mean squared distance of two random views of one image: 0 when they are described "
    "alike. The alignment ratio divides it by that of views of different images: well below 1 is wanted, at 1 the "
    "views of an image are not known again.",
    "Annotation saved": "How many fewer labels an arm needs to be, at worst, 0.01 below the baseline arm "
    "with all labels (lower end of the 90 % interval of the paired difference).",
    "Arm": "One way of training that a study compares with others.",
    "AUROC": "Probability that the classifier ranks a random image with the class above a random image without it. "
    "0.5 is chance, 1 is perfect. Macro AUROC is the plain mean over the classes, rare ones included.",
    "Average precision": "Area under the curve of precision against sensitivity. Chance is the share of images with "
    "the label, 1 is perfect.",
    "Baseline": "The arm that the claim is measured against, as a rule supervised training with the labelled images "
    "alone.",
    "Balanced accuracy": "Mean over the classes of the share of a class's images that are called rightly; a classifier "
    "that always says the commonest class gets 1 divided by the number of classes. Of a label that is there or not it "
    "is the mean of sensitivity and specificity, 0.5 by chance.",
    "Bootstrap": "The test subjects are drawn again and again with replacement; how much a figure moves says how sure "
    "it is.",
    "Brier score": "Mean squared distance of the probability from the truth; 0 is perfect. Of one label it reaches to "
    "1, of exclusive classes to 2.",
    "Calibration": "Whether a confidence of 80 % is right 80 % of the time. ECE is the mean gap between confidence and "
    "accuracy; 0 is perfect.",
    "Collapse": "The network describes all images by (almost) the same numbers; what it has learnt is lost. A low "
    "effective rank of the features tells.",
    "Dice": "Overlap of segmentation and truth: twice what they share, divided by the sum of both; 0 is none, 1 is "
    "perfect. A missed organ counts 0. The mean is over organs, each averaged over scans.",
    "Effective rank": "Directions the features really use (exponential of the entropy of the singular values).",
    "F1": "Harmonic mean of sensitivity and precision.",
    "HD95": "95th percentile of the distances between the surfaces of segmentation and truth; known only where both "
    "show the organ.",
    "Holm": "Correction for asking at several budgets: without it one of many comparisons would look firm by chance.",
    "Interval (90 %, 95 %)": "Range in which the figure lies in that share of the bootstrap samples of subjects. "
    "It knows of chance in the choice of test subjects, not of other hospitals, devices or years.",
    "Label budget": "All labels used before testing: those for training and those for validation.",
    "Operating point": "The probability above which an image is called positive; set on validation, never on test.",
    "Pre-training": "Training of the network's encoder before it is trained to classify.",
    "Protocol (kNN, linear probe, linear SVM)": "A way to judge the encoder as it is, without training it further: the "
    "labelled training images vote by nearness (kNN), or a linear classifier is learnt on the features.",
    "Seed": "Number from which all random choices of a run follow. Several seeds show how much the result depends on "
    "them.",
    "Subject": "What is kept together in splits and resampling: a patient, or a lesion where the dataset knows no "
    "patients. Intervals resample subjects, because images of one subject resemble each other.",
    "t-SNE": "A map of the features on paper: near neighbours stay near. Distances between far groups and the sizes of "
    "groups mean nothing.",
    "Transductive": "The unlabelled test images were used in training; figures then do not hold for new subjects.",
    "Uniformity (of the embedding)": "How evenly the descriptions of images spread over all directions: the lower, the "
    "more evenly; 0 means that all images are described alike.",
    "Validation": "Labelled images used to choose the network, its thresholds and its calibration; never for testing.",
}


#: the protocols of figures such as ``knn/macro_auroc``
PROTOCOL_NAMES = {"knn": "kNN", "linear_probe": "linear probe", "linear_svm": "linear SVM", "paper": "slices known"}


def metric_name(metric: str) -> str:
    """The name of a metric as a reader knows it."""
    source, _, name = metric.rpartition("/")
    words = METRIC_NAMES.get(name, name.replace("_", " "))
    return f"{words} ({PROTOCOL_NAMES.get(source, source)})" if source else words


def number(value: object, signed: bool = False, digits: int = 3) -> Markup:
    """A figure with three decimals; the exact value stands in the element's ``value``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        return Markup("–")
    shown = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return tag("data", shown.replace("-", "−"), value=repr(value))


def count(value: object) -> Markup:
    """A whole number with thousands apart."""
    if not isinstance(value, int) or isinstance(value, bool):
        return Markup("–")
    return tag("data", f"{value:,}", value=repr(value))


def span(ends: object, signed: bool = False) -> Markup:
    """An interval, ``–`` where there is none."""
    if not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) != 2:
        return Markup("–")
    return tag("span", number(ends[0], signed), " to ", number(ends[1], signed), class_="span")


def capital(words: str) -> str:
    """With a capital at the start."""
    return words[:1].upper() + words[1:]


def estimate(entry: Mapping[str, Any], signed: bool = False, brief: bool = False) -> Markup:
    """An estimate with its 95 % interval in brackets, or the reason why there is none (not where ``brief``)."""
    ends = entry.get("interval_95")
    why = None if brief else entry.get("reason") or entry.get("note")
    tail = (" (", span(ends, signed), ")") if ends else (" (no interval", f": {why}" if why else "", ")")
    return text([number(entry.get("estimate"), signed), list(tail)])


def percent(value: float) -> str:
    """A share in per cent, as short as it can be said."""
    return f"{100 * value:.3g} %"


def duration(seconds: object) -> str:
    """Seconds in words."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"


def plural(number_: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    ending = noun if number_ == 1 else f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number_:,} {ending}"


def listing(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def label_noun(study: Mapping[str, Any]) -> str:
    """What one label of a study is called: of masks it is a labelled scan."""
    return "labelled scan" if study.get("task") == "segmentation" else "label"


def image_noun(task: object) -> str:
    """What one test case is called, by the task of a study or a run."""
    return "scan" if task == "segmentation" else "image"


def budget_words(study: Mapping[str, Any], name: object) -> str:
    """A budget as a reader says it: ``10 % of the labels``; its name where the study does not know it."""
    noun = label_noun(study)
    for budget in study.get("budgets") or []:
        if isinstance(budget, Mapping) and budget.get("name") == name:
            if is_full(budget):
                return f"all {noun}s"
            share, labels = budget.get("label_fraction"), budget.get("label_budget")
            number_ = f"{labels} {noun}{'s'[: labels != 1]}"
            return number_ if share is None else f"{percent(share)} of the {noun}s"
    return str(name)


def is_full(budget: Mapping[str, Any]) -> bool:
    """Whether a budget is all labels."""
    share, number_ = budget.get("label_fraction"), budget.get("label_budget")
    return share == 1 or (share is None and number_ is None)


def in_words(study: Mapping[str, Any], sentence: str) -> str:
    """A sentence of ``study.json`` with its budgets as a reader says them: ``10pct`` is ``10 % of the labels``."""
    for budget in study.get("budgets") or []:
        name = budget.get("name") if isinstance(budget, Mapping) else None
        if isinstance(name, str):
            said = budget_words(study, name)
            sentence = re.sub(rf"\b{re.escape(name)}\b", said, sentence).replace(f"{said} ({said})", said)
    return sentence
