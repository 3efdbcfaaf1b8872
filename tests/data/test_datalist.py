"""The datalist: what is written is read again, every problem is named, records are what loaders need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.core import DataError
from medssl_monai.data import Datalist, Item, load_datalist
from medssl_monai.data.datalist import datalist_problems, misspelt_key, parse_datalist

VALID = {
    "name": "set", "modality": "MR", "task": "multiclass", "labels": ["a", "b", "c"], "license": "CC0",
    "training": [{"image": "1.png", "label": 2, "subject": "subject:P1"}],
}  # fmt: skip


def changed(**parts: object) -> dict[str, object]:
    return {**VALID, **parts}


def item(**parts: object) -> dict[str, object]:
    return changed(training=[{"image": "1.png", "label": 0, **parts}])


def test_round_trip_of_a_multilabel_exam_with_planes_columns_and_an_unlabelled_item(tmp_path: Path) -> None:
    exam = Item({"sagittal": "s/1.nii.gz", "axial": "a/1.nii.gz"}, (1, 0, 1), "subject:P1", {"age": 54, "sex": "F"})
    bare = Item("more/17.nii.gz")
    datalist = Datalist(
        "knees", "multilabel", ["abnormal", "acl", "meniscus"], {"training": [exam], "unlabeled": [bare]},
        modality="MR", license="CC-BY-4.0", description="two items",
    )  # fmt: skip
    path = datalist.save(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "datalist.json"

    content = json.loads(path.read_text())
    assert content == {
        "name": "knees", "modality": "MR", "task": "multilabel", "labels": ["abnormal", "acl", "meniscus"],
        "license": "CC-BY-4.0", "description": "two items",
        "training": [{"image": {"sagittal": "s/1.nii.gz", "axial": "a/1.nii.gz"}, "label": [1, 0, 1],
                      "subject": "subject:P1", "age": 54, "sex": "F"}],
        "unlabeled": [{"image": "more/17.nii.gz"}],
    }  # fmt: skip

    again = load_datalist(path.parent)
    assert again.splits == datalist.splits
    assert again.root == path.parent
    assert (again.to_json(), len(again)) == (datalist.to_json(), 2)
    assert load_datalist(path).splits == datalist.splits  # the file itself is accepted too
    assert [(split, entry.name) for split, entry in again] == [("training", "1.nii.gz"), ("unlabeled", bare.name)]


def test_mask_labels_keep_their_gaps_and_an_empty_split_is_left_out(tmp_path: Path) -> None:
    splits = {"training": [Item("1.nii.gz", "1_mask.nii.gz")], "test": []}
    datalist = Datalist("organs", "segmentation", {0: "background", 7: "spleen", 3: "liver"}, splits)
    path = datalist.save(tmp_path)
    assert "test" not in json.loads(path.read_text())
    again = load_datalist(tmp_path)
    assert again.labels == {0: "background", 3: "liver", 7: "spleen"}
    assert again.class_names == ["background", "liver", "spleen"]
    assert again.records("test") == []
    record = again.records("training")[0]
    assert record["label"] == str(tmp_path / "1_mask.nii.gz")
    assert again.records("training", absolute=False)[0]["label"] == "1_mask.nii.gz"


@given(
    st.lists(
        st.tuples(
            st.text(min_size=1), st.integers(0, 2), st.none() | st.text(), st.dictionaries(st.sampled_from("xyz"),
            st.none() | st.integers() | st.text()),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_any_item_survives_json(rows: list[tuple[str, int, str | None, dict[str, object]]]) -> None:
    items = [
        Item(name, label, None if subject is None else f"subject:{subject}", columns)
        for name, label, subject, columns in rows
    ]
    datalist = Datalist("any", "multiclass", ["a", "b", "c"], {"training": items})
    content = json.loads(json.dumps(datalist.to_json()))
    assert datalist_problems(content) == []
    assert parse_datalist(content).splits == datalist.splits


def test_records_carry_what_a_batch_can_hold(tmp_path: Path) -> None:
    known = Item("1.png", 1, "subject:P1", {"age": 40})
    unknown = Item("2.png", None, None, {"sex": None})
    datalist = Datalist("d", "multiclass", ["a", "b"], {"training": [known, unknown]}, root=tmp_path)
    # an age that is not known for one image must not keep a loader from forming a batch: columns stay with the items
    assert datalist.records("training") == [
        {"image": str(tmp_path / "1.png"), "name": "1.png", "subject": "subject:P1", "label": 1},
        {"image": str(tmp_path / "2.png"), "name": "2.png", "subject": "2.png"},
    ]
    planes = Item({"axial": "a.nii", "coronal": "c.nii"}, 0)
    assert datalist.record(planes)["image"] == {"axial": str(tmp_path / "a.nii"), "coronal": str(tmp_path / "c.nii")}
    assert (planes.paths, planes.name, planes.group) == (("a.nii", "c.nii"), "a.nii", "a.nii")


def test_classes_may_be_unknown_where_nothing_has_a_label() -> None:
    content = {"name": "scans", "task": "multiclass", "labels": [], "unlabeled": [{"image": "1.png"}]}
    assert datalist_problems(content) == []
    assert not parse_datalist(content).labelled
    assert parse_datalist(VALID).labelled
    one = {**content, "test": [{"image": "2.png", "label": 0}]}
    assert any(text.startswith("labels must be a list of class names (empty only where no item has a label)")
               for text in datalist_problems(one))  # fmt: skip
    assert datalist_problems({**content, "task": "segmentation"}) == [
        "labels must map mask values to names for a segmentation task"
    ]


def test_valid_content_has_no_problem() -> None:
    assert datalist_problems(VALID) == []
    assert datalist_problems(item(age=3, agent="x", images_per_second=2)) == []
    assert datalist_problems(changed(task="binary", labels=["tear"])) == ["training[0]: label 2 is out of range: "
                                                                          "labels names classes 0 to 1"]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([1], "the file must hold a JSON object, found list"),
        (changed(trainig=[]), "unknown key 'trainig'. Did you mean 'training'?"),
        ({k: v for k, v in VALID.items() if k != "name"}, "key 'name' is missing"),
        ({k: v for k, v in VALID.items() if k != "task"}, "key 'task' is missing"),
        ({k: v for k, v in VALID.items() if k != "labels"}, "key 'labels' is missing"),
        (changed(name=5), "name must be text, found int"),
        (changed(license=None), "license must be text, found NoneType"),
        (changed(task="multi-class"), "task 'multi-class' is unknown. Did you mean 'multiclass'?"),
        (changed(task=["multiclass"]), "task ['multiclass'] is unknown."),
        (changed(labels={"0": "a"}), "labels must be a list of class names"),
        (changed(labels=[]), "labels must be a list of class names"),
        (changed(labels=["a", 2, "c"]), "labels must be a list of class names"),
        (changed(labels=["a", "b", "a"]), "labels: class name 'a' stands more than once"),
        (changed(task="binary"), "labels: a binary task has one or two class names, found 3"),
        (changed(task="segmentation", labels=["a"]), "labels must map mask values to names for a segmentation task"),
        (changed(task="segmentation", labels={"-1": "a"}), "labels: mask value '-1' is not a non-negative integer"),
        (changed(task="segmentation", labels={"1": 5}), "labels: the name of mask value '1' must be text, found int"),
        ({k: v for k, v in VALID.items() if k != "training"},
         "no split: expected at least one of training, validation, test, unlabeled"),
        (changed(training={"image": "1.png"}), "training must be a list of items, found dict"),
        (changed(test=[]), "test is empty; leave an absent split out"),
        (changed(training=["1.png"]), "training[0]: must be an object, found str"),
        (changed(training=[{"label": 0}]), "training[0]: key 'image' is missing"),
        (changed(training=[{"img": "1.png", "label": 0}]), "training[0]: key 'image' is missing (is 'img' meant?)"),
        (changed(training=[{"image": "", "label": 0}]), "training[0]: image must be a path or a mapping of names"),
        (changed(training=[{"image": {"axial": 3}, "label": 0}]), "training[0]: image must be a path or a mapping"),
        (item(subject="P1"), "training[0]: subject 'P1' lacks the prefix 'subject:'"),
        (item(subject=7), "training[0]: subject 7 lacks the prefix 'subject:'"),
        (item(lable=1), "training[0]: key 'lable' looks misspelt. Did you mean 'label'?"),
        (item(subjct="x"), "training[0]: key 'subjct' looks misspelt. Did you mean 'subject'?"),
        (item(label=3), "training[0]: label 3 is out of range: labels names classes 0 to 2"),
        (item(label=-1), "training[0]: label -1 is out of range: labels names classes 0 to 2"),
        (item(label=True), "training[0]: label must be a class index, found True"),
        (item(label="a"), "training[0]: label must be a class index, found 'a'"),
        (item(label=None), "training[0]: label must be a class index, found None"),
        (changed(training=[{"image": "1.png"}]),
         "training[0]: a training item needs a label; items without belong to 'unlabeled'"),
        (changed(task="multilabel", training=[{"image": "1.png", "label": [0, 2, 1]}]),
         "training[0]: label must be a list of 0 and 1, found [0, 2, 1]"),
        (changed(task="multilabel", training=[{"image": "1.png", "label": [0, 1]}]),
         "training[0]: label has 2 entries, labels names 3 classes"),
        (changed(task="segmentation", labels={"1": "a"}, training=[{"image": "1.nii", "label": 1}]),
         "training[0]: label must be a mask's path, found 1"),
    ],
)  # fmt: skip
def test_problem_is_named(content: object, problem: str) -> None:
    assert any(line.startswith(problem) for line in datalist_problems(content)), datalist_problems(content)


def test_all_problems_at_once(tmp_path: Path) -> None:
    content = changed(
        tests=[],
        labels=["a", "a"],
        training=[{"image": "1.png", "label": 9, "subject": "P1"}, {"imag": "2.png"}],
    )
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        load_datalist(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'datalist.json'}: 7 problems in the datalist:"
    assert [line.strip() for line in lines[1:]] == [
        "unknown key 'tests'. Did you mean 'test'?",
        "labels: class name 'a' stands more than once",
        "training[0]: subject 'P1' lacks the prefix 'subject:'",
        "training[0]: label 9 is out of range: labels names classes 0 to 1",
        "training[1]: key 'image' is missing (is 'imag' meant?)",
        "training[1]: key 'imag' looks misspelt. Did you mean 'image'?",
        "training[1]: a training item needs a label; items without belong to 'unlabeled'.",
    ]


def test_one_problem_is_counted_as_one(tmp_path: Path) -> None:
    (tmp_path / "datalist.json").write_text(json.dumps(item(label=9)))
    with pytest.raises(DataError, match=r"1 problem in the datalist:"):
        load_datalist(tmp_path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no datalist.json here. Make one with `medssl prepare folder SOURCE OUT`"):
        load_datalist(tmp_path)
    (tmp_path / "datalist.json").write_text('{"name": }')
    with pytest.raises(DataError, match=r"datalist.json: not valid JSON: .* at line 1, column 10"):
        load_datalist(tmp_path)


def test_a_column_of_its_own_is_no_misspelling() -> None:
    found = {key: misspelt_key(key) for key in ("age", "site", "image", "imge", "Label", "subjects", "stage")}
    assert found == {
        "age": None, "site": None, "image": None, "imge": "image", "Label": "label", "subjects": "subject",
        "stage": None,
    }  # fmt: skip
