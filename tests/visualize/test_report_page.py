"""The report's page: whole HTML, nothing from outside, figures of the files, holes named, names escaped."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_folders import CLASSES, FINGERPRINT, SECRET, edit, make_run, make_study, study_content, write

from medssl_monai.core import DataError
from medssl_monai.visualize.report import report_page

VOID = {"meta", "br", "img", "hr", "col"}
ALLOWED_LEVELS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4}


class Page(HTMLParser):
    """A strict reader: every element closed in order; keeps elements, texts, tables."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[tuple[str, str]] = []
        self.tables: list[tuple[str, list[list[str]]]] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs), tuple(name for name, _ in self.stack)))
        if tag not in VOID:
            self.stack.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        elif tag == "br" and self.tables and any(name in ("td", "th") for name, _ in self.stack):
            self.tables[-1][1][-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> without an element"
        opened, _ = self.stack.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        names = [name for name, _ in self.stack]
        self.texts.append((names[-1] if names else "", data))
        if "caption" in names:
            caption, rows = self.tables[-1]
            self.tables[-1] = (caption + data, rows)
        elif any(name in ("td", "th") for name in names):
            self.tables[-1][1][-1][-1] += data

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.elements if tag == name]

    def text(self, *names: str) -> str:
        return " ".join(text for tag, text in self.texts if not names or tag in names)

    def table(self, caption: str) -> list[list[str]]:
        return next(rows for title, rows in self.tables if caption in title)

    def values(self) -> set[float]:
        """The exact figures behind what is shown."""
        return {float(str(attributes["value"])) for attributes in self.of("data")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("report") / "my_run")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("report") / "my_study")


@pytest.fixture(scope="module")
def run_html(run: Path) -> str:
    return report_page(run)


@pytest.fixture(scope="module")
def study_html(study: Path) -> str:
    return report_page(study)


@pytest.fixture(params=["run", "study"])
def html(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_html")
    return found


@pytest.fixture
def run_copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def study_copy(study: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(study, tmp_path / "study"))


# --- the page as HTML
def test_well_formed_with_a_language_and_headings_in_order(html: str) -> None:
    page = Page(html)
    assert html.startswith("<!DOCTYPE html>\n")
    assert page.of("html") == [{"lang": "en"}]
    levels = [ALLOWED_LEVELS[tag] for tag, _, _ in page.elements if tag in ALLOWED_LEVELS]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    idents = [str(a["id"]) for _, a, _ in page.elements if "id" in a]
    assert len(idents) == len(set(idents))
    for _, attributes, _ in page.elements:  # links and labels lead somewhere
        for target in (str(attributes.get("href", "#")), f"#{attributes.get('aria-labelledby', '')}"):
            assert target == "#" or target[1:] in idents
    assert "&lt;p" not in html
    assert "&lt;td" not in html


def test_nothing_comes_from_outside_and_nothing_runs(html: str) -> None:
    page = Page(html)
    names = {tag for tag, _, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    for tag, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or str(value).startswith(("data:image/png;base64,", "#")), (tag, name)
    style = page.text("style")
    assert "@import" not in style
    assert "url(" not in style
    policy = next(str(a["content"]) for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_every_picture_has_a_text_alternative_and_every_table_headers(html: str) -> None:
    page = Page(html)
    pictures = page.of("img")
    assert pictures
    assert all(len(str(a["alt"])) > 20 for a in pictures)
    charts = [a for a in page.of("svg") if a.get("aria-hidden") != "true"]
    assert len(charts) >= 5
    assert all(a["role"] == "img" and len(str(a["aria-label"])) > 20 for a in charts)
    for part in ("title", "desc"):
        inside = [k for k, (tag, _, parents) in enumerate(page.elements) if tag == part and parents[-1:] == ("svg",)]
        assert len(inside) == len(charts)
    figures = [parents for tag, _, parents in page.elements if tag == "figcaption"]
    assert len(figures) == len(page.of("figure"))
    assert all("scope" in a for a in page.of("th"))
    assert all(caption for caption, _ in page.tables)


def test_no_marks_of_chart_points_are_not_numbers(html: str) -> None:
    for attributes in Page(html).of("path"):
        assert "nan" not in str(attributes["d"]).lower()
        assert "inf" not in str(attributes["d"]).lower()


def test_the_same_folder_gives_the_same_page(run: Path, run_html: str) -> None:
    assert report_page(run) == run_html


def test_case_names_stay_in_their_folder(run: Path, html: str) -> None:
    assert SECRET in (run / "models" / "budget.json").read_text()
    assert SECRET not in html
    assert "secret_patient" not in html


# --- a run's figures
def test_a_run_s_figures_are_those_of_its_files(run: Path, run_html: str) -> None:
    metrics, page = json.loads((run / "eval" / "metrics.json").read_text()), Page(run_html)
    values = page.values()
    entries = [*metrics["metrics"].values(), *(entry["auroc"] for entry in metrics["per_class"].values())]
    for entry in entries:
        assert entry["estimate"] in values
        assert set(entry["interval_95"] or []) <= values
    assert set(np.ravel(metrics["confusion_matrix"])) <= values
    rows = page.table("Figures on 120 test images of 60 test subjects")
    auroc = metrics["metrics"]["macro_auroc"]
    low, high = auroc["interval_95"]
    assert rows[1][:2] == ["Macro AUROC", f"{auroc['estimate']:.3f} ({low:.3f} to {high:.3f})"]
    assert rows[1][3:] == ["120", "60"]
    assert f"Macro AUROC  {auroc['estimate']:.3f} , 95 % interval" in page.text()
    for key in ("before", "after"):
        assert {metrics["calibration"][key][name] for name in ("ece", "brier", "nll")} <= values
    female = metrics["subgroups"]["sex"]["female"]
    row = next(row for row in page.table("By sex") if row[0] == "female")
    assert row[1:3] == [str(female["n"]), str(female["n_subjects"])]
    assert row[3].startswith(f"{female['metrics']['macro_auroc']['estimate']:.3f} (")


def test_the_confusion_matrix_gives_counts_and_shares_of_the_row(run: Path, run_html: str) -> None:
    matrix = np.array(json.loads((run / "eval" / "metrics.json").read_text())["confusion_matrix"])
    rows = Page(run_html).table("Test images by true and called class")
    assert rows[0] == ["True class", *(f"called {name}" for name in CLASSES)]
    for name, counts, row in zip(CLASSES, matrix, rows[1:]):
        assert row == [f"{name} (n = {counts.sum()})", *(f"{k} {k / counts.sum():.0%}" for k in counts)]


def test_classes_operating_points_and_withheld_intervals(run_html: str) -> None:
    page = Page(run_html)
    rows = {row[0]: row for row in page.table("Each class against the rest")}
    assert rows["rare"][1:3] == ["6", "3"]
    assert rows["rare"][3].endswith("(no interval)")
    points = {row[0]: row for row in page.table("At the operating points")}
    assert points["rare"] == ["rare", "–", "–", "none: only 2 positive validation cases"]
    assert points["benign"][3] == "0.400"


def test_what_was_run_stands_there(run_html: str) -> None:
    page = Page(run_html)
    facts = dict(row for row in page.table("What was run"))
    assert facts["Bundle"] == "srcl_skin_lesion_classification 0.1.0"
    assert facts["Dataset"] == "toy <lesions>"
    assert facts["Fingerprint of the data"] == FINGERPRINT
    assert facts["Seed of training"] == "0"
    assert facts["Seed of the choice of labels"] == "5"
    assert facts["Time"] == "pretrain 61 seconds, train 61 seconds, evaluate 61 seconds"
    assert facts["Machine"] == "A Processor, 2 cores, 23.5 GiB memory, no accelerator"
    assert "torch 2.13.0" in facts["Versions"]
    assert facts["Overlays"] == "cpu"
    assert page.table("Labels used before testing")[-2:] == [["all", "31", "10"], ["subjects", "20", "7"]]
    assert page.table("Settings of each stage")[1:] == [
        ["seed", "0", "0", "0"], ["max_epochs", "1", "4", "4"], ["labels", "[a, b]", "[a, b]", "[a, b]"],
    ]  # fmt: skip
    assert "_target_: x.Y" in page.text("pre")
    commands = page.text("pre")
    assert (
        "medssl run srcl_skin_lesion_classification train 'dataset_dir=/data/my lesions' "
        "'labels=[benign, mela & noma, rare]' seed=0 --overlay cpu --run-dir NEW_RUN"
    ) in commands
    licences = dict(page.table("Licences"))
    assert licences["Code"].startswith("Apache License")
    assert "CC BY-NC" in page.text("pre")


def test_training_curves_of_both_stages(run_html: str) -> None:
    page = Page(run_html)
    assert "Training: 4 epochs, 0.2 minutes" in page.text("h3")
    assert "Pre-training: 1 epoch, 0.0 minutes" in page.text("h3")
    labels = [str(a["aria-label"]) for a in page.of("svg") if "aria-label" in a]
    assert any(
        one.startswith("Macro AUROC (validation), train. ") and "from 0.5 in the first epoch to 0.8 in the last" in one
        for one in labels
    )
    assert page.table("Training, epoch by epoch")[4] == ["4", "0.0100", "0.2500", "0.8000"]


def test_features_are_mapped_and_neighbours_counted(run: Path, run_html: str) -> None:
    page = Page(run_html)
    with np.load(run / "eval" / "features.npz") as stored:
        z, label = stored["embeddings"].astype(float), stored["label"]
    rows = page.table("Do images of a class lie together?")[1:]
    for k, row in enumerate(rows):
        shares = []
        for i in np.flatnonzero(label == k):  # by hand: distances to all others, the five nearest
            distances = np.linalg.norm(z - z[i], axis=1)
            distances[i] = np.inf
            shares.append((label[np.argsort(distances)[:5]] == k).mean())
        n = (label == k).sum()
        assert row == [CLASSES[k], str(n), f"{np.mean(shares):.3f}", f"{(n - 1) / (len(label) - 1):.3f}"]
    chart = next(a for a in page.of("svg") if "Map of the features" in str(a.get("aria-label")))
    assert chart["aria-label"].startswith("Map of the features of 120 images")  # type: ignore[union-attr]


# --- a study
def test_a_study_begins_with_the_answer(study_html: str) -> None:
    page = Page(study_html)
    assert page.text("h1") == "Did srcl help? A label-budget study on toy <lesions>"
    words = re.sub(r"\s+", " ", page.text())
    assert "Yes at 5 % of the labels: srcl was better than supervised. At 80 labels no difference was shown." in words
    assert "5 % of the labels ( 41 in all): srcl 0.712 , supervised 0.641 (macro AUROC). Difference +0.071" in words
    assert (
        "Tried with 5 % of the labels, 80 labels and all labels, 2 seeds each, "
        "on 120 test images of 60 test subjects never trained on." in words
    )
    assert words.index("What not to conclude") < words.index("Exploratory figures exploratory")


def test_a_study_s_figures_are_those_of_its_summary(study_html: str) -> None:
    content, page = study_content(), Page(study_html)
    values = page.values()
    for row in content["summary"]:
        assert row["estimate"] in values
        assert set(row["interval_95"] or []) <= values
    for one in [*content["claims"], *content["exploratory"]]:
        assert {one["difference"]["estimate"], *one["difference"]["interval_95"], one["p"]} <= values
    claims = page.table("The claim: srcl minus supervised")
    assert [row[-1] for row in claims[1:]] == ["better", "no difference shown"]
    assert claims[1][1:3] == ["+0.071 (+0.046 to +0.096)", "+0.050 to +0.092"]
    saved = page.table("Smallest sufficient budget of each arm")
    assert saved[1][:5] == ["srcl", "80 labels", "80", "800", "90 %"]
    assert saved[2][:5] == ["supervised", "none of those tried", "–", "800", "–"]
    budgets = page.table("Labels used before testing")
    assert budgets[1:] == [
        ["5 % of the labels", "31", "10", "41"], ["80 labels", "64", "16", "80"], ["all labels", "640", "160", "800"],
    ]  # fmt: skip


def test_the_curve_says_its_points_and_the_line_of_all_labels(study_html: str) -> None:
    page = Page(study_html)
    label = next(str(a["aria-label"]) for a in page.of("svg") if "against number of labels" in str(a.get("aria-label")))
    for words in ("srcl with 5 % of the labels 0.712", "supervised with 80 labels 0.751", "all labels 0.838"):
        assert words in label
    assert "supervised with all labels, band: 95 % interval" in page.text("li")


def test_points_of_the_curve_lie_where_their_figures_say(study_html: str) -> None:
    """Heights on the picture are a linear map of the estimates: checked against the line of all labels."""
    start = study_html.index("Macro AUROC against number of labels")
    svg = study_html[start : study_html.index("</svg>", start)]
    marks = [float(y) for y in re.findall(r'd="M[\d.]+ ([\d.]+)m[^"]*" class="mark"', svg)]
    shown = [0.7123, 0.7634, 0.6411, 0.7512]
    slope = (marks[0] - marks[2]) / (shown[0] - shown[2])
    assert slope < 0
    for y, value in zip(marks, shown):
        assert y == pytest.approx(marks[0] + slope * (value - shown[0]), abs=0.2)
    reference = re.search(r'd="M[\d.]+ ([\d.]+)H[\d.]+" class="reference"', svg)
    assert reference is not None
    assert float(reference.group(1)) == pytest.approx(marks[0] + slope * (0.8377 - shown[0]), abs=0.3)


def test_claims_and_exploratory_figures_are_told_apart(study_html: str) -> None:
    page = Page(study_html)
    assert "exploratory" in page.text("span")
    assert page.table("Other comparisons")[1][:4] == ["srcl", "supervised", "5 % of the labels", "accuracy"]
    assert len(page.table("The claim: srcl minus supervised")) == 3


def test_a_study_says_how_to_repeat_it(study_html: str) -> None:
    commands = Page(study_html).text("pre")
    assert (
        "medssl study srcl_skin_lesion_classification --data DATA --arms supervised,srcl --budgets 5%,80 "
        "--seeds 0,1 --overlay cpu max_epochs=4 --out NEW_STUDY"
    ) in commands


def test_all_labels_are_named_among_the_budgets_only_where_the_method_ran_at_them(study_copy: Path) -> None:
    runs = study_content()["runs"]
    edit(study_copy / "study.json", runs=[*runs, {**runs[0], "arm": "srcl", "budget": "100pct", "seed": 0}])
    assert "--budgets 5%,80,100% --seeds" in Page(report_page(study_copy)).text("pre")


def test_the_closer_look_is_at_method_and_baseline_with_the_fewest_labels(study_html: str) -> None:
    heads = Page(study_html).text("h2")
    assert "A closer look: srcl, 5 % of the labels, seed 0" in heads
    assert "A closer look: supervised, 5 % of the labels, seed 0" in heads


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"p_holm": 0.06}, "At 5 % of the labels and 80 labels no difference was shown."),
        ({"difference": {"estimate": -0.07, "interval_90": [-0.1, -0.02], "interval_95": [-0.12, -0.01]}},
         "No: at 5 % of the labels srcl was worse than supervised."),
        ({"difference": {"estimate": 0.07, "interval_90": None, "interval_95": None}, "p": None, "p_holm": None,
          "note": "only 4 test subjects"}, "At 5 % of the labels it cannot be said: only 4 test subjects."),
    ],
)  # fmt: skip
def test_verdicts(study_copy: Path, change: dict[str, Any], words: str) -> None:
    claims = study_content()["claims"]
    edit(study_copy / "study.json", claims=[{**claims[0], **change}, claims[1]])
    assert words in re.sub(r"\s+", " ", Page(report_page(study_copy)).text("p"))


def _changed_summary(arms: tuple[str, ...], **changes: Any) -> list[dict[str, Any]]:
    """The study's summary with other figures of these arms over all classes."""
    return [
        {**row, **changes} if row["arm"] in arms and (row["metric"], row["class"]) == ("macro_auroc", None) else row
        for row in study_content()["summary"]
    ]


def test_words_hold_in_light_and_dark_and_where_the_pictures_put_their_names(run_html: str) -> None:
    page = Page(run_html)
    assert "the stronger the colour, the more" in page.text("p")  # on a dark ground more is lighter, not darker
    assert "darker" not in page.text()
    panel = next(str(one["alt"]) for one in page.of("img") if "small changes of a pixel" in str(one["alt"]))
    assert panel.endswith("true and predicted class stand at the left of each row.")


@pytest.mark.parametrize("kind", ["run", "study"])
def test_subjects_are_not_called_patients(kind: str, run_html: str, study_html: str) -> None:
    words = re.sub(r"\s+", " ", Page(run_html if kind == "run" else study_html).text())
    meaning = "a patient, or a lesion where the dataset knows no patients"
    limit = "If the dataset's subjects are lesions or images, not patients, one patient may be on both sides."
    assert meaning in words
    assert limit in words[: words.index("Terms Annotation") if "Terms Annotation" in words else None]
    assert "patient" not in words.replace(meaning, "").replace(limit, "").replace("secret_patient", "")


WITHHELD = {"interval_90": None, "interval_95": None}


@pytest.mark.parametrize(
    ("changes", "headline", "badges", "saved"),
    [
        ({"overlays": ["cpu", "smoke"]}, "No answer: trial run (overlay smoke): the figures mean nothing.",
         {"cannot be said"}, "trial run"),
        # an interval that ends just at chance, and one below it
        ({"summary": _changed_summary(("srcl", "supervised"), interval_95=[0.5, 0.8])},
         "At 5 % of the labels and 80 labels it cannot be said: neither srcl nor supervised is shown to be better than "
         "chance (both 95 % intervals of the macro AUROC reach down to 0.5).", {"cannot be said"},
         "the reference, supervised with all labels, is not shown to be better than chance"),
        ({"summary": [{**row, **WITHHELD} if row["metric"] == "auroc" else row for row in study_content()["summary"]]},
         "No answer: too few test subjects: 2 of 2 classes have fewer than 10 test subjects with, or without, the "
         "class.", {"cannot be said"}, "too few test subjects"),
        # one arm at chance is an answer: the other one is better than it
        ({"summary": _changed_summary(("supervised",), interval_95=[0.4, 0.8])},
         "Yes at 5 % of the labels: srcl was better than supervised. At 80 labels no difference was shown.",
         {"better", "no difference shown"}, "the reference, supervised with all labels, is not shown"),
    ],
)  # fmt: skip
def test_noise_is_no_yes(
    study_copy: Path, changes: dict[str, Any], headline: str, badges: set[str], saved: str
) -> None:
    edit(study_copy / "study.json", **changes)
    page = Page(report_page(study_copy))
    words = re.sub(r"\s+", " ", page.text("p"))
    assert headline in words
    assert {row[-1] for row in page.table("The claim: srcl minus supervised")[1:]} == badges
    assert f"Annotation saved: cannot be said: {saved}" in words
    assert f"Annotation saved cannot be said: {saved}" in words
    assert ("Yes" in words) == ("better" in badges)


def test_dropped_resamples_and_the_accuracy_of_naming_one_class(study_copy: Path) -> None:
    content = study_content()
    some = {"n_undefined": 300, "n_resamples": 2000}
    edit(
        study_copy / "study.json", majority_accuracy=0.6694,
        claims=[{**content["claims"][0], **some}, {**content["claims"][1], "n_undefined": 9, "n_resamples": 2000}],
        summary=[{**row, **some} for row in content["summary"]],
        exploratory=[{**row, **some} for row in content["exploratory"]],
    )  # fmt: skip
    page = Page(report_page(study_copy))
    said = "15% of the resamples lack a class and are left out"
    verdicts = [row[-1] for row in page.table("The claim: srcl minus supervised")[1:]]
    assert verdicts == [f"better ({said})", "no difference shown"]
    assert {row[-1] for row in page.table("Other comparisons")[1:]} == {said}
    assert {row[-1] for row in page.table("Accuracy by arm and budget")[1:]} == {said}
    words = re.sub(r"\s+", " ", page.text("p", "data"))
    assert "Always naming the most frequent class of the test images would reach 0.669" in words
    assert 0.6694 in page.values()


def test_budgets_are_said_in_words_and_in_the_order_of_their_labels(study_copy: Path) -> None:
    content = study_content()
    saved = {**content["annotation_saved"]["srcl"], "text": "srcl: with 80 labels (80labels); the 5pct does not."}
    edit(
        study_copy / "study.json", annotation_saved={"srcl": saved}, runs=content["runs"][::-1],
        warnings=["5pct: asked for 40 labels, 41 are used"],
    )  # fmt: skip
    page = Page(report_page(study_copy))
    words = re.sub(r"\s+", " ", page.text())
    assert "Annotation saved: srcl: with 80 labels; the 5 % of the labels does not." in words
    assert "5 % of the labels: asked for 40 labels, 41 are used." in words
    budgets = [row[1] for row in page.table("Every run of the study")[1:]]
    assert budgets == ["5 % of the labels"] * 4 + ["80 labels"] * 4 + ["all labels"] * 2


def test_a_study_without_results_yet(study_copy: Path) -> None:
    shutil.rmtree(study_copy / "runs")
    content = study_content()
    edit(
        study_copy / "study.json", claims=[], summary=[], exploratory=[], annotation_saved={}, n_test=None,
        n_test_subjects=None, complete=False, runs=[{**run, "complete": False} for run in content["runs"]],
    )  # fmt: skip
    page = Page(report_page(study_copy))
    assert "No answer yet: srcl and supervised have not both been run to the end at any budget." in page.text("p")
    assert "The study is not complete: 0 of 10 runs have ended." in page.text("li")
    missing = page.text("p")
    for words in ("No label-budget curve", "No claim yet", "Annotation saved is not known"):
        assert words in missing
    assert "What is missing (10)" in page.text("h2")
    assert dict(page.table("What was run"))["Test set"] == "not evaluated yet"
    assert "on no test images yet." in page.text("p")


# --- missing and damaged pieces
PIECES = {
    "eval/metrics.json": "No figures: eval/metrics.json is not there",
    "eval/features.npz": "No features: eval/features.npz is not there",
    "eval/saliency.png": "No saliency panel: eval/saliency.png is not there",
    "eval/roc.png": "No ROC curves: eval/roc.png is not there",
}


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_a_missing_or_damaged_piece_is_named_and_the_rest_is_shown(run_copy: Path, piece: str, damage: str) -> None:
    path = run_copy / piece
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "other": b"[1, 2]"}[damage])
    page = Page(report_page(run_copy))
    assert PIECES[piece] in page.text("p")
    row = next(row for row in page.table("Pieces that this page lacks") if row[0] == piece)
    assert row[1].startswith("not there" if damage == "gone" else ("damaged", "holds a list"))
    assert row[2].startswith("Run the evaluate stage")
    assert "Training: 4 epochs, 0.2 minutes" in page.text("h3")


@pytest.mark.parametrize(
    "piece", ["models/history.json", "models/budget.json", "models/train_config.yaml", "models/train_run.json",
              "eval/evaluate_config.yaml", "eval/evaluate_run.json"],
)  # fmt: skip
def test_other_missing_pieces(run_copy: Path, piece: str) -> None:
    (run_copy / piece).unlink()
    page = Page(report_page(run_copy))
    assert [row[0] for row in page.table("Pieces that this page lacks")[1:]] == [piece]


def test_a_run_measured_on_validation_only(run_copy: Path) -> None:
    """Its figures are shown, and said to be no test result wherever they could be taken for one."""
    found = json.loads((run_copy / "eval/metrics.json").read_text())
    (run_copy / "eval/metrics.json").unlink()
    for name in ("predictions.csv", "roc.png", "saliency.png"):
        (run_copy / "eval" / name).unlink(missing_ok=True)
    said = (
        "figures of the validation split, by which checkpoint, temperatures and operating points were chosen: too good"
    )
    write(run_copy / "eval/validation_metrics.json", {**found, "split": "validation", "warnings": [said]})
    html = report_page(run_copy)
    page = Page(html)
    headings = page.text("h2")
    assert "Figures of validation, not of a test" in headings
    assert "Confusion matrix" not in headings
    assert "No test result: this run was measured on its validation images only." in page.text("p")
    plain = html.replace("<strong>", "").replace("</strong>", "")
    assert "Not a test result. The figures below are of validation. Checkpoint, temperatures and operating" in plain
    rows = page.table(f"Figures on {found['n']} validation images of {found['n_subjects']} validation subjects")
    shown = {row[0]: row[1] for row in rows[1:]}
    assert shown["Macro AUROC"].startswith(f"{found['metrics']['macro_auroc']['estimate']:.3f}")
    assert said[:60] in html
    assert "eval/validation_metrics.json" in html
    assert "No figures: eval/metrics.json is not there" not in html
    # beside test figures they do not stand in for anything
    write(run_copy / "eval/metrics.json", found)
    assert "of validation, not of a test" not in report_page(run_copy)


def test_a_complete_run_misses_nothing(run_html: str, study_html: str) -> None:
    assert "What is missing" not in run_html
    assert "What is missing" not in study_html


def test_only_models_or_only_eval(run_copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(run_copy / "eval")
    assert "This run has not been evaluated: no figures." in Page(report_page(run_copy)).text("p")
    (tmp_path / "bare" / "eval").mkdir(parents=True)
    page = Page(report_page(tmp_path / "bare"))
    assert len(page.table("Pieces that this page lacks")) > 6


@pytest.mark.parametrize(
    ("changes", "piece"),
    [
        ({"metrics": {"macro_auroc": 3}}, "the figures"),
        ({"confusion_matrix": [[1, 2]]}, "run: confusion matrix"),
        ({"calibration": None}, "run: calibration"),
        ({"per_class": {"benign": {}}}, "run: classes"),
        ({"subgroups": {"sex": 3}}, "run: subgroups"),
    ],
)
def test_parts_that_are_not_as_expected_are_named(run_copy: Path, changes: dict[str, Any], piece: str) -> None:
    edit(run_copy / "eval" / "metrics.json", **changes)
    page = Page(report_page(run_copy))
    rows = [row for row in page.table("Pieces that this page lacks") if row[0] == piece]
    assert rows
    assert rows[0][1].startswith("what it rests on is not as expected (")
    assert "Training: 4 epochs, 0.2 minutes" in page.text("h3")


def test_a_run_of_a_study_that_is_gone_or_outside(study_copy: Path) -> None:
    runs = study_content()["runs"]
    shutil.rmtree(study_copy / runs[0]["folder"])
    runs[1]["folder"] = "../elsewhere"
    runs[2]["complete"] = False
    (study_copy.parent / "elsewhere").mkdir()
    edit(study_copy / "study.json", runs=runs)
    rows = {row[0]: row[1] for row in Page(report_page(study_copy)).table("Pieces that this page lacks")[1:]}
    assert rows == {
        "runs/srcl/5pct/seed0": "the folder of this run is not there",
        "../elsewhere": "the folder of this run is not there",
        "runs/srcl/80labels/seed0": "the run is not complete",
    }


def test_what_many_runs_lack_is_one_line(study_copy: Path) -> None:
    for path in study_copy.rglob("features.npz"):
        path.unlink()
    rows = Page(report_page(study_copy)).table("Pieces that this page lacks")
    assert [row[0] for row in rows[1:]] == ["eval/features.npz of srcl, 5 % of the labels, seed 0 and 9 further runs"]


def test_folders_that_are_neither(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: folder not found\. Name the folder of a run or of a study\.$"):
        report_page(tmp_path / "nothing")
    expected = (
        r"neither a run nor a study \(expected study.json, or the folders models and eval\)\. Name what --run-dir"
    )
    with pytest.raises(DataError, match=expected):
        report_page(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match=r"runs of a study, but no study.json\. Run the same `medssl study` command"):
        report_page(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(DataError, match=r"study.json: not valid JSON: .* at line 1"):
        report_page(tmp_path)
    write(tmp_path / "study.json", {"format": 2})
    with pytest.raises(DataError, match=r"not a study's summary \(found format 2, expected format 1\)"):
        report_page(tmp_path)


# --- escaping
EVIL = "<script>alert(1)</script>"


def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    names = [EVIL, "\"'><img src=x onerror=alert(1)>", "]]>&amp;\x07"]
    run = make_run(tmp_path / "run", names=names)
    for path in (run / "eval" / "metrics.json", run / "models" / "budget.json"):
        edit(path, dataset=EVIL)
    (run / "models" / "train_config.yaml").write_text(f"seed: '{EVIL}'\nmax_epochs: 4\n")
    edit(
        run / "eval" / "evaluate_run.json",
        bundle=EVIL,
        overlays=[EVIL],
        overrides={EVIL: EVIL},
        hardware={"processor": EVIL},
    )
    html = report_page(run)
    page = Page(html)
    assert not page.of("script")
    assert "<script" not in html.lower()
    assert not [a for _, a, _ in page.elements if any(name.startswith("on") for name in a)]
    assert len(page.of("img")) == 2
    assert page.table("Test images by true and called class")[0][1] == f"called {EVIL}"
    assert "\x07" not in html
    assert "]]>&amp;\ufffd" in page.text("th") or any("]]>&amp;\ufffd" in row[0] for row in page.table("Each class"))


def test_names_of_a_study_are_escaped(study_copy: Path) -> None:
    text = (
        (study_copy / "study.json").read_text().replace('"srcl"', json.dumps(EVIL)).replace('"5pct"', json.dumps(EVIL))
    )
    (study_copy / "study.json").write_text(text)
    edit(study_copy / "study.json", warnings=[EVIL], bundle=EVIL, command=EVIL)
    html = report_page(study_copy)
    assert not Page(html).of("script")
    assert "<script" not in html.lower()
    assert f"Did {EVIL} help?" in Page(html).text("h1")
