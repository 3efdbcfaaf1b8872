"""The command ``medssl protocol``: embed once, judge by every protocol asked for, write what evaluation writes."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.apps._protocols import PROTOCOLS, check_protocols
from medssl_monai.apps.features import Case
from medssl_monai.apps.protocol.embeddings import cached_embeddings, protocols_folder
from medssl_monai.apps.protocol.judge import Samples, check_embeddings, judge, label_array
from medssl_monai.apps.protocol.labels import choose_budget
from medssl_monai.apps.protocol.leaks import subjects_seen
from medssl_monai.apps.protocol.results import write_results
from medssl_monai.apps.protocol.source import PRETRAIN_FILE, Source, find_source
from medssl_monai.apps.protocol.untrained import make_untrained
from medssl_monai.apps.run import parse_overrides
from medssl_monai.core import ConfigError, DataError, file_digest
from medssl_monai.data import Budget, Item, evaluation_items
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.visualize.report.words import metric_name

_DESCRIPTION = """Judge an encoder without training it further: embed the labelled training, validation and test images
by the bundle's own preprocessing, learn from the labels of the budget (validation labels included), choose on
validation, and measure on test. Protocols: """
_EPILOG = """Results go to RUN/eval/protocols/PROTOCOL/{metrics.json,predictions.csv}, with intervals over subjects.
Embeddings are kept in RUN/eval/protocols and computed once for all protocols and budgets. Fine-tuning is no protocol:
it trains the encoder, by the stages pretrain, train and evaluate."""
#: figures that are printed, of exclusive classes or of labels
_SAID = ("macro_auroc", "balanced_top1_accuracy", "top1_accuracy", "macro_average_precision", "balanced_accuracy")
N_BOOT = 1000


def add_parser(subparsers: Any) -> None:
    """Add ``protocol``."""
    listed = "; ".join(f"{name}: {text}" for name, text in PROTOCOLS.items())
    parser = subparsers.add_parser(
        "protocol", help="judge an encoder's embeddings", description=f"{_DESCRIPTION}{listed}.", epilog=_EPILOG
    )
    parser.add_argument("protocols", metavar="PROTOCOL", help=f"{', '.join(PROTOCOLS)}; several joined by commas")
    parser.add_argument("source", type=Path, metavar="RUN", help="run folder, or a file of weights such as pretrain.pt")
    parser.add_argument("data", type=Path, help="dataset folder (made by `medssl prepare`)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for example batch_size=64")
    parser.add_argument(
        "--budget", help="share of the labels (5%%) or number of them (40); default: as the run's train stage had it"
    )
    parser.add_argument("--labels", type=int, help="number of labelled images: another way to say --budget 40")
    parser.add_argument("--split-seed", type=int, help="of the choice of labels (default: as the run had it)")
    parser.add_argument(
        "--seed", type=int, help="of folds and resamples (0), and of an untrained encoder (default: the run's, else 0)"
    )
    parser.add_argument("-k", type=int, default=200, help="neighbours of kNN (200, or all there are)")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the votes of kNN (0.1)")
    parser.add_argument(
        "--long-tail",
        type=float,
        metavar="FACTOR",
        help="thin the training classes out to this ratio (default: as the run)",
    )
    parser.add_argument(
        "--untrained", action="store_true", help="the encoder that RUN began with; of a new folder that of --bundle"
    )
    parser.add_argument("--bundle", help="bundle of the encoder, where the run does not tell")
    parser.add_argument("--overlay", action="append", default=[], help="an overlay's name or file; may be repeated")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: RUN/eval/protocols; RUN/eval/protocols/untrained beside a trained one's)",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Entry point of the sub-command."""
    names = check_protocols([name.strip() for name in arguments.protocols.split(",") if name.strip()], "PROTOCOL")
    for option, value in {"-k": arguments.k, "--temperature": arguments.temperature}.items():
        if not 0 < value < float("inf"):
            raise ConfigError("not above 0", where=option, found=value)
    overrides = parse_overrides(arguments.overrides)
    source = (
        make_untrained(arguments.source, arguments.bundle, arguments.seed, overrides, arguments.overlay, arguments.data)
        if arguments.untrained
        else find_source(arguments.source, arguments.bundle, overrides, arguments.overlay)
    )
    budget, labels = choose_budget(source, arguments)
    datalist = budget.datalist
    n_seen = subjects_seen(source, budget)
    samples, about = _embedded(source, budget, arguments.data)
    for part in samples.values():
        check_embeddings(part, source.weights)
    validation = samples["validation"] if budget.select_on_validation else None
    out = arguments.out or _results_folder(source)
    seed = arguments.seed or 0
    whose = "asked for" if labels["budget_of"] == "asked for" else f"as the {labels['budget_of']} stage had them"
    counts = f"{budget.n_labels_training} training and {budget.n_labels_validation} validation labels"
    print(
        f"{source.weights} ({source.stage}), {counts}, {len(samples['test'].items)} test images; labels {whose}",
        flush=True,
    )
    warnings: dict[str, list[str]] = {}
    for name in names:
        verdict = judge(
            name, samples["training"], validation, samples["test"], datalist.class_names, arguments.k,
            arguments.temperature, seed,
        )  # fmt: skip
        report = write_results(
            out / name, name, verdict, validation, samples["test"], budget, labels, about, n_seen, seed, N_BOOT
        )
        _say(name, report, out / name)
        for text in report["warnings"]:
            warnings.setdefault(text, []).append(name)
    for text, of in warnings.items():  # most are of the test set, and the same for every protocol
        print(f"warning: {text}" if len(of) == len(names) else f"warning ({', '.join(of)}): {text}")
    return 0


def _results_folder(source: Source) -> Path:
    """Where results go: those of an encoder before training must not replace those of the same run's trained one."""
    folder = protocols_folder(source.folder)
    trained = any((source.weights.parent / name).is_file() for name in (PRETRAIN_FILE, MODEL_FILE))
    return folder / "untrained" if source.stage == "untrained" and trained else folder


def _embedded(source: Source, budget: Budget, data: Path) -> tuple[dict[str, Samples], Mapping[str, Any]]:
    """Training, validation and test images of the budget with their embeddings, and what is known of the encoder."""
    datalist = budget.datalist
    parts: dict[str, list[Item]] = {
        "training": budget.labeled, "validation": budget.validation, "test": evaluation_items(datalist),
    }  # fmt: skip
    if not parts["training"]:
        raise DataError("no labelled training image", where=data, advice="Raise --budget.")
    opened = source.open(data)
    cases = [
        Case({key: datalist.record(item)[key] for key in ("image", "name")}, part, item)
        for part, items in parts.items()
        for item in items
    ]
    path = protocols_folder(source.folder) / f"features_{source.weights.stem}.npz"
    embeddings = cached_embeddings(opened, datalist, cases, path)
    samples, start = {}, 0
    for part, items in parts.items():
        labels = label_array(items, datalist.exclusive)
        samples[part] = Samples(items, embeddings[start : start + len(items)], labels)
        start += len(items)
    description = opened.describe()
    about = {
        "stage": source.stage, "weights": source.weights.name, "weights_sha256": file_digest(source.weights),
        "bundle": description["bundle"], "bundle_version": description["bundle_version"],
        "layer": description["features_layer"], "n_features": int(embeddings.shape[1]),
        "settings": description["settings"],
    }  # fmt: skip
    return samples, about


def _say(name: str, report: Mapping[str, Any], folder: Path) -> None:
    for key in (name for name in _SAID if name in report["metrics"]):
        entry = report["metrics"][key]
        ends = entry["interval_95"]
        value = "undefined" if entry["estimate"] is None else f"{entry['estimate']:.3f}"
        interval = f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""
        print(f"{name}: {metric_name(key)} {value}{interval}")
    print(folder / "metrics.json", flush=True)
