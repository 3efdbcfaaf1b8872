"""Layout ``folder``: one folder a class, with or without the publisher's split."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medssl_monai.apps.prepare import summary
from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import load_datalist
from medssl_monai.data.check import check_dataset
from medssl_monai.data.fingerprint import dataset_fingerprint
from medssl_monai.data.phantoms.knee.dicom import write_dicom_series
from medssl_monai.data.phantoms.knee.image import Series
from medssl_monai.data.prepare import prepare_dataset

pytestmark = pytest.mark.filterwarnings("ignore:no subject")
REGEX = r"^(P\d+)_"


def write_series(folder, patient, slices):
    image = np.random.default_rng(slices).integers(0, 900, (8, 8, slices)).astype(np.uint16)
    series = Series("sagittal", np.diag([0.5, 0.5, 4.0, 1.0]), image.shape, 4.0)
    write_dicom_series(folder, image, series, patient, {"age": 40, "sex": "female"}, "a test")


def labelled(datalist):
    return {item.name: item.label for _, item in datalist}


@pytest.mark.parametrize(("header", "voxels"), [(".hdr", ".img"), (".mhd", ".raw"), (".nhdr", ".raw")])
def test_headers_keep_their_voxels_beside_them(tmp_path, caplog, header, voxels):
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0)
    for number in range(3):
        volume, path = values.integers(1, 900, (4, 5, 6)).astype(np.int16), tmp_path / "in" / f"p{number}{header}"
        if header == ".hdr":
            nib.save(nib.Nifti1Pair(volume, np.eye(4)), path)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(volume), str(path))
    datalist = prepare_dataset("folder", tmp_path / "in", tmp_path / "out")
    assert sorted(labelled(datalist)) == [f"p{number}{header}" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").glob(f"p*{voxels}")) == [f"p{n}{voxels}" for n in range(3)]
    assert "not images" not in caplog.text
    assert check_dataset(tmp_path / "out").ok
    before = dataset_fingerprint(datalist)
    assert dataset_fingerprint(load_datalist(tmp_path / "out")) == before
    content = bytearray((tmp_path / "out" / f"p1{voxels}").read_bytes())
    content[50] ^= 1
    (tmp_path / "out" / f"p1{voxels}").write_bytes(content)
    assert dataset_fingerprint(datalist) != before


class TestClassFolders:
    def test_classes_are_alphabetical_and_indices_follow(self, class_folders, tmp_path):
        datalist = prepare_dataset("folder", class_folders, tmp_path / "out", subject_regex=REGEX)
        assert (datalist.name, datalist.task, datalist.labels) == ("pets", "binary", ["cat", "dog"])
        assert labelled(datalist) == {
            path.relative_to(class_folders).as_posix(): int(path.parent.name == "dog")
            for path in class_folders.glob("*/*.png")
        }
        assert {item.subject for _, item in datalist} == {f"subject:P{i}" for i in range(10)}

    def test_the_order_of_classes_is_the_users(self, class_folders, tmp_path, draw):
        draw(class_folders / "emu" / "P1_50.png")
        datalist = prepare_dataset("folder", class_folders, tmp_path / "out", classes="dog,cat", subject_regex=REGEX)
        assert datalist.labels == ["dog", "cat"]
        assert labelled(datalist)["dog/P6_12.png"] == 0
        assert len(datalist) == 20

    def test_three_classes_are_multiclass(self, class_folders, tmp_path, draw):
        for i in range(3):
            draw(class_folders / "emu" / f"P{i}_5{i}.png")
        assert prepare_dataset("folder", class_folders, tmp_path / "out").task == "multiclass"

    def test_what_is_left_alone_is_named(self, class_folders, tmp_path, draw, caplog):
        draw(class_folders / "more" / "deep" / "x.png")
        (class_folders / "SOURCE.md").write_text("x")
        (class_folders / "cat" / "notes.txt").write_text("x")
        (class_folders / "cat" / "._P0_0.png").write_text("x")
        datalist = prepare_dataset("folder", class_folders, tmp_path / "out", classes="cat,dog")
        assert "left alone, no class of this dataset: SOURCE.md, more/" in caplog.text
        assert "left out, not images: cat/._P0_0.png, cat/notes.txt" in caplog.text
        assert len(datalist) == 20

    def test_nested_folders_suggest_the_deeper_root(self, class_folders, tmp_path):
        outer = tmp_path / "outer"
        (outer / "b").mkdir(parents=True)
        class_folders.rename(outer / "a")
        with pytest.raises(
            DataError,
            match=r"class folder 'a' itself holds folders \(cat, dog\)\. If those .*SOURCE is .*outer/a; else",
        ):
            prepare_dataset("folder", outer, tmp_path / "out")

    def test_unlabelled_images(self, class_folders, tmp_path, draw):
        for i in range(3):
            draw(class_folders / "extra" / "pool" / f"U{i}_1.png")
        datalist = prepare_dataset(
            "folder", class_folders, tmp_path / "out", unlabeled="extra/pool", subject_regex=r"^([PU]\d+)_"
        )
        assert [item.name for item in datalist.splits["unlabeled"]] == [f"extra/pool/U{i}_1.png" for i in range(3)]
        assert datalist.labels == ["cat", "dog"]


class TestWithoutLabels:
    """Images for which there is no label at all: nothing but the unlabelled split."""

    def test_images_in_one_folder(self, class_folders, tmp_path, caplog):
        out = tmp_path / "out"
        prepare_dataset("folder", class_folders / "cat", out, subject_regex=REGEX)
        datalist = load_datalist(out)
        assert (datalist.task, datalist.labels, list(datalist.splits)) == ("multiclass", [], ["unlabeled"])
        assert [item.name for item in datalist.splits["unlabeled"]] == sorted(
            path.name for path in (class_folders / "cat").iterdir()
        )
        assert {item.subject for _, item in datalist} == {f"subject:P{i}" for i in range(6)}
        assert {item.label for _, item in datalist} == {None}
        assert not datalist.labelled
        assert "no image has a label: the dataset is for pre-training and embeddings" in caplog.text
        assert check_dataset(out, progress=False).problems == []
        assert "pets" not in summary(datalist)
        assert summary(datalist).startswith("cat: multiclass, no label and no class yet")

    def test_images_in_folders_of_patients(self, class_folders, tmp_path, draw):
        """The dot takes what lies in whatever folders; the patient may stand in the path instead of the name."""
        source = tmp_path / "scans"
        for i in range(4):
            draw(source / f"P{i // 2}" / f"day{i}" / "scan.png")
        (source / "P0" / "notes.txt").write_text("x")
        with pytest.raises(DataError, match=r"'P0' itself holds folders .*--unlabeled \. \(with the dot\)"):
            prepare_dataset("folder", source, tmp_path / "out")
        datalist = prepare_dataset("folder", source, tmp_path / "out", unlabeled=".", subject_regex=r"^(P\d+)/")
        assert {item.name: item.subject for _, item in datalist} == {
            f"P{i // 2}/day{i}/scan.png": f"subject:P{i // 2}" for i in range(4)
        }
        assert list(datalist.splits) == ["unlabeled"]

    def test_all_but_the_class_folders(self, class_folders, tmp_path, draw):
        draw(class_folders / "U1_1.png")
        draw(class_folders / "deep" / "er" / "U2_1.png")
        datalist = prepare_dataset(
            "folder", class_folders, tmp_path / "out", classes="cat,dog", unlabeled=".", subject_regex=r"^([PU]\d+)_"
        )
        assert [item.name for item in datalist.splits["unlabeled"]] == ["U1_1.png", "deep/er/U2_1.png"]
        assert len(datalist) == 22

    def test_a_dicom_series_is_one_image(self, tmp_path, caplog):
        write_series(tmp_path / "scans/P1/sagittal", "P1", 3)
        write_series(tmp_path / "scans/P2/sagittal", "P2", 4)
        (tmp_path / "scans/P2/report.txt").write_text("x")
        datalist = prepare_dataset("folder", tmp_path / "scans", tmp_path / "out", unlabeled=".", subject_regex="(P.)/")
        assert {item.name: item.subject for _, item in datalist} == {
            "P1/sagittal": "subject:P1", "P2/sagittal": "subject:P2",
        }  # fmt: skip
        assert len(list((tmp_path / "out/P2/sagittal").iterdir())) == 4
        assert "left out, not images: P2/report.txt" in caplog.text
        with pytest.raises(DataError, match=r"the slices of a DICOM series lie in SOURCE itself .*a folder for each"):
            prepare_dataset("folder", tmp_path / "scans/P1/sagittal", tmp_path / "other")
        (tmp_path / "scans/P1/sagittal/link").symlink_to(tmp_path / "scans/P2/report.txt")
        with pytest.raises(DataError, match=r"sagittal/link.*is a symbolic link that leads out of the source"):
            prepare_dataset("folder", tmp_path / "scans/P1", tmp_path / "other", unlabeled=".")


class TestFaults:
    def test_misspelt_class(self, class_folders, tmp_path):
        with pytest.raises(ConfigError, match=r"--classes: there is no class folder 'dogs' in .*Did you mean 'dog'\?"):
            prepare_dataset("folder", class_folders, tmp_path / "out", classes="cat,dogs")

    def test_one_class(self, class_folders, tmp_path):
        with pytest.raises(DataError, match=r"at least 2 class folders are needed, found 1 \(found cat\)"):
            prepare_dataset("folder", class_folders, tmp_path / "out", classes="cat")

    def test_no_folder(self, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(
            DataError, match=r"found 0 .*sub-folders are the classes\. For images .* --unlabeled \. \(w"
        ):
            prepare_dataset("folder", tmp_path / "empty", tmp_path / "out")

    def test_empty_class(self, class_folders, tmp_path):
        (class_folders / "emu").mkdir()
        (class_folders / "emu" / "x.txt").write_text("")
        with pytest.raises(DataError, match=r"class folder 'emu' holds no images \(found emu/x.txt\)"):
            prepare_dataset("folder", class_folders, tmp_path / "out")

    def test_subjects_that_cannot_be_read(self, class_folders, tmp_path, draw):
        draw(class_folders / "cat" / "other.png")
        with pytest.raises(DataError, match=r"--subject-regex reads no subject from 1 file name: cat/other\.png"):
            prepare_dataset("folder", class_folders, tmp_path / "out", subject_regex=REGEX)

    def test_links_that_lead_out(self, class_folders, tmp_path, draw):
        (class_folders / "cat" / "link.png").symlink_to(draw(tmp_path / "secret.png"))
        with pytest.raises(
            DataError, match=r"1 problem:\n  cat/link\.png is a symbolic link that leads out of the source"
        ):
            prepare_dataset("folder", class_folders, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_class_folder_that_leads_out(self, class_folders, tmp_path, draw):
        (class_folders / "emu").symlink_to(draw(tmp_path / "private" / "secret.png").parent)
        with pytest.raises(DataError, match=r"emu is a symbolic link that leads out of the source; it is not followed"):
            prepare_dataset("folder", class_folders, tmp_path / "out")

    def test_source_is_a_file(self, class_folders, tmp_path):
        with pytest.raises(DataError, match=r"a folder of class folders is needed, but this is a file"):
            prepare_dataset("folder", class_folders / "cat/P0_0.png", tmp_path / "out")

    @pytest.mark.parametrize(
        ("folder", "text"),
        [("none", "'none' does not exist"), ("../x", "leads out of"), ("cat/P0_0.png", "is not a folder")],
    )
    def test_faulty_unlabelled_folder(self, class_folders, tmp_path, folder, text):
        with pytest.raises(ConfigError, match=rf"--unlabeled: .*{text}"):
            prepare_dataset("folder", class_folders, tmp_path / "out", unlabeled=folder)

    def test_fewer_subjects_than_parts(self, class_folders, tmp_path):
        with pytest.raises(DataError, match=r"1 subject cannot fill 3 parts"):
            prepare_dataset("folder", class_folders, tmp_path / "out", subject_regex="^(P)")


class TestPublishersSplit:
    @pytest.fixture
    def published(self, tmp_path, draw):
        source = tmp_path / "published"
        for part, count in (("train", 16), ("test", 4)):
            for i in range(count):
                draw(source / part / ("cat" if i % 2 else "dog") / f"{part}{i}_x.png")
        (source / "README.txt").write_text("x")
        return source

    def test_missing_validation_is_carved_from_training(self, published, tmp_path, caplog):
        datalist = prepare_dataset("folder", published, tmp_path / "out", subject_regex=r"^(.*)_x")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 14, "validation": 2, "test": 4,
        }  # fmt: skip
        assert all(item.name.startswith("train/") for item in datalist.splits["validation"])
        assert all(item.name.startswith("test/") for item in datalist.splits["test"])
        assert "no class of this dataset: README.txt" in caplog.text

    @pytest.mark.parametrize("name", ["val", "valid", "Validation"])
    def test_validation_is_known_by_its_usual_names(self, published, tmp_path, draw, name):
        for label in ("cat", "dog"):
            draw(published / name / label / f"v{label}_x.png")
        datalist = prepare_dataset("folder", published, tmp_path / "out", subject_regex=r"^(.*)_x")
        assert {split: len(items) for split, items in datalist.splits.items()} == {
            "training": 16, "validation": 2, "test": 4,
        }  # fmt: skip

    def test_two_folders_of_one_part(self, published, tmp_path):
        (published / "training" / "cat").mkdir(parents=True)
        with pytest.raises(DataError, match=r"train and training both look like the training part"):
            prepare_dataset("folder", published, tmp_path / "out")

    def test_a_class_that_training_lacks(self, published, tmp_path, draw):
        draw(published / "test" / "emu" / "e_x.png")
        with pytest.raises(DataError, match=r"class emu of the test part has no folder in the training part"):
            prepare_dataset("folder", published, tmp_path / "out")
        assert len(prepare_dataset("folder", published, tmp_path / "out", classes="cat,dog")) == 20

    def test_train_and_test_may_be_classes(self, tmp_path, draw):
        for name in ("train", "test"):
            for i in range(5):
                draw(tmp_path / "in" / name / f"{name}{i}.png")
        assert prepare_dataset("folder", tmp_path / "in", tmp_path / "out").labels == ["test", "train"]


@pytest.mark.real
def test_malaria_cells(real_data, tmp_path, caplog):
    datalist = prepare_dataset(
        "folder", real_data / "malaria_cells", tmp_path / "out", classes="Parasitized,Uninfected",
        subject_regex="(?i)^(.*?)thin", link=True,
    )  # fmt: skip
    files = [
        *(real_data / "malaria_cells").glob("Parasitized/*.png"),
        *(real_data / "malaria_cells").glob("Uninfected/*.png"),
    ]
    prefixes = {path.name: path.name[: path.name.lower().index("thin")] for path in files}
    assert len(datalist) == len(files) == 800
    assert all(item.subject == f"subject:{prefixes[item.name.split('/')[1]]}" for _, item in datalist)
    assert all(item.label == int(item.name.startswith("Uninfected/")) for _, item in datalist)
    groups = [{item.subject for item in items} for items in datalist.splits.values()]
    assert len(groups) == 3
    assert sum(map(len, groups)) == len(set(prefixes.values()))
    assert "left alone, no class of this dataset: SOURCE.md, cells_50px.npz, colour/" in caplog.text


@pytest.mark.real
def test_malaria_cells_without_classes_suggests_the_deeper_root(real_data, tmp_path):
    with pytest.raises(DataError, match=r"class folder 'colour' itself holds folders \(Parasitized, Uninfected\)"):
        prepare_dataset("folder", real_data / "malaria_cells", tmp_path / "out")


def test_one_outer_folder_suggests_the_deeper_root(class_folders, tmp_path):
    source = tmp_path / "outermost"
    source.mkdir()
    class_folders.rename(source / "data")
    with pytest.raises(
        DataError, match=r"one folder, 'data', which holds folders itself.*give .*outermost/data as SOURCE"
    ):
        prepare_dataset("folder", source, tmp_path / "out")
