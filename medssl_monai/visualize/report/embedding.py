"""A map of the features (t-SNE), and what it shows in numbers."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from medssl_monai.metrics.embedding import effective_rank, spread
from medssl_monai.visualize.report.charts import legend, scatter_chart
from medssl_monai.visualize.report.markup import Markup, figure, table, text
from medssl_monai.visualize.report.parts import absent
from medssl_monai.visualize.report.sources import Features, Run
from medssl_monai.visualize.report.words import count, number, plural

#: more images than this are drawn at random, so that a map takes seconds
MAX_POINTS = 1500
_FEWEST = 10
_NEIGHBOURS = 5


def features_part(run: Run) -> Markup:
    """The map, and for each class how many near neighbours share it."""
    features = run.features
    if features is None:
        return absent(
            "No features: eval/features.npz is not there or cannot be read. The evaluate stage writes it, and "
            "`medssl protocol` embeddings of its own."
        )
    n, size = features.embeddings.shape
    if n < _FEWEST:
        return absent(f"Features of {plural(n, 'image')} only: too few for a map.")
    chosen = _choice(n)
    places = tsne_map(features.embeddings[chosen])
    names = [*features.class_names, "unknown class"]
    groups = {name: places[features.label[chosen] == k] for k, name in enumerate(features.class_names)}
    groups["unknown class"] = places[features.label[chosen] < 0]
    shown = {name: [(float(a), float(b)) for a, b in group] for name, group in groups.items()}
    shares = _neighbour_rows(features)
    title = f"Map of the features of {plural(len(chosen), 'image')}"
    words = (
        f"t-SNE of the {features.images}' features; each mark is one image, colour and shape are its true class. "
        "How well the classes keep to themselves is in the table below the map."
    )
    drawn = [(name, index) for index, name in enumerate(names) if shown[name]]
    rank, width = effective_rank(features.embeddings), _spread(features)
    facts = (
        f"{size} features an image; effective rank {rank:.1f} of at most {min(n, size)}"
        + (f", spread {width:.3f} (even spread: {size**-0.5:.3f})" if width is not None else "")
        + "."
    )
    part = "" if len(chosen) == n else f" {len(chosen):,} of {n:,} images, drawn with a fixed seed."
    picture = text([scatter_chart(shown, title=title, description=words), legend(drawn, lines=False)])
    numbers = table(
        ("True class", "Images", f"Of the {_NEIGHBOURS} nearest neighbours, the same class", "By chance"),
        shares,
        "Do images of a class lie together?",
    )
    caption = f"{words}{part} {facts} Distances between far groups, and axes, mean nothing."
    return text([figure(picture, caption), numbers if shares else ""])


def _choice(n: int) -> np.ndarray:
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, MAX_POINTS, replace=False))


def tsne_map(embeddings: np.ndarray) -> np.ndarray:
    """Places (N, 2) of embeddings (N, D), by scikit-learn's t-SNE from a fixed start; the same every time."""
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    if np.ptp(embeddings, axis=0).max() == 0:  # nothing to map: all images alike
        return np.zeros((len(embeddings), 2))
    start = "pca" if min(embeddings.shape) >= 2 else "random"
    found = TSNE(perplexity=perplexity, init=start, random_state=0, n_jobs=1).fit_transform(embeddings)
    return np.asarray(found, dtype=np.float64)


def _neighbour_rows(features: Features) -> list[tuple[object, ...]]:
    known = features.label >= 0
    embeddings, label = features.embeddings[known], features.label[known]
    if len(label) <= _NEIGHBOURS:
        return []
    nearest = NearestNeighbors(n_neighbors=_NEIGHBOURS).fit(embeddings).kneighbors(return_distance=False)
    # neighbours of the fitted points themselves leave the point out
    same = (label[nearest] == label[:, None]).mean(axis=1)
    rows: list[tuple[object, ...]] = []
    for k, name in enumerate(features.class_names):
        mine = label == k
        if mine.any():
            chance = (mine.sum() - 1) / (len(label) - 1)
            rows.append((name, count(int(mine.sum())), number(float(same[mine].mean())), number(float(chance))))
    return rows


def _spread(features: Features) -> float | None:
    return spread(features.embeddings) if (np.linalg.norm(features.embeddings, axis=1) > 0).all() else None
