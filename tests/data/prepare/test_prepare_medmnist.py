"""Layout ``medmnist``: npz files, without ever unpickling."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.prepare.medmnist_names import class_names, license_of

pytestmark = pytest.mark.filterwarnings("ignore:no subject")
COUNTS = {"train": 12, "val": 4, "test": 6}


def arrays(shape=(5, 4), classes=2, width=1, dtype=np.uint8):
    random = np.random.default_rng(0)
    content = {}
    for part, count in COUNTS.items():
        content[f"{part}_images"] = random.integers(0, 255, (count, *shape)).astype(dtype)
        labels = np.arange(count)[:, None] % classes if width == 1 else random.integers(0, 2, (count, width))
        content[f"{part}_labels"] = labels.astype(np.uint8)
    return content


def prepare(folder, content, name="toy.npz", **options):
    np.savez_compressed(folder / name, **content)
    return prepare_dataset("medmnist", folder / name, folder / "out", **options)


class TestReading:
    @pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
    def test_pictures_become_png(self, tmp_path, shape):
        content = arrays(shape)
        datalist = prepare(tmp_path, content)
        parts = {"training": "train", "validation": "val", "test": "test"}
        for split, part in parts.items():
            assert len(datalist.splits[split]) == COUNTS[part]
            for index, item in enumerate(datalist.splits[split]):
                assert item.name == f"{part}/{index:0{len(str(COUNTS[part] - 1))}d}.png"
                with Image.open(tmp_path / "out" / item.name) as image:
                    np.testing.assert_array_equal(np.asarray(image), content[f"{part}_images"][index])
                assert item.label == content[f"{part}_labels"][index, 0]
        assert (datalist.task, datalist.labels, datalist.license) == ("binary", ["0", "1"], "unknown")

    def test_volumes_become_npy(self, tmp_path):
        content = arrays((5, 4, 6), dtype=np.float32)
        datalist = prepare(tmp_path, content)
        for index, item in enumerate(datalist.splits["test"]):
            np.testing.assert_array_equal(
                np.load(tmp_path / "out" / item.name, allow_pickle=False), content["test_images"][index]
            )

    def test_tasks_follow_from_the_labels(self, tmp_path):
        assert prepare(tmp_path, arrays(classes=3)).task == "multiclass"
        content = arrays(width=4)
        datalist = prepare(tmp_path, content, name="many.npz", overwrite=True, labels="a,b,c,d")
        assert (datalist.task, datalist.labels) == ("multilabel", ["a", "b", "c", "d"])
        assert datalist.splits["validation"][2].label == tuple(content["val_labels"][2])

    def test_a_binary_set_may_be_trained_as_multiclass(self, tmp_path):
        assert prepare(tmp_path, arrays(), task="multiclass").task == "multiclass"

    def test_known_sets_have_names_and_licences(self, tmp_path):
        datalist = prepare(tmp_path, arrays(), name="breastmnist_64.npz")
        assert (datalist.labels, datalist.license) == (["malignant", "normal or benign"], "CC BY 4.0")
        assert len(class_names("chestmnist")) == 14
        assert class_names("unheard_of") is None
        assert license_of("dermamnist_224") == "CC BY-NC 4.0"

    def test_a_second_call_writes_nothing(self, tmp_path, snapshot):
        prepare(tmp_path, arrays())
        before = snapshot(tmp_path / "out")
        prepare_dataset("medmnist", tmp_path / "toy.npz", tmp_path / "out")
        assert snapshot(tmp_path / "out") == before

    def test_source_may_be_the_folder(self, tmp_path):
        (tmp_path / "in").mkdir()
        np.savez(tmp_path / "in/toy.npz", **arrays())
        assert len(prepare_dataset("medmnist", tmp_path / "in", tmp_path / "out")) == 22
        np.savez(tmp_path / "in/toy2.npz", **arrays())
        with pytest.raises(DataError, match=r"2 npz files in this folder \(found toy.npz, toy2.npz\)\. Give the npz"):
            prepare_dataset("medmnist", tmp_path / "in", tmp_path / "out")

    def test_it_says_that_patients_are_not_published(self, tmp_path):
        with pytest.warns(UserWarning, match=r"MedMNIST does not publish which images are of one patient"):
            prepare(tmp_path, arrays())

    def test_missing_validation_is_carved_from_training(self, tmp_path):
        content = {key: value for key, value in arrays().items() if not key.startswith("val")}
        datalist = prepare(tmp_path, content, split="60/20/20")
        assert {split: len(part) for split, part in datalist.splits.items()} == {
            "training": 9, "validation": 3, "test": 6,
        }  # fmt: skip
        assert all(item.name.startswith("train/") for item in datalist.splits["validation"])


class Trap:
    def __reduce__(self):
        return (open, ("unpickled", "w"))


class TestFaults:
    @pytest.mark.parametrize("key", ["train_images", "test_labels"])
    def test_pickles_are_never_loaded(self, tmp_path, monkeypatch, key):
        monkeypatch.chdir(tmp_path)
        content = arrays()
        content[key] = np.array([Trap()] * len(content[key]), dtype=object)
        with pytest.raises(DataError, match=rf"array '{key}' holds pickled Python objects, which are never loaded"):
            prepare(tmp_path, content)
        assert not (tmp_path / "unpickled").exists()
        assert not (tmp_path / "out").exists()

    def test_not_an_npz_file(self, tmp_path):
        (tmp_path / "x.npz").write_bytes(b"x")
        with pytest.raises(DataError, match=r"x.npz: not an npz file"):
            prepare_dataset("medmnist", tmp_path / "x.npz", tmp_path / "out")

    def test_damaged_content(self, tmp_path):
        np.savez(tmp_path / "toy.npz", **arrays())
        content = bytearray((tmp_path / "toy.npz").read_bytes())
        at = content.find(b"\x93NUMPY", content.find(b"train_labels"))
        content[at + 130] ^= 0xFF
        (tmp_path / "toy.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"array 'train_labels' cannot be read \(Bad CRC-32"):
            prepare_dataset("medmnist", tmp_path / "toy.npz", tmp_path / "out")

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"test_labels": None}, r"array test_labels is missing \(found train_images, .*expected train_images"),
            ({"train_images": None}, r"array train_images is missing"),
            ({"val_labels": np.zeros((3, 1))}, r"val_labels does not fit val_images \(found shape \(3, 1\), expected"),
            ({"val_labels": np.full((4, 1), 0.5)}, "val_labels must hold non-negative integers"),
            ({"val_labels": np.full((4, 1), -1)}, "val_labels must hold non-negative integers"),
            ({"val_labels": np.zeros((4, 2), int)}, r"label vectors of different length \(found \[1, 2\]\)"),
            ({"val_images": np.zeros((4, 5, 5))}, r"val_images is neither 2-D images nor volumes \(found shape \(4, 5"),
            ({"val_images": np.zeros((4, 5), np.uint8)}, "val_images is neither 2-D images nor volumes"),
        ],
    )  # fmt: skip
    def test_faulty_arrays(self, tmp_path, change, text):
        content = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
        with pytest.raises(DataError, match=text):
            prepare(tmp_path, content)

    def test_one_class(self, tmp_path):
        with pytest.raises(DataError, match=r"at least 2 classes are needed \(found only label 0\)"):
            prepare(tmp_path, arrays(classes=1))

    def test_vectors_of_other_numbers(self, tmp_path):
        content = arrays(width=3)
        content["train_labels"][0, 0] = 2
        with pytest.raises(DataError, match=r"label vectors must hold 0 and 1 \(found the value 2\)"):
            prepare(tmp_path, content)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"labels": "a,b,c", "task": None}, None),
            ({"labels": "a"}, r"--labels: 1 names for 2 classes \(found a\)"),
            (
                {"task": "multilabel"},
                r"--task: the labels in the file are binary, not multilabel \(found label shape \(N, 1\), 2",
            ),
            ({"task": "regression"}, "--task: expected one of binary, multiclass, multilabel"),
        ],
    )
    def test_faulty_options(self, tmp_path, options, text):
        if text is None:  # a third class may be absent from a small file
            assert prepare(tmp_path, arrays(), **options).task == "multiclass"
            return
        with pytest.raises(ConfigError, match=text):
            prepare(tmp_path, arrays(), **options)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "labels", "counts"),
    [
        ("breastmnist", ["malignant", "normal or benign"], [[147, 399], [21, 57], [42, 114]]),
        ("retinamnist", ["0", "1", "2", "3", "4"], [[486, 128, 206, 194, 66], None, None]),
    ],
)
def test_real_files(real_data, tmp_path, name, labels, counts):
    datalist = prepare_dataset("medmnist", real_data / "medmnist" / f"{name}.npz", tmp_path / "out")
    assert datalist.labels == labels
    with np.load(real_data / "medmnist" / f"{name}.npz", allow_pickle=False) as archive:
        for (split, part), expected in zip(
            {"training": "train", "validation": "val", "test": "test"}.items(), counts, strict=True
        ):
            found = [item.label for item in datalist.splits[split]]
            assert found == archive[f"{part}_labels"][:, 0].tolist()
            assert expected is None or np.bincount(found).tolist() == expected
            with Image.open(tmp_path / "out" / datalist.splits[split][-1].name) as image:
                np.testing.assert_array_equal(np.asarray(image), archive[f"{part}_images"][-1])
