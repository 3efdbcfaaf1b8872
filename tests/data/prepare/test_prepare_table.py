"""Layout ``table``: one row an image, every fault with its row number."""

from __future__ import annotations

import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.prepare.tabular import column_values, find_table, plain, read_table

HEADER = "file,patient,finding,part,age,sex"
OPTIONS = {"image_column": "file", "label_column": "finding", "subject_column": "patient"}


@pytest.fixture
def study(tmp_path, draw):
    """SOURCE/list.csv with 20 images of 10 patients; images/0.png to images/19.png."""
    rows = [
        f"images/{i}.png,{i // 2:03d},{('sick', 'healthy')[i // 2 % 2]},{'train' if i < 14 else 'test'},{50 + i},"
        f"{'MF'[i % 2]}"
        for i in range(20)
    ]
    for i in range(20):
        draw(tmp_path / "in" / "images" / f"{i}.png")
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows, header=HEADER, name="list.csv"):
    (folder / "in" / name).write_text("\n".join([header, *rows]) + "\n")


def prepare(folder, source="in/list.csv", **options):
    return prepare_dataset("table", folder / source, folder / "out", **{**OPTIONS, **options})


def items(datalist):
    return {item.name: item for _, item in datalist}


class TestReading:
    def test_labels_subjects_and_columns(self, study):
        datalist = prepare(study, columns="age,sex")
        assert (datalist.name, datalist.task, datalist.labels) == ("list", "binary", ["healthy", "sick"])
        for i in range(20):
            item = items(datalist)[f"images/{i}.png"]
            assert item.label == int(i % 4 < 2)
            assert item.subject == f"subject:{i // 2:03d}"
            assert dict(item.columns) == {"age": 50 + i, "sex": "MF"[i % 2]}
        assert (study / "out/images/3.png").read_bytes() == (study / "in/images/3.png").read_bytes()

    def test_source_may_be_the_folder(self, study):
        assert prepare(study, source="in").name == "in"

    def test_the_publishers_split_is_kept(self, study):
        splits = prepare(study, split_column="part").splits
        assert {item.name for item in splits["test"]} == {f"images/{i}.png" for i in range(14, 20)}
        # One of the four sick and one of the three healthy training patients, with both images each.
        assert sorted(item.label for item in splits["validation"]) == [0, 0, 1, 1]
        assert len({item.subject for item in splits["validation"]}) == 2
        assert len(splits["training"]) == 10

    @pytest.mark.parametrize(("name", "sign"), [("list.tsv", "\t"), ("list.csv", ";"), ("list.csv", "|")])
    def test_other_delimiters(self, study, name, sign):
        text = (study / "in/list.csv").read_text()
        (study / "in/list.csv").unlink()
        (study / "in" / name).write_text("\ufeff" + text.replace(",", sign))
        assert len(prepare(study, source=f"in/{name}")) == 20

    def test_ids_without_suffix_and_another_image_folder(self, study):
        text = (study / "in/list.csv").read_text().replace("images/", "").replace(".png", "")
        (study / "lists").mkdir()
        (study / "lists/l.csv").write_text(text)
        datalist = prepare(study, source="lists/l.csv", image_root="../in/images", image_suffix=".png")
        assert items(datalist)["7.png"].subject == "subject:003"
        assert (study / "out/7.png").is_file()

    def test_empty_labels_join_the_unlabelled(self, study):
        write(study, [f"images/{i}.png,{i},{'' if i > 11 else i % 2},,," for i in range(20)])
        splits = prepare(study, unlabeled=True).splits
        assert {item.name for item in splits["unlabeled"]} == {f"images/{i}.png" for i in range(12, 20)}
        assert all(item.label is None for item in splits["unlabeled"])

    def test_a_split_column_may_say_unlabelled(self, study):
        write(study, [f"images/{i}.png,{i},{i % 2},{'unlabeled' if i > 11 else 'train'},," for i in range(20)])
        splits = prepare(study, split_column="part").splits
        assert [item.label for item in splits["unlabeled"]] == [None] * 8

    def test_multilabel(self, study):
        header = "file,patient,acl,meniscus"
        write(study, [f"images/{i}.png,{i},{i % 2}.0,{int(i > 9)}" for i in range(20)], header)
        datalist = prepare(study, label_column="acl,meniscus")
        assert (datalist.task, datalist.labels) == ("multilabel", ["acl", "meniscus"])
        assert items(datalist)["images/13.png"].label == (1, 1)
        renamed = prepare(study, label_column=["acl", "meniscus"], classes="ACL tear,tear", overwrite=True)
        assert renamed.labels == ["ACL tear", "tear"]

    def test_numbers_are_sorted_as_numbers_and_may_be_named(self, study):
        write(study, [f"images/{i}.png,{i},{[2, 10, 0][i % 3]}.0,,," for i in range(20)])
        datalist = prepare(study)
        assert (datalist.task, datalist.labels) == ("multiclass", ["0", "2", "10"])
        assert items(datalist)["images/1.png"].label == 2
        write(study, [f"images/{i}.png,{i},{i % 3},,," for i in range(20)])
        named = prepare(study, classes="mild,severe,none", overwrite=True)
        assert named.labels == ["mild", "severe", "none"]
        assert items(named)["images/5.png"].label == 2

    def test_subjects_from_file_names(self, study):
        datalist = prepare(study, subject_column=None, subject_regex=r"^(\d)")
        assert items(datalist)["images/13.png"].subject == "subject:1"

    def test_a_dicom_series_folder_is_an_image(self, study):
        for i in range(9):
            (study / f"in/s{i}").mkdir()
            for name in ("IM1", "IM2"):
                (study / f"in/s{i}" / name).write_bytes(b"\0" * 128 + b"DICM" + bytes([i]))
        write(study, [f"s{i},{i},{i % 2},,," for i in range(9)])
        prepare(study)
        assert (study / "out/s4/IM2").read_bytes() == (study / "in/s4/IM2").read_bytes()


class TestRowProblems:
    def test_all_are_listed_with_their_rows(self, study, draw):
        draw(study / "secret.png")
        (study / "in/link.png").symlink_to(study / "secret.png")
        (study / "in/notes.txt").write_text("x")
        write(
            study,
            [
                "images/0.png,1,sick,train,,",
                "../secret.png,1,sick,train,,",
                "/etc/passwd,1,sick,train,,",
                "link.png,1,sick,train,,",
                "",
                "images/none.png,1,healthy,train,,",
                "images/1.png,,sik,tset,,",
                "images/0.png,2,sick,train,,",
                "notes.txt,2,,train,,",
                ",2,sick,train,,",
            ],
        )
        with pytest.raises(DataError) as caught:
            prepare(study, split_column="part", classes="healthy,sick")
        lines = [line.strip() for line in str(caught.value).splitlines()]
        assert lines[0].endswith("list.csv: 11 problems:")
        assert lines[1:-1] == [
            "row 3: image '../secret.png' leads out of the image folder by '..'; it is not followed",
            "row 4: image '/etc/passwd' is an absolute path; only paths relative to the image folder are followed",
            "row 5: image 'link.png' is a symbolic link that leads out of the source; it is not followed",
            "row 7: image 'images/none.png' does not exist",
            "row 8: split 'tset' is not known. Did you mean 'test'?",
            "row 8: label 'sik' is not a class. Did you mean 'sick'?",
            "row 8: column 'patient' (the subject) is empty",
            "row 9: image 'images/0.png' stands in row 2 already",
            "row 10: image 'notes.txt' is not an image by its suffix; for ids without suffix give --image-suffix",
            "row 10: the label is empty; with --unlabeled such rows join the unlabelled images",
            "row 11: column 'file' is empty",
        ]
        assert lines[-1] == "Nothing was written."
        assert not (study / "out").exists()

    def test_unlabelled_test_images_are_not_moved_into_pre_training(self, study):
        write(
            study, [f"images/{i}.png,{i},{'' if i == 5 else i % 2},{'test' if i > 4 else 'train'},," for i in range(9)]
        )
        with pytest.raises(DataError, match=r"row 7: the label is empty, but the row is in the test part"):
            prepare(study, split_column="part", unlabeled=True)

    def test_multilabel_values(self, study):
        write(study, ["images/0.png,1,1,-1", "images/1.png,1,1,"], "file,patient,acl,meniscus")
        with pytest.raises(
            DataError, match=r"row 2: labels of a multilabel row must be 0 or 1, found '-1'\n.*row 3: .*found ''"
        ):
            prepare(study, label_column="acl,meniscus")

    def test_ragged_rows(self, study):
        write(study, ["images/0.png,1,sick,train,,,extra", "images/1.png"])
        with pytest.raises(DataError, match=r"2 problems:\n  row 2: 7 cells, the header has 6\n  row 3: 1 cells"):
            prepare(study)

    def test_subjects_that_cannot_be_read(self, study):
        with pytest.raises(DataError, match=r"reads no subject from 10 file names: images/0.png, .* and 5 more"):
            prepare(study, subject_column=None, subject_regex=r"^(1\d)")


class TestFaults:
    @pytest.mark.parametrize(
        ("option", "value", "text"),
        [
            ("image_column", "flie", r"--image-column: list.csv has no column 'flie'\. Did you mean 'file'\?"),
            ("label_column", "findings", r"--label-column: .*'findings'\. Did you mean 'finding'\?"),
            ("subject_column", "pateint", r"--subject-column: .*Did you mean 'patient'\?"),
            ("split_column", "parts", r"--split-column: .*Did you mean 'part'\?"),
            ("columns", "age,gender", r"--columns: list.csv has no column 'gender'"),
            ("classes", "sick", r"--classes: at least 2 classes are needed \(found sick\)"),
            (
                "image_root",
                "img",
                r"--image-root: the image folder does not exist \(found .*It is relative to the table's",
            ),
            ("subject_regex", "(x)", "--subject-regex: the subject is told twice: by a column and by"),
        ],
    )
    def test_faulty_options(self, study, option, value, text):
        with pytest.raises(ConfigError, match=text):
            prepare(study, **{option: value})

    def test_names_that_do_not_fit_the_label_columns(self, study):
        with pytest.raises(ConfigError, match=r"--classes: 3 names for 2 label columns"):
            prepare(study, label_column="finding,part", classes="a,b,c")

    @pytest.mark.parametrize("name", ["label", "subjects"])
    def test_columns_that_the_datalist_would_misread(self, study, name):
        write(study, ["images/0.png,1,sick,x"], f"file,patient,finding,{name}")
        with pytest.raises(ConfigError, match=rf"--columns: a subgroup column cannot be called '{name}'"):
            prepare(study, columns=name)

    def test_one_class(self, study):
        write(study, ["images/0.png,1,sick,,,"])
        with pytest.raises(DataError, match=r"at least 2 classes are needed, column 'finding' holds 1 \(found sick\)"):
            prepare(study)

    def test_which_table(self, study):
        (study / "in/other.tsv").write_text("a\tb\n")
        with pytest.raises(
            DataError, match=r"2 tables \(.csv, .tsv\) in this folder \(found list.csv, other.tsv\)\. Give the table"
        ):
            prepare(study, source="in")
        with pytest.raises(DataError, match=r"no tables \(.csv, .tsv\) in this folder\. Give"):
            prepare(study, source="in/images")

    def test_a_table_that_is_a_link_out(self, study):
        (study / "in/list.csv").rename(study / "list.csv")
        (study / "in/list.csv").symlink_to(study / "list.csv")
        with pytest.raises(DataError, match=r"list.csv: is a symbolic link that leads out of the source"):
            prepare(study, source="in")

    def test_out_inside_the_image_folder(self, study):
        with pytest.raises(OSError, match=r"OUT lies inside SOURCE"):
            prepare_dataset("table", study / "in/list.csv", study / "in/out", **OPTIONS)

    @pytest.mark.parametrize(
        ("content", "text"),
        [
            (b"file,a\xff\nx,y\n", "not UTF-8 text.*Save the table as UTF-8 CSV"),
            (b"file,finding\n", "the table has no rows"),
            (b"", "the table has no rows"),
            (b"file,file\na,b\n", "column name 'file' stands more than once"),
            (b'file,finding\n"a"b,c\n', "not a well-formed table"),
        ],
    )
    def test_faulty_tables(self, study, content, text):
        (study / "in/list.csv").write_bytes(content)
        with pytest.raises(DataError, match=text):
            prepare(study)


def test_column_values():
    assert column_values(["50.0", "", "7", "NaN"]) == [50, None, 7, None]
    assert [type(value) for value in column_values(["50.0", "7.5"])] == [int, float]
    assert column_values(["01", "2"]) == ["01", "2"]
    assert column_values(["1", "x"]) == ["1", "x"]
    assert column_values(["inf", "1_0", "1e400"]) == ["inf", "1_0", "1e400"]


def test_plain():
    assert [plain(cell) for cell in ("1.0", "1.5", "a.0", "-2.00", "")] == ["1", "1.5", "a.0", "-2", ""]


def test_quoted_cells_keep_delimiters(tmp_path):
    (tmp_path / "t.csv").write_text('a,b\n"x, y", z \n\n1,2\n')
    assert read_table(tmp_path / "t.csv").rows == ((2, {"a": "x, y", "b": "z"}), (4, {"a": "1", "b": "2"}))


def test_find_table_does_not_open_links_that_lead_out(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "in/t.csv").symlink_to(tmp_path / "t.csv")
    with pytest.raises(
        DataError,
        match=r"no table with the needed columns here \(found no table, expected a table with the columns a, b\)",
    ):
        find_table((tmp_path / "in").resolve(), ("a", "b"))


@pytest.mark.real
def test_chest_x_rays(real_data, tmp_path):
    datalist = prepare_dataset(
        "table", real_data / "nih_chestxray" / "labels.csv", tmp_path / "out", link=True, image_column="file",
        label_column="class_", subject_column="patient", columns="age,sex",
    )  # fmt: skip
    assert len(datalist) == 400
    assert len({item.subject for _, item in datalist}) == 264
    assert all(item.name.startswith(datalist.labels[item.label]) for _, item in datalist)
    assert sum("age" in item.columns for _, item in datalist) == 240
