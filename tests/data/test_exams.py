"""Exams of several planes: their names, one plane as a dataset, and planes found by where slices lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImaged

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data import Datalist, Item, classification_datalist, inference_records, load_datalist, select_plane
from medssl_monai.data.check import check_dataset
from medssl_monai.data.datalist import datalist_problems, exam_name
from medssl_monai.data.exams import affine_plane, plane_images

PLANES = ("sagittal", "coronal", "axial")
READER = "medssl_monai.data.readers.MedicalImageReader"
# columns: where the voxel axes point in RAS; the third is the slice axis
AXES = {
    "sagittal": [[0, 0, 4.0], [0.5, 0, 0], [0, -0.5, 0]],
    "coronal": [[0.5, 0, 0], [0, 0, 4.0], [0, -0.5, 0]],
    "axial": [[-0.5, 0, 0], [0, -0.5, 0], [0, 0, 4.0]],
}


def affine(plane: str, tilt: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    angle = np.deg2rad(tilt)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrix[:3, :3] = turn @ np.array(AXES[plane])
    return matrix


def write(path: Path, seed: int, plane: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    if plane is None:
        np.save(path, values)
    else:
        nib.save(nib.Nifti1Image(values, affine(plane, 20.0)), path)


def exams(root: Path, planes: tuple[str, ...] = PLANES, counts: dict[str, int] | None = None) -> Datalist:
    """Exams ``<split>/<number>`` with one volume a plane; labels count through the eight vectors."""
    splits: dict = {}
    for split, count in (counts or {"training": 8, "validation": 2, "test": 3}).items():
        for i in range(count):
            images = {plane: f"{split}/{i}/{plane}.nii.gz" for plane in planes}
            for k, (plane, path) in enumerate(images.items()):
                write(root / path, 100 * len(split) + 10 * i + k, plane)
            splits.setdefault(split, []).append(Item(images, (i & 1, i >> 1 & 1, i >> 2 & 1), f"subject:{split}{i}"))
    datalist = Datalist("knees", "multilabel", ["abnormal", "acl", "meniscus"], splits, root=root)
    datalist.save(root)
    return datalist


@pytest.mark.parametrize(
    ("paths", "name"),
    [
        (["train/sagittal/0001.npy", "train/coronal/0001.npy", "train/axial/0001.npy"], "train/0001.npy"),
        (["train/0001/sagittal.npy", "train/0001/coronal.npy"], "train/0001"),
        (["P1/sag/", "P1/cor/"], "P1"),
        (["P1\\sag", "P1\\cor"], "P1"),
        (["a/P1/2", "a/P1/2/3"], "a/P1/2"),
        (["x/P1.nii.gz"], "x/P1.nii.gz"),
        (["P1_sag.nii.gz", "P1_cor.nii.gz"], "P1_sag.nii.gz"),
    ],
)
def test_an_exam_is_named_by_what_its_paths_have_in_common(paths: list[str], name: str) -> None:
    assert exam_name(paths) == name
    assert Item(dict(enumerate(paths))).name == name  # type: ignore[arg-type]
    assert Item(dict(enumerate(paths))).group == name  # type: ignore[arg-type]


def test_two_exams_of_one_name_are_a_problem(tmp_path: Path) -> None:
    content = exams(tmp_path).to_json()
    assert datalist_problems(content) == []
    content["training"][0]["image"] = {"sagittal": "k/s1/im.nii.gz", "axial": "k/a1/im.nii.gz"}
    content["test"][1]["image"] = {"sagittal": "k/s2/im.nii.gz", "axial": "k/a2/im.nii.gz"}
    assert datalist_problems(content) == [
        "test[1]: the exam's name, which is what its paths have in common ('k/im.nii.gz'), is that of training[0] too; "
        "give every exam a folder of its own"
    ]


class TestSelectPlane:
    def test_images_are_the_planes_and_everything_else_stays(self, tmp_path: Path) -> None:
        whole = exams(tmp_path)
        names = {}
        for plane in PLANES:
            datalist = classification_datalist(tmp_path, ["abnormal", "acl", "meniscus"], exclusive=False, plane=plane)
            names[plane] = [(split, item.name, item.group, item.label) for split, item in datalist]
            for split, count in (("training", 8), ("validation", 2), ("test", 3)):
                for i, record in enumerate(datalist.records(split)):  # type: ignore[arg-type]
                    assert record["image"] == str(tmp_path / split / str(i) / f"{plane}.nii.gz")
                    assert (record["name"], record["subject"]) == (f"{split}/{i}", f"subject:{split}{i}")
                assert len(datalist.splits[split]) == count  # type: ignore[index]
            assert load_datalist(tmp_path).splits == whole.splits
        assert names["sagittal"] == names["coronal"] == names["axial"]
        assert names["axial"][0][:3] == ("training", "training/0", "subject:training0")

    def test_one_label_of_one_plane(self, tmp_path: Path) -> None:
        exams(tmp_path)
        datalist = classification_datalist(tmp_path, ["acl"], exclusive=False, plane="coronal")
        assert (datalist.task, [item.label for item in datalist.splits["training"]]) == (
            "binary", [0, 0, 1, 1, 0, 0, 1, 1],
        )  # fmt: skip
        assert datalist.splits["training"][3].name == "training/3"

    def test_a_plane_must_be_named(self, tmp_path: Path) -> None:
        exams(tmp_path)
        with pytest.raises(
            ConfigError,
            match=r"plane: the dataset's images are exams of several planes \(found none, expected one of sagittal, "
            r"coronal, axial\)\. For example plane=sagittal",
        ):
            classification_datalist(tmp_path, ["acl"], exclusive=False)

    def test_an_unknown_plane(self, tmp_path: Path) -> None:
        exams(tmp_path)
        with pytest.raises(ConfigError, match=r"plane: no exam has a plane 'sagital'. Did you mean 'sagittal'\?"):
            classification_datalist(tmp_path, ["acl"], exclusive=False, plane="sagital")

    def test_single_images_have_no_planes(self) -> None:
        datalist = Datalist("d", "binary", ["a", "b"], {"training": [Item("1.nii.gz", 0)]}, root=Path("r"))
        assert select_plane(datalist, None) is datalist
        with pytest.raises(
            ConfigError,
            match=r"r/datalist.json: the dataset's images are no exams .*found 'axial', .*`plane` out",
        ):
            select_plane(datalist, "axial")

    def test_exams_that_lack_the_plane_are_named(self, tmp_path: Path) -> None:
        datalist = exams(tmp_path)
        for i in range(7):
            del datalist.splits["training"][i].image["coronal"]  # type: ignore[union-attr, attr-defined]
        assert len(select_plane(datalist, "axial")) == 13
        with pytest.raises(DataError) as caught:
            select_plane(datalist, "coronal")
        listed = ", ".join(f"training/{i}" for i in range(5))
        assert str(caught.value) == (
            f"{tmp_path}/datalist.json: 7 of 13 exams have no plane 'coronal': {listed} and 2 more. "
            "Add the plane's images to these exams, or take the exams out of the datalist."
        )

    def test_single_images_among_exams_count_as_lacking(self, tmp_path: Path) -> None:
        datalist = exams(tmp_path)
        datalist.splits["unlabeled"] = [Item("more/17.nii.gz")]
        with pytest.raises(DataError, match=r"1 of 14 exams have no plane 'axial': more/17.nii.gz"):
            select_plane(datalist, "axial")


def test_the_check_counts_exams_without_a_plane(tmp_path: Path) -> None:
    datalist = exams(tmp_path)
    assert (check_dataset(tmp_path, progress=False).problems, check_dataset(tmp_path, progress=False).notes) == ([], [])
    for split, number in (("training", 3), ("test", 0), ("test", 1)):
        del datalist.splits[split][number].image["coronal"]  # type: ignore[index, union-attr, attr-defined]
    datalist.save(tmp_path)
    report = check_dataset(tmp_path, progress=False)
    assert report.problems == []
    (note,) = report.notes
    assert (note.kind, note.message, note.split) == (
        "plane", "3 of 13 exams have no image 'coronal'", "training / test",
    )  # fmt: skip
    assert note.advice == "Add them, or take the exams out, before plane coronal is trained on or predicted."


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("tilt", [-40.0, 0.0, 40.0])
def test_the_slice_axis_tells_the_plane(plane: str, tilt: float) -> None:
    matrix = affine(plane, tilt)
    normal = np.cross(matrix[:3, 0], matrix[:3, 1])  # another way to the slices' normal
    assert abs(normal @ np.eye(3)[PLANES.index(plane)]) == pytest.approx(np.abs(normal).max())
    assert affine_plane(matrix) == plane
    matrix[:3, 2] *= -1
    assert affine_plane(matrix) == plane
    # stored with the slices along another axis: their thickness tells
    for order in ([2, 0, 1], [0, 2, 1]):
        assert affine_plane(matrix[:, [*order, 3]]) == plane
    # voxels as long as wide as high: the third axis counts the slices
    matrix[:3, :3] /= np.linalg.norm(matrix[:3, :3], axis=0)
    assert affine_plane(matrix) == plane


class TestInference:
    def test_a_dataset(self, tmp_path: Path) -> None:
        datalist = exams(tmp_path)
        assert inference_records(tmp_path, "test", plane="axial") == [
            {"image": f"{tmp_path}/test/{i}/axial.nii.gz", "name": f"test/{i}"} for i in range(3)
        ]
        del datalist.splits["training"][0].image["axial"]  # type: ignore[union-attr, attr-defined]
        datalist.save(tmp_path)
        assert len(inference_records(tmp_path, "test", plane="axial")) == 3
        with pytest.raises(DataError, match="1 of 13 exams have no plane 'axial': training/0"):
            inference_records(tmp_path, plane="axial")
        with pytest.raises(ConfigError, match="plane: the dataset's images are exams of several planes"):
            inference_records(tmp_path, "test")
        with pytest.raises(DataError, match=r"no image to predict here \(found split 'unlabeled'\)"):
            inference_records(tmp_path, "unlabeled", plane="axial")

    def test_a_folder_of_exams_by_where_slices_lie(self, tmp_path: Path) -> None:
        for exam in ("b/left", "b/right", "a"):
            for k, plane in enumerate(PLANES):
                write(tmp_path / exam / f"series{k}.nii.gz", k, plane)
        for k, plane in enumerate(PLANES):
            records = inference_records(tmp_path, plane=plane)
            assert {record["name"]: record["image"] for record in records} == {
                exam: f"{tmp_path}/{exam}/series{k}.nii.gz" for exam in ("a", "b/left", "b/right")
            }
        # the exam's folder itself
        assert inference_records(tmp_path / "a", plane="coronal") == [
            {"image": f"{tmp_path}/a/series1.nii.gz", "name": "a"}
        ]

    def test_arrays_name_their_plane(self, tmp_path: Path) -> None:
        for plane in PLANES:
            write(tmp_path / "1" / f"{plane}.npy", 1)
            write(tmp_path / plane / "2.npy", 2)
        found = {record["name"]: record["image"] for record in inference_records(tmp_path, plane="sagittal")}
        assert found == {"1": f"{tmp_path}/1/sagittal.npy", "2.npy": f"{tmp_path}/sagittal/2.npy"}
        write(tmp_path / "3" / "sag.npy", 3)
        with pytest.raises(
            DataError,
            match=r"3/sag.npy: nothing tells the plane of this image \(expected a folder or file named",
        ):
            inference_records(tmp_path, plane="sagittal")

    def test_two_series_of_one_plane(self, tmp_path: Path) -> None:
        write(tmp_path / "a/pd.nii.gz", 1, "sagittal")
        write(tmp_path / "a/t2.nii.gz", 2, "sagittal")
        with pytest.raises(DataError, match=r"a/t2.nii.gz: exam 'a' has two sagittal images \(found .*a/pd.nii.gz as"):
            inference_records(tmp_path, plane="sagittal")
        write(tmp_path / "a/t2.nii.gz", 2, "coronal")
        with pytest.raises(
            DataError,
            match=r"no image to predict here: no exam of 1 shows the axial plane \(a\) \(.*of 1.*",
        ):
            inference_records(tmp_path, plane="axial")

    def test_an_unknown_plane(self, tmp_path: Path) -> None:
        write(tmp_path / "a/pd.nii.gz", 1, "sagittal")
        with pytest.raises(ConfigError, match=r"plane: unknown plane 'coronel'. Did you mean 'coronal'\?"):
            inference_records(tmp_path, plane="coronel")

    def test_one_image_is_taken_as_it_is(self, tmp_path: Path) -> None:
        write(tmp_path / "a/pd.nii.gz", 1, "sagittal")
        assert inference_records(tmp_path / "a/pd.nii.gz", plane="axial")[0]["name"] == "pd.nii.gz"


@pytest.mark.real
def test_dicom_series_as_planes_of_an_exam(real_data: Path, tmp_path: Path) -> None:
    series = {"axial": "PGBM-003_T2reg", "sagittal": "hanke_t1w"}  # the mapping's names are the datalist's own
    for plane, name in series.items():
        shutil.copytree(real_data / "mr_dicom" / name, tmp_path / "exam1" / plane[:3])
    images = {plane: f"exam1/{plane[:3]}/" for plane in series}
    Datalist("d", "multilabel", ["abnormal", "acl"], {"test": [Item(images, (1, 0), "subject:1")]}).save(tmp_path)
    shapes = {}
    for plane in series:
        (record,) = classification_datalist(tmp_path, ["acl"], exclusive=False, plane=plane).records("test")
        assert record["name"] == "exam1"
        shapes[plane] = tuple(LoadImaged("image", reader=READER)(record)["image"].shape)
    assert shapes == {"axial": (280, 320, 22), "sagittal": (274, 384, 12)}
    report = check_dataset(tmp_path, progress=False)
    assert [problem.message for problem in report.problems] == []
    (tmp_path / "datalist.json").unlink()
    # both are axial series by where their slices lie
    with pytest.raises(DataError, match=r"exam 'exam1' has two axial images"):
        inference_records(tmp_path, plane="axial")
    shutil.rmtree(tmp_path / "exam1/sag")
    assert plane_images(tmp_path, "axial") == {"exam1": tmp_path / "exam1/axi"}
    assert inference_records(tmp_path / "exam1", plane="axial")[0]["name"] == "exam1"
