"""Layout ``nifti``: pairs by pattern."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.prepare import prepare_dataset
from medssl_monai.data.prepare.nifti import compile_pattern, mask_values, parse_mask_labels

OPTIONS = {
    "image": "images/{subject}_{id}.nii.gz",
    "label": "labels/{subject}_{id}_seg.nii.gz",
    "labels": "1=liver,2=spleen",
}


def volume(path, values, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.zeros((3, 4, 2), dtype=dtype)
    data.ravel()[: len(values)] = values
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


@pytest.fixture
def scans(tmp_path):
    """Ten patients A0 to A9 with two scans each; A0 to A4 show the liver, the others the spleen."""
    for index in range(20):
        name = f"A{index // 2}_{index % 2}"
        volume(tmp_path / f"in/images/{name}.nii.gz", [index, 7])
        volume(tmp_path / f"in/labels/{name}_seg.nii.gz", [1 if index < 10 else 2])
    return tmp_path


def prepare(folder, **options):
    return prepare_dataset("nifti", folder / "in", folder / "out", **{**OPTIONS, **options})


class TestPattern:
    def test_placeholders_capture_and_stay_in_their_folder(self):
        pattern = compile_pattern("a*/image_{id}.nii.gz")
        assert pattern.fullmatch("abc/image_12.nii.gz")["id"] == "12"
        for text in (
            "abc/image_.nii.gz",
            "a/b/image_1.nii.gz",
            "abc/image_1/2.nii.gz",
            "abc/image_1xniixgz",
            "a/image_1.nii.gz2",
        ):
            assert not pattern.fullmatch(text)

    def test_one_placeholder_twice_is_one_text(self):
        pattern = compile_pattern("{id}/{id}.nii")
        assert pattern.fullmatch("p1/p1.nii")
        assert not pattern.fullmatch("p1/p2.nii")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{ids}.nii", r"unknown placeholder \{ids\}\. Did you mean 'id'\?"),
            ("*.nii", r"a pattern needs \{id\} or \{subject\}"),
            ("../{id}.nii", "relative to SOURCE and stays inside it"),
            ("/data/{id}.nii", "relative to SOURCE"),
        ],
    )
    def test_faults(self, scans, text, message):
        with pytest.raises(ConfigError, match=rf"--image: .*{message}"):
            prepare(scans, image=text)


class TestPairs:
    def test_images_masks_and_subjects(self, scans):
        datalist = prepare(scans)
        assert (datalist.task, datalist.labels) == ("segmentation", {0: "background", 1: "liver", 2: "spleen"})
        assert {item.name: (item.label, item.subject) for _, item in datalist} == {
            f"images/A{i // 2}_{i % 2}.nii.gz": (f"labels/A{i // 2}_{i % 2}_seg.nii.gz", f"subject:A{i // 2}")
            for i in range(20)
        }
        assert load_datalist(scans / "out").labels == datalist.labels
        assert len(list((scans / "out").rglob("*.nii.gz"))) == 40

    def test_organs_stratify_the_split(self, scans):
        for seed in range(5):
            datalist = prepare(scans, split="80/0/20", seed=seed, overwrite=True)
            assert sorted(int(item.subject[-1]) < 5 for item in datalist.splits["test"]) == [False, False, True, True]

    def test_images_in_one_folder_with_their_masks(self, tmp_path):
        for index in range(4):
            volume(tmp_path / f"in/{index}.nii.gz", [index])
            volume(tmp_path / f"in/{index}_seg.nii.gz", [1])
        (tmp_path / "in/._0.nii.gz").write_bytes(b"x")
        datalist = prepare(tmp_path, image="{subject}.nii.gz", label="{subject}_seg.nii.gz", labels={1: "x"})
        assert sorted(item.name for _, item in datalist) == [f"{i}.nii.gz" for i in range(4)]

    def test_images_alone_are_unlabelled(self, scans, caplog):
        datalist = prepare(scans, label=None, labels=None)
        assert {split: len(items) for split, items in datalist.splits.items()} == {"unlabeled": 20}
        assert datalist.labels == {0: "background"}
        assert "left alone, matched by no pattern: labels/A0_0_seg.nii.gz" in caplog.text
        assert load_datalist(scans / "out").splits.keys() == {"unlabeled"}

    def test_further_unlabelled_images(self, scans):
        volume(scans / "in/more/B_1.nii.gz", [3])
        datalist = prepare(scans, unlabeled="more/{subject}_{id}.nii.gz")
        assert [(item.name, item.subject) for item in datalist.splits["unlabeled"]] == [
            ("more/B_1.nii.gz", "subject:B")
        ]

    def test_subjects_from_names(self, scans):
        with pytest.raises(ConfigError, match=r"the subject is told twice: by \{subject\} and by --subject-regex"):
            prepare(scans, subject_regex="^(A)")
        pattern = {"image": "images/{id}.nii.gz", "label": "labels/{id}_seg.nii.gz"}
        with pytest.raises(DataError, match=r"reads no subject from 10 file names: images/A0_0.nii.gz"):
            prepare(scans, **pattern, subject_regex="^(A[5-9])")
        assert len({item.subject for _, item in prepare(scans, **pattern, subject_regex="^(A.)")}) == 10
        with pytest.warns(UserWarning, match=r"its own patient.*Write \{subject\} instead of \{id\}"):
            prepare(scans, **pattern, overwrite=True)


class TestFaults:
    def test_missing_partners_are_all_named(self, scans):
        (scans / "in/labels/A3_1_seg.nii.gz").unlink()
        (scans / "in/images/A4_0.nii.gz").unlink()
        with pytest.raises(
            DataError,
            match=r"2 problems:\n  images/A3_1.nii.gz: no mask matches it\n  labels/A4_0_seg.nii.gz: no image m",
        ):
            prepare(scans)

    def test_two_images_of_one_id(self, scans):
        volume(scans / "in/images2/A0_0.nii.gz", [1])
        with pytest.raises(DataError, match=r"both match 'images\*/.*' with the same id '0/A0'\. Narrow the pattern"):
            prepare(scans, image="images*/{subject}_{id}.nii.gz")

    def test_nothing_matches(self, scans):
        with pytest.raises(
            DataError, match=r"no file matches --image 'imgs/.*found images/A0_0.nii.gz, .*The whole path"
        ):
            prepare(scans, image="imgs/{subject}_{id}.nii.gz")

    def test_different_placeholders(self, scans):
        with pytest.raises(ConfigError, match=r"--label: the placeholders differ from those of --image"):
            prepare(scans, label="labels/{id}_seg.nii.gz")

    def test_unnamed_values(self, scans):
        with pytest.raises(
            ConfigError, match=r"need names \(found values 0, 1, 2\)\. For example --labels 1=NAME,2=NAME"
        ):
            prepare(scans, labels=None)
        with pytest.raises(DataError, match=r"labels/A5_0_seg.nii.gz: holds 2, which --labels does not name"):
            prepare(scans, labels="1=liver")

    def test_background_alone(self, scans):
        with pytest.raises(ConfigError, match=r"--labels: at least one value besides the background needs a name"):
            prepare(scans, labels="0=background")

    def test_what_is_not_a_mask(self, scans):
        volume(scans / "in/labels/A0_0_seg.nii.gz", [0.5, 1], np.float32)
        (scans / "in/labels/A0_1_seg.nii.gz").write_bytes(b"damaged")
        with pytest.raises(DataError) as caught:
            prepare(scans)
        assert "labels/A0_0_seg.nii.gz is not a mask: it holds values such as 0.0, 0.5, 1.0" in str(caught.value)
        assert "labels/A0_1_seg.nii.gz cannot be read (" in str(caught.value)

    def test_links_that_lead_out(self, scans):
        volume(scans / "secret.nii.gz", [1])
        (scans / "in/labels/A0_0_seg.nii.gz").unlink()
        (scans / "in/labels/A0_0_seg.nii.gz").symlink_to(scans / "secret.nii.gz")
        with pytest.raises(DataError, match=r"labels/A0_0_seg.nii.gz is a symbolic link that leads out of the source"):
            prepare(scans)

    def test_source_is_a_file(self, scans):
        with pytest.raises(DataError, match=r"a folder of images is needed, but this is a file"):
            prepare_dataset("nifti", scans / "in/images/A0_0.nii.gz", scans / "out", **OPTIONS)


@pytest.mark.parametrize("text", ["liver", "1=", "x=liver", "1=a,1=b", "1=a,2=a", "-1=a", "1=background"])
def test_faulty_mask_labels(text):
    with pytest.raises(ValueError, match=r"expected VALUE=NAME pairs such as 1=liver,2=spleen"):
        parse_mask_labels(text) if text != "1=background" else parse_mask_labels("0=background,1=background")


def test_mask_labels_get_their_background():
    assert parse_mask_labels("4=spleen, 1=liver") == {0: "background", 1: "liver", 4: "spleen"}
    assert parse_mask_labels({0: "air", 2: "x"}) == {0: "air", 2: "x"}


def test_mask_values(tmp_path):
    volume(tmp_path / "m.nii", [1, 5, 5], np.float32)
    assert mask_values(tmp_path / "m.nii") == {0, 1, 5}


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "options", "count"),
    [
        (
            "chaos_t2spir",
            {"image": "image_{subject}.nii.gz", "label": "label_{subject}.nii.gz",
             "labels": "1=liver,2=right kidney,3=left kidney,4=spleen"},
            10,
        ),
        (
            "msd_hippocampus",
            {"image": "images/hippocampus_{subject}.nii.gz", "label": "labels/hippocampus_{subject}.nii.gz",
             "labels": "1=anterior,2=posterior"},
            60,
        ),
    ],
)  # fmt: skip
def test_real_volumes(real_data, tmp_path, folder, options, count):
    datalist = prepare_dataset("nifti", real_data / folder, tmp_path / "out", link=True, **options)
    assert len(datalist) == count
    for _, item in datalist:
        number = item.subject.removeprefix("subject:")
        assert item.name.endswith(f"_{number}.nii.gz")
        assert item.label.endswith(f"_{number}.nii.gz")
        assert nibabel.load(tmp_path / "out" / item.name).shape == nibabel.load(tmp_path / "out" / item.label).shape
    assert set(datalist.splits) == {"training", "validation", "test"}
