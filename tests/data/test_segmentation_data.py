"""Datasets of masks: what a network of organs is given, and label budgets counted in scans."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, Item, datalist_organs, segmentation_datalist, select_budget
from medssl_monai.data.prepare import prepare_dataset

LABELS = {0: "background", 7: "spleen", 1: "liver", 4: "left kidney"}


def scan(number: int, labelled: bool = True, subject: int | None = None) -> Item:
    owner = number if subject is None else subject
    return Item(f"i{number}.nii.gz", f"m{number}.nii.gz" if labelled else None, f"subject:P{owner}")


def saved(root: Path, task: str = "segmentation", labels: object = LABELS, **splits: list[Item]) -> Path:
    Datalist("abdomen", task, labels, splits or {"training": [scan(0)]}).save(root)  # type: ignore[arg-type]
    return root


def mask(path: Path, values: set[int]) -> None:
    array = np.zeros((8, 2, 2), np.uint8)
    array[: len(values), 0, 0] = sorted(values)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


class TestDatalist:
    def test_organs_stand_in_the_order_of_their_values_without_the_background(self, tmp_path: Path) -> None:
        datalist = segmentation_datalist(saved(tmp_path))
        assert list(datalist.organs.items()) == [(1, "liver"), (4, "left kidney"), (7, "spleen")]
        assert datalist.class_names == ["background", "liver", "left kidney", "spleen"]
        assert datalist_organs(tmp_path) == datalist.organs

    def test_some_organs_keep_their_values(self, tmp_path: Path) -> None:
        datalist = segmentation_datalist(saved(tmp_path), ["liver", "spleen"])
        assert datalist.labels == {0: "background", 1: "liver", 7: "spleen"}
        assert datalist_organs(tmp_path, ["spleen"]) == {7: "spleen"}
        assert Datalist("d", "multiclass", ["a", "b"], {}).organs == {}

    def test_without_a_name_for_the_background(self, tmp_path: Path) -> None:
        saved(tmp_path, labels={2: "b", 1: "a"})
        assert segmentation_datalist(tmp_path, ["b"]).labels == {2: "b"}
        assert datalist_organs(tmp_path) == {1: "a", 2: "b"}

    def test_records_name_the_mask(self, tmp_path: Path) -> None:
        datalist = segmentation_datalist(saved(tmp_path, training=[scan(3)], unlabeled=[scan(4, labelled=False)]))
        assert datalist.records("training") == [
            {
                "image": str(tmp_path / "i3.nii.gz"), "label": str(tmp_path / "m3.nii.gz"),
                "name": "i3.nii.gz", "subject": "subject:P3",
            }
        ]  # fmt: skip
        assert "label" not in datalist.records("unlabeled")[0]

    def test_one_sequence_of_a_patient(self, tmp_path: Path) -> None:
        both = Item({"t1": "P1/t1.nii.gz", "t2": "P1/t2.nii.gz"}, "P1/mask.nii.gz", "subject:P1")
        saved(tmp_path, training=[both])
        chosen = segmentation_datalist(tmp_path, plane="t2").splits["training"][0]
        assert (chosen.image, chosen.label) == ("P1/t2.nii.gz", "P1/mask.nii.gz")
        with pytest.raises(ConfigError, match=r"plane: the dataset's images are exams .*one of t1, t2"):
            segmentation_datalist(tmp_path)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (["liver", "sple"], r"labels: the dataset has no organ 'sple' .*Did you mean 'spleen'\?"),
            (
                ["spleen", "liver"],
                r"labels: organs stand once each, in the order of their mask values \(found \['spleen', 'liver'\], "
                r"expected \['liver', 'spleen'\]\)",
            ),
            (["liver", "liver"], r"organs stand once each.*expected \['liver'\]"),
            ([], r"organs stand once each.*expected some of \['liver', 'left kidney', 'spleen'\]"),
        ],
    )
    def test_labels_that_do_not_fit(self, tmp_path: Path, labels: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            segmentation_datalist(saved(tmp_path), labels)

    def test_one_organ_must_be_a_list_too(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"^labels: organs must be given as a list .found liver, expected .liver"):
            segmentation_datalist(saved(tmp_path), "liver")

    def test_other_tasks_and_names(self, tmp_path: Path) -> None:
        saved(tmp_path / "a", "multiclass", ["x", "y"], training=[Item("1.png", 0)])
        with pytest.raises(ConfigError, match=r"datalist.json: this bundle learns masks of organs .*task multiclass"):
            segmentation_datalist(tmp_path / "a")
        saved(tmp_path / "b", labels={0: "background"})
        with pytest.raises(ConfigError, match="labels name no organ, only the background"):
            segmentation_datalist(tmp_path / "b")
        saved(tmp_path / "c", labels={1: "kidney", 2: "kidney"})
        with pytest.raises(ConfigError, match=r"two mask values have the name 'kidney'"):
            segmentation_datalist(tmp_path / "c")

    def test_scans_without_any_mask(self, tmp_path: Path) -> None:
        saved(tmp_path, labels={0: "background"}, unlabeled=[scan(0, False), scan(1, False)])
        with pytest.raises(DataError, match=r"no image of this dataset has a mask.*2 images without a mask.*Outline"):
            segmentation_datalist(tmp_path)
        assert len(segmentation_datalist(tmp_path, ["liver"], need_labels=False)) == 2
        # images that wait for classes are as good for pre-training
        saved(tmp_path / "any", "multiclass", [], unlabeled=[scan(0, False)])
        assert segmentation_datalist(tmp_path / "any", need_labels=False).task == "multiclass"


class TestBudget:
    def test_one_scan_is_labelled_and_the_rest_is_unlabelled(self, tmp_path: Path) -> None:
        scans = [scan(number) for number in range(6)]
        saved(tmp_path, training=scans, unlabeled=[scan(9, labelled=False)], test=[scan(8)])
        for number in range(6):
            mask(tmp_path / f"m{number}.nii.gz", {0, 1, 4, 7} if number in (2, 5) else {0, 1})
        budget = select_budget(segmentation_datalist(tmp_path), label_budget=1)
        assert (budget.n_labels_training, budget.n_labels_validation) == (1, 0)
        assert budget.labeled[0].name in ("i2.nii.gz", "i5.nii.gz")  # the only ones that show every organ
        assert budget.classes_training == {"liver": 1, "left kidney": 1, "spleen": 1}
        assert not budget.select_on_validation
        assert not budget.validation_carved
        rest = {f"i{number}.nii.gz" for number in (0, 1, 2, 3, 4, 5, 9)} - {budget.labeled[0].name}
        assert {item.name for item in budget.unlabeled} == rest
        assert all(item.label is None for item in budget.unlabeled)
        assert [item.name for item in budget.test] == ["i8.nii.gz"]

    def test_a_budget_of_some_organs_looks_at_those_only(self, tmp_path: Path) -> None:
        saved(tmp_path, training=[scan(number) for number in range(5)])
        for number in range(5):
            mask(tmp_path / f"m{number}.nii.gz", {0, 1, 7} if number == 4 else {0, 1, 4})
        budget = select_budget(segmentation_datalist(tmp_path, ["spleen"]), label_budget=1, validation_share=0)
        assert [item.name for item in budget.labeled] == ["i4.nii.gz"]
        assert budget.classes_training == {"spleen": 1}

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.sampled_from([1, 4, 7]))), min_size=4, max_size=12),
           st.integers(0, 5), st.data())  # fmt: skip
    def test_subjects_stay_whole_and_budgets_are_nested(
        self, scans: list[tuple[int, set[int]]], seed: int, data: st.DataObject
    ) -> None:
        items = [scan(number, subject=owner) for number, (owner, _) in enumerate(scans)]
        organs = {f"m{number}.nii.gz": frozenset({0, *shown}) for number, (_, shown) in enumerate(scans)}
        shown = set().union(*organs.values()) | {0}
        labels = {value: name for value, name in LABELS.items() if value in shown}
        datalist = Datalist("d", "segmentation", labels, {"training": items})
        chosen = []
        for count in range(1, data.draw(st.integers(2, len(items))) + 1):
            budget = select_budget(datalist, label_budget=count, split_seed=seed, organs=organs)
            owners = {item.group for item in budget.labeled}
            assert owners.isdisjoint(item.group for item in [*budget.validation, *budget.unlabeled])
            assert budget.n_labels >= count
            chosen.append({item.name for item in budget.labeled})
        assert all(small <= large for small, large in itertools.pairwise(chosen))

    @pytest.mark.real
    def test_real_scans(self, real_data: Path, tmp_path: Path) -> None:
        prepare_dataset(
            "nifti", real_data / "chaos_t2spir", tmp_path / "out", link=True, split="50/0/50", modality="MR",
            image="image_{subject}.nii.gz", label="label_{subject}.nii.gz",
            labels="1=liver,2=right kidney,3=left kidney,4=spleen",
        )  # fmt: skip
        datalist = segmentation_datalist(tmp_path / "out")
        assert datalist.organs == {1: "liver", 2: "right kidney", 3: "left kidney", 4: "spleen"}
        assert {split: len(items) for split, items in datalist.splits.items()} == {"training": 5, "test": 5}
        budget = select_budget(datalist, label_budget=1)
        assert budget.classes_training == dict.fromkeys(datalist.organs.values(), 1)
        assert (budget.n_labels, len(budget.unlabeled), len(budget.test)) == (1, 4, 5)
        assert all(item.subject == f"subject:{item.name.split('_')[1].split('.')[0]}" for _, item in datalist)
