"""Data dictionaries of the stages, and the errors of a dataset that does not fit a stage."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_images import image_dataset, write_png

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import (
    Datalist,
    Item,
    classification_datalist,
    datalist_labels,
    evaluation_records,
    exam_items,
    inference_records,
)


def saved(root: Path, task: str, labels: list[str], label: object = 0) -> Path:
    Datalist("d", task, labels, {"training": [Item("1.png", label)]}).save(root)  # type: ignore[arg-type]
    return root


def test_classification_datalist(tmp_path: Path) -> None:
    image_dataset(tmp_path, training=2)
    assert classification_datalist(tmp_path, ["a", "b"]).class_names == ["a", "b"]


def test_classes_must_be_those_of_the_configuration_in_their_order(tmp_path: Path) -> None:
    saved(tmp_path, "multiclass", ["a", "b"])
    with pytest.raises(ConfigError) as caught:
        classification_datalist(tmp_path, ["b", "a"])
    assert str(caught.value) == (
        "labels: the dataset has other classes than the configuration (found ['b', 'a'], expected ['a', 'b']). "
        "Give labels=\"['a', 'b']\" (after `medssl run`; --labels with a space after `monai.bundle run`)."
    )


def test_the_labels_of_a_dataset(tmp_path: Path) -> None:
    assert datalist_labels(saved(tmp_path, "multilabel", ["b", "a"], (1, 0))) == ["b", "a"]
    with pytest.raises(DataError, match=r"datalist.json"):
        datalist_labels(tmp_path / "none")
    masks = tmp_path / "masks"
    Datalist("d", "segmentation", {0: "background", 1: "liver"}, {"training": [Item("1.png", "2.png")]}).save(masks)
    with pytest.raises(ConfigError, match=r"learns labels of an image .*task segmentation"):
        datalist_labels(masks)


@pytest.fixture
def unlabelled(tmp_path: Path) -> Path:
    """A dataset in which nothing has a label and no class is named."""
    items = [Item({"axial": f"{k}/axial.npy", "coronal": f"{k}/coronal.npy"}) for k in range(3)]
    Datalist("d", "multiclass", [], {"unlabeled": items}).save(tmp_path)
    return tmp_path


def test_a_dataset_without_labels_where_none_are_needed(unlabelled: Path) -> None:
    datalist = classification_datalist(unlabelled, ["acl"], None, "axial", need_labels=False)
    assert [(item.image, item.name) for _, item in datalist] == [(f"{k}/axial.npy", str(k)) for k in range(3)]
    assert datalist_labels(unlabelled, need_labels=False) == []


def test_a_dataset_without_labels_where_labels_are_needed(unlabelled: Path) -> None:
    message = (
        r"datalist\.json: no image of this dataset has a label, and this stage needs labels \(found 3 images without a "
        r"label\)\. Label some of them and prepare .* Without any label the pretrain stage of the contrastive bundles"
    )
    for call in (
        lambda: classification_datalist(unlabelled, ["acl"], None, "axial"),
        lambda: datalist_labels(unlabelled),
        lambda: exam_items(unlabelled, "validation"),
    ):
        with pytest.raises(DataError, match=message):
            call()


def test_a_dataset_with_labels_is_read_alike_whether_they_are_needed(tmp_path: Path) -> None:
    saved(tmp_path, "multiclass", ["a", "b"])
    assert classification_datalist(tmp_path, ["a", "b"], need_labels=False).class_names == ["a", "b"]
    with pytest.raises(ConfigError, match="other classes than the configuration"):
        classification_datalist(tmp_path, ["b", "a"], need_labels=False)


def test_a_dataset_with_a_validation_but_no_test_part(tmp_path: Path) -> None:
    items = {"training": [Item("1.png", 0)], "validation": [Item("2.png", 1)]}
    datalist = Datalist("d", "binary", ["a", "b"], items)  # type: ignore[arg-type]
    datalist.save(tmp_path)
    message = (
        r"no labelled test image\. Where .*--paper-protocol.* only the validation split can .*split=validation, wh"
    )
    with pytest.raises(DataError, match=message):
        evaluation_records(datalist)
    with pytest.raises(DataError, match=message):
        exam_items(tmp_path)
    assert [item.name for item in exam_items(tmp_path, "validation")] == ["1.png", "2.png"]
    with pytest.raises(ConfigError, match=r"unknown split 'validaton'.*Did you mean 'validation'"):
        exam_items(tmp_path, "validaton")


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    saved(tmp_path, "multilabel", ["a", "b"], (1, 0))
    with pytest.raises(ConfigError, match=r"datalist.json: this bundle learns one class an image .*task multilabel"):
        classification_datalist(tmp_path, ["a", "b"])


def test_a_binary_task_of_one_name_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "binary", ["tear"], 1)
    with pytest.raises(ConfigError, match=r"two or more classes \(found labels \['tear'\]\). Name both classes"):
        classification_datalist(tmp_path, ["tear"])


def test_evaluation_takes_labelled_test_items_only() -> None:
    test = [Item("1.png", 0), Item("2.png"), Item("3.png", 1)]
    datalist = Datalist("d", "multiclass", ["a", "b"], {"training": [Item("0.png", 1)], "test": test}, root=Path("r"))
    assert [record["name"] for record in evaluation_records(datalist)] == ["1.png", "3.png"]
    del datalist.splits["test"]
    with pytest.raises(DataError, match=r"r/datalist.json: no labelled test image. Evaluation needs a `test` split"):
        evaluation_records(datalist)


def test_inference_on_a_dataset_by_split(tmp_path: Path) -> None:
    image_dataset(tmp_path, training=2, test=1, unlabeled=1)
    everything = inference_records(tmp_path)
    assert [record["name"] for record in everything] == [
        "training/00.png", "training/01.png", "test/00.png", "unlabeled/00.png",
    ]  # fmt: skip
    assert all(set(record) == {"image", "name"} for record in everything)
    assert inference_records(tmp_path, "test") == [{"image": str(tmp_path / "test/00.png"), "name": "test/00.png"}]
    with pytest.raises(DataError, match=r"no image to predict here \(found split 'validation'\)"):
        inference_records(tmp_path, "validation")
    with pytest.raises(ConfigError, match=r"inference_split: unknown split 'tests'. Did you mean 'test'\?"):
        inference_records(tmp_path, "tests")


def test_inference_on_a_folder_and_on_one_image(tmp_path: Path) -> None:
    write_png(tmp_path / "deep" / "er" / "2.png")
    write_png(tmp_path / "1.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert sorted(record["name"] for record in inference_records(tmp_path)) == ["1.png", "deep/er/2.png"]
    assert inference_records(tmp_path / "1.png") == [{"image": str(tmp_path / "1.png"), "name": "1.png"}]


def test_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in this folder"):
        inference_records(tmp_path)
    with pytest.raises(DataError, match=r"gone: no such file or folder. Name the images' folder as dataset_dir"):
        inference_records(tmp_path / "gone")
