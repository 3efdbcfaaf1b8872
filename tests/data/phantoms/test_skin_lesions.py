"""The skin-lesion phantom: class frequencies, files, and that neither colour nor size gives the class away."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl_monai.data.phantoms import PHANTOMS, Recipe, make_phantom
from medssl_monai.data.phantoms.skin_lesions.image import render
from medssl_monai.data.phantoms.skin_lesions.phantom import CLASSES, IMAGES_PER_LESION, PREVALENCE, class_sequence


def recipe(subjects, seed=0, balance=0.0, image_format="png"):
    return Recipe(
        "skin_lesions", subjects, seed, 48, (0.7, 0.1, 0.2), 0.0, {"balance": balance, "image_format": image_format}
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_frequencies(seed, balance):
    counts = Counter(class_sequence(5000, seed, balance))
    total = sum(PREVALENCE.values())
    for index, name in enumerate(CLASSES):
        expected = (1 - balance) * PREVALENCE[name] / total + balance / 7
        assert abs(counts[index] / 5000 - expected) < 0.002
    assert min(Counter(class_sequence(100, seed, balance))[c] for c in range(7)) >= 5
    assert class_sequence(100, seed, balance) == class_sequence(5000, seed, balance)[:100]
    assert class_sequence(100, seed, balance) != class_sequence(100, seed + 1, balance)


@pytest.mark.parametrize("seed", range(4))
def test_a_hundred_subjects_show_every_class_in_every_split(tmp_path, seed, monkeypatch):
    monkeypatch.setattr(type(PHANTOMS.get("skin_lesions")), "write", lambda *arguments: None)  # splits only
    datalist = make_phantom("skin_lesions", tmp_path, subjects=100, seed=seed, unlabeled_fraction=0.5)
    for split in ("training", "validation", "test"):
        assert {item.label for item in datalist.splits[split]} == set(range(7))
    shares = [len(datalist.splits[s]) / len(datalist) for s in ("validation", "test")]
    np.testing.assert_allclose(shares, [0.1, 0.2], atol=0.03)


def test_items():
    items = PHANTOMS.get("skin_lesions").items(recipe(2000, balance=1.0))
    counts = np.bincount([len(lesion) for lesion in items], minlength=4)
    np.testing.assert_allclose(counts[1:] / 2000, IMAGES_PER_LESION, atol=0.03)
    flat = [item for lesion in items for item in lesion]
    assert len({item.name for item in flat}) == len(flat)
    assert all(len({(item.label, item.subject, *item.columns.items()) for item in lesion}) == 1 for lesion in items)
    ages = {c: np.mean([i.columns["age"] for i in flat if i.label == CLASSES.index(c)]) for c in ("akiec", "nv")}
    assert ages["akiec"] > ages["nv"] + 10
    assert all(5 <= item.columns["age"] <= 85 for item in flat)
    assert {item.columns["sex"] for item in flat} == {"female", "male"}
    assert {item.columns["site"] for item in flat} == {"head and neck", "trunk", "upper extremity", "lower extremity"}


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_written_files(tmp_path, image_format):
    datalist = make_phantom("skin_lesions", tmp_path, subjects=4, size=40, image_format=image_format)
    for _, item in datalist:
        with Image.open(tmp_path / item.name) as image:
            assert image.format == {"png": "PNG", "jpg": "JPEG"}[image_format]
            assert image.mode == "RGB"
            assert image.size == (40, 40)
            written = np.asarray(image, float)
        subject, number = (int(part) for part in item.name.split("/P")[1].split(".")[0].split("_"))
        drawn, _ = render(item.label, 0, subject, number, 40)
        assert np.abs(written - drawn).mean() < (1e-9 if image_format == "png" else 12)


@pytest.mark.parametrize("label", range(7))
def test_pictures(label):
    """Every class: the mask holds a lesion that differs from the skin; images of one lesion differ, as do lesions."""
    pictures = [render(label, 0, subject, image, 64) for subject, image in [(0, 0), (0, 1), (1, 0)]]
    again = render(label, 0, 0, 0, 64)
    for part in (0, 1):
        np.testing.assert_array_equal(pictures[0][part], again[part])
    assert len({picture.tobytes() for picture, _ in pictures}) == 3
    for subject in range(20):
        picture, mask = render(label, 3, subject, 0, 64)
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert 0.04 < mask.mean() < 0.75


def test_neither_colour_nor_size_gives_the_class_away():
    """Mean colours (also within the true mask) and area: above chance (1/7), far below what a network reaches."""
    labels = np.arange(840) % 7
    pictures, masks = map(np.stack, zip(*[render(int(c), 7, i, 0, 48) for i, c in enumerate(labels)], strict=True))
    unit, inside = pictures / 255.0, masks[..., None]
    colour = (unit * inside).sum((1, 2)) / inside.sum((1, 2))
    features = np.hstack([unit.mean((1, 2)), colour, masks.mean((1, 2))[:, None]])
    train, test = slice(0, 560), slice(560, None)
    centroid = make_pipeline(StandardScaler(), NearestCentroid()).fit(features[train], labels[train])
    forest = RandomForestClassifier(100, random_state=0, n_jobs=1).fit(features[train], labels[train])
    for model in (centroid, forest):
        assert 0.18 < balanced_accuracy_score(labels[test], model.predict(features[test])) < 0.45
    sizes = [masks[labels == c].mean((1, 2)) for c in range(7)]
    assert max(map(np.median, sizes)) < 1.5 * min(map(np.median, sizes))
