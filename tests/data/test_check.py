"""The check of a dataset: every planted damage is found, nothing is invented."""

from __future__ import annotations

import json
import os
import shutil

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medssl_monai.core import DataError
from medssl_monai.data.check import KINDS, check_dataset
from medssl_monai.data.check.entries import leaves_folder
from medssl_monai.data.check.files import content_digest, distinct_values
from medssl_monai.data.check.rules import corner_distance

RNG = np.random.default_rng(0)


def save_picture(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def picture(channels=3):
    return RNG.integers(0, 256, (20, 24, channels) if channels > 1 else (20, 24), dtype=np.uint8)


def write_list(folder, content):
    (folder / "datalist.json").write_text(json.dumps(content))


def picture_set(folder):
    """A clean multiclass set of PNG files: eight training, four validation, four test, two unlabelled images."""
    content = {"name": "pictures", "task": "multiclass", "labels": ["nv", "mel"]}
    for split, number in (("training", 8), ("validation", 4), ("test", 4), ("unlabeled", 2)):
        content[split] = []
        for n in range(number):
            save_picture(folder / f"{split}/{n}.png", picture())
            item = {"image": f"{split}/{n}.png", "subject": f"subject:{split}{n}"}
            content[split].append(item if split == "unlabeled" else {**item, "label": n % 2})
    write_list(folder, content)
    return content


def save_volume(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)


def organ_mask():
    mask = np.zeros((10, 12, 6), dtype=np.uint8)
    mask[2:5, 2:5], mask[6:8, 2:5] = 1, 4
    return mask


def volume_set(folder):
    """A clean segmentation set of NIfTI volumes: eight training, two test."""
    content = {"name": "volumes", "task": "segmentation", "labels": {"0": "background", "1": "liver", "4": "spleen"}}
    for split, number in (("training", 8), ("test", 2)):
        content[split] = []
        for n in range(number):
            save_volume(folder / f"images/{split}{n}.nii.gz", RNG.normal(size=(10, 12, 6)).astype(np.float32))
            save_volume(folder / f"masks/{split}{n}.nii.gz", organ_mask())
            paths = {"image": f"images/{split}{n}.nii.gz", "label": f"masks/{split}{n}.nii.gz"}
            content[split].append({**paths, "subject": f"subject:{split}{n}"})
    write_list(folder, content)
    return content


def check(folder, **arguments):
    return check_dataset(folder, progress=False, **arguments)


def found(report):
    return sorted((problem.kind, problem.file, problem.split) for problem in report.problems)


@pytest.mark.parametrize("make", [picture_set, volume_set])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_clean_set_has_no_problem(tmp_path, make, workers):
    make(tmp_path)
    report = check(tmp_path, workers=workers)
    assert report.problems == []
    assert report.notes == []
    assert report.ok
    assert report.counts == {}


def test_facts_of_a_set_of_pictures(tmp_path):
    picture_set(tmp_path)
    save_picture(tmp_path / "training/0.png", np.concatenate([picture(), picture()]))
    facts = check(tmp_path).facts
    assert facts["splits"]["training"] == {"items": 8, "subjects": 8, "classes": {"nv": 4, "mel": 4}}
    assert facts["splits"]["unlabeled"] == {"items": 2, "subjects": 2, "classes": {"nv": 0, "mel": 0}}
    assert facts["channels"] == {"3": 18}
    assert facts["dtypes"] == {"uint8": 18}
    assert facts["intensities"] == [0.0, 255.0]
    assert facts["sizes"] == {"2-D": {"images": 18, "smallest": [24, 20], "median": [24, 20], "largest": [24, 40]}}


def test_facts_of_a_set_of_volumes(tmp_path):
    volume_set(tmp_path)
    facts = check(tmp_path).facts
    assert facts["files"] == 20
    assert facts["splits"]["training"]["classes"] == {"liver": 8, "spleen": 8}
    assert facts["sizes"]["3-D"]["median"] == [10, 12, 6]


def test_every_damage_of_a_set_of_pictures_is_found_once(tmp_path):
    content = picture_set(tmp_path)
    training, test = content["training"], content["test"]
    (tmp_path / "training/0.png").unlink()
    data = (tmp_path / "training/1.png").read_bytes()
    (tmp_path / "training/1.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "training/2.png").write_bytes(b"")
    save_picture(tmp_path / "training/3.png", np.full((20, 24, 3), 9, dtype=np.uint8))
    save_picture(tmp_path / "training/4.png", picture(channels=1))
    training[5]["label"] = 7
    training[6]["subejct"] = training[6].pop("subject")
    test[0]["subject"] = "subject:training7"
    shutil.copy(tmp_path / "training/7.png", tmp_path / "test/1.png")
    test[2]["image"] = "../elsewhere.png"
    test[3]["image"] = str(tmp_path / "test/3.png")
    shutil.copy(tmp_path / "unlabeled/0.png", tmp_path / "unlabeled/1.png")
    content["validation"] = []
    write_list(tmp_path, content)
    report = check(tmp_path)
    assert found(report) == sorted([
        ("missing", "training/0.png", "training"),
        ("unreadable", "training/1.png", "training"),
        ("empty", "training/2.png", "training"),
        ("empty", "training/3.png", "training"),
        ("channels", "training/4.png", "training"),
        ("label", "training/5.png", "training"),
        ("key", "training/6.png", "training"),
        ("subject", "training/7.png", "training / test"),
        ("leakage", "test/1.png", "training / test"),
        ("outside", "../elsewhere.png", "test"),
        ("outside", str(tmp_path / "test/3.png"), "test"),
        ("duplicate", "unlabeled/1.png", "unlabeled"),
        ("split", "datalist.json", "validation"),
    ])  # fmt: skip
    message = {problem.kind: problem.message for problem in report.problems if problem.file != "training/2.png"}
    assert message["missing"] == "no such file"
    assert message["empty"] == "every value is 9: the image shows nothing"
    assert message["channels"] == "1 channel found, 3 is what most images here have"
    assert message["label"] == "label 7 is out of range: labels names classes 0 to 1"
    assert message["key"] == "key 'subejct' looks misspelt"
    (advice,) = [problem.advice for problem in report.problems if problem.kind == "key"]
    assert advice == "Rename it in training[6] of datalist.json. Did you mean 'subject'?"
    assert (
        message["subject"]
        == "subject:training7 is in training and test (training/7.png in training, test/0.png in test)"
    )
    assert message["leakage"] == "shows the same pixels as training/7.png (training)"
    assert message["split"] == "validation is an empty list"
    assert all(problem.advice.endswith((".", "?")) for problem in report.problems)
    assert all(problem.kind in KINDS for problem in report.problems)
    assert report.counts["empty"] == 2
    assert json.loads(json.dumps(report.to_json(), allow_nan=False))["ok"] is False


def test_every_damage_of_a_set_of_volumes_is_found_once(tmp_path):
    content = volume_set(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    bad = RNG.normal(size=(10, 12, 6)).astype(np.float32)
    bad[1, 2, 3], bad[4, 4, 4] = np.nan, np.inf
    save_volume(images / "training0.nii.gz", bad)
    save_volume(masks / "training1.nii.gz", organ_mask()[:, :, :5])
    save_volume(masks / "training2.nii.gz", organ_mask(), np.diag([2.0, 2.0, 3.5, 1.0]))
    wrong = organ_mask()
    wrong[0, 0, 0] = 2
    save_volume(masks / "training3.nii.gz", wrong)
    data = (images / "training4.nii.gz").read_bytes()
    (images / "training4.nii.gz").write_bytes(data[:-40])
    (masks / "training5.nii.gz").unlink()
    save_volume(images / "training6.nii.gz", RNG.normal(size=(10, 12)).astype(np.float32), np.eye(4))
    save_volume(masks / "training6.nii.gz", organ_mask()[:, :, 0], np.eye(4))
    array = nib.load(images / "training7.nii.gz").get_fdata()
    np.save(images / "copy.npy", array)
    content["test"][1] = {"image": "images/copy.npy", "label": "masks/test1.nii.gz", "subject": "subject:test1"}
    content["labels"]["9"] = "kidney"
    write_list(tmp_path, content)
    report = check(tmp_path)
    assert found(report) == sorted([
        ("not-finite", "images/training0.nii.gz", "training"),
        ("shape", "masks/training1.nii.gz", "training"),
        ("affine", "masks/training2.nii.gz", "training"),
        ("mask-value", "masks/training3.nii.gz", "training"),
        ("unreadable", "images/training4.nii.gz", "training"),
        ("missing", "masks/training5.nii.gz", "training"),
        ("channels", "images/training6.nii.gz", "training"),
        ("leakage", "images/copy.npy", "training / test"),
        ("class", "datalist.json", "training"),
    ])  # fmt: skip
    message = {problem.kind: problem.message for problem in report.problems}
    assert message["not-finite"] == "2 of 720 values are NaN or infinite"
    assert message["shape"] == ("the mask has shape (10, 12, 5), its image images/training1.nii.gz has (10, 12, 6)")
    # the last slice is 5 * 0.5 mm away
    assert message["affine"] == "the mask lies up to 2.5 mm away from its image images/training2.nii.gz"
    assert message["mask-value"] == "the mask holds 2; 'labels' names 0, 1, 4, 9"
    assert message["channels"] == "2-D image, most here are 3-D"
    assert message["class"] == "no training item shows class 9 (kidney)"


def test_channels_asked_for(tmp_path):
    picture_set(tmp_path)
    save_picture(tmp_path / "training/0.png", picture(channels=1))
    report = check(tmp_path, in_channels=1)
    assert len(report.problems) == 17
    assert {problem.message for problem in report.problems} == {"3 channels found, 1 was asked for"}
    assert report.problems[0].advice == "Save it as a grey image."


def test_a_mask_of_255_gets_its_own_advice(tmp_path):
    content = {"name": "m", "task": "segmentation", "labels": {"0": "skin", "1": "lesion"}, "training": []}
    for n in range(2):
        save_picture(tmp_path / f"{n}.png", picture())
        save_picture(tmp_path / f"m{n}.png", (picture(1) > 127).astype(np.uint8) * (255 if n else 1))
        content["training"].append({"image": f"{n}.png", "label": f"m{n}.png"})
    write_list(tmp_path, content)
    (problem,) = check(tmp_path).problems
    assert (problem.kind, problem.file) == ("mask-value", "m1.png")
    assert problem.advice == "Save the mask with 1 instead of 255."


def test_a_colour_mask_is_not_one_of_classes(tmp_path):
    save_picture(tmp_path / "a.png", picture())
    save_picture(tmp_path / "m.png", picture())
    labels = {"0": "skin", "1": "lesion"}
    write_list(tmp_path, {
        "name": "m", "task": "segmentation", "labels": labels, "training": [{"image": "a.png", "label": "m.png"}],
    })  # fmt: skip
    problems = check(tmp_path).problems
    assert any(p.kind == "shape" and p.message.startswith("the mask has 3 channels") for p in problems)


def test_every_plane_of_an_exam_is_read_and_planes_have_channels_of_their_own(tmp_path):
    items = []
    for n in range(3):
        save_picture(tmp_path / f"s{n}.png", picture(1))
        save_picture(tmp_path / f"a{n}.png", picture(3))
        items.append({"image": {"sagittal": f"s{n}.png", "axial": f"a{n}.png"}, "label": [1, 0]})
    items[1]["label"] = [0, 1]
    content = {"name": "knees", "task": "multilabel", "labels": ["acl", "meniscus"], "training": items}
    write_list(tmp_path, content)
    assert check(tmp_path).ok
    save_picture(tmp_path / "a2.png", picture(1))
    (tmp_path / "s1.png").unlink()
    assert found(check(tmp_path)) == [("channels", "a2.png", "training"), ("missing", "s1.png", "training")]


def test_the_same_image_in_training_and_unlabelled_is_a_duplicate_not_leakage(tmp_path):
    content = picture_set(tmp_path)
    content["unlabeled"][0]["image"] = "training/0.png"
    content["unlabeled"][0]["subject"] = "subject:training0"
    write_list(tmp_path, content)
    report = check(tmp_path)
    assert found(report) == [("duplicate", "training/0.png", "training / unlabeled")]
    assert [(note.kind, note.split) for note in report.notes] == [("subject", "training / unlabeled")]


def test_links_out_of_the_folder_are_one_note(tmp_path):
    inside, outside = tmp_path / "set", tmp_path / "source"
    content = picture_set(inside)
    outside.mkdir()
    for n in (0, 1):
        shutil.move(inside / f"training/{n}.png", outside / f"{n}.png")
        os.symlink(outside / f"{n}.png", inside / f"training/{n}.png")
    os.symlink(outside / "gone.png", inside / "training/gone.png")
    os.symlink(inside / "test/0.png", inside / "inner.png")
    content["training"][2]["image"] = "training/gone.png"
    content["test"][0]["image"] = "inner.png"
    write_list(inside, content)
    report = check(inside)
    assert found(report) == [("missing", "training/gone.png", "training")]
    (note,) = report.notes
    assert (note.kind, note.file) == ("link", "training/0.png")
    assert note.message.startswith("3 files of the datalist lie outside the folder")


def test_names_no_file_can_have_and_links_in_a_circle_are_reported(tmp_path):
    content = picture_set(tmp_path)
    os.symlink(tmp_path / "loop.png", tmp_path / "loop.png")
    (tmp_path / "folder").mkdir()
    for index, path in enumerate(["nul\0.png", "x" * 300 + ".png", "loop.png", "folder"]):
        content["training"][index]["image"] = path
    write_list(tmp_path, content)
    assert found(check(tmp_path)) == sorted([
        ("missing", "nul\0.png", "training"),
        ("unreadable", "x" * 300 + ".png", "training"),
        ("missing", "loop.png", "training"),
        ("unreadable", "folder", "training"),
    ])  # fmt: skip


def test_a_warning_of_a_reader_is_a_note(tmp_path):
    content = picture_set(tmp_path)
    pages = [Image.fromarray(picture()) for _ in range(2)]
    pages[0].save(tmp_path / "training/0.tif", save_all=True, append_images=pages[1:])
    content["training"][0]["image"] = "training/0.tif"
    write_list(tmp_path, content)
    report = check(tmp_path)
    assert report.ok
    assert [(n.kind, n.file) for n in report.notes] == [("reader", "training/0.tif")]
    assert "2 pages" in report.notes[0].message


def test_masks_without_an_organ_and_axes_off_the_right_angle_are_notes(tmp_path):
    """A tilt of 10 mm over 3 mm slices 2 mm wide: atan(10 / 3) off the right angle."""
    volume_set(tmp_path)
    for name in ("training1", "test0"):
        save_volume(tmp_path / f"masks/{name}.nii.gz", np.zeros((10, 12, 6), np.uint8))
    sheared = np.diag([2.0, 2.0, 3.0, 1.0])
    sheared[1, 2] = 10.0
    save_volume(tmp_path / "images/training2.nii.gz", RNG.normal(size=(10, 12, 6)).astype(np.float32), sheared)
    save_volume(tmp_path / "masks/training2.nii.gz", organ_mask(), sheared)
    turn = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    oblique = np.eye(4)
    oblique[:3, :3] = turn * [2.0, 2.0, 3.0]
    save_volume(tmp_path / "images/training3.nii.gz", RNG.normal(size=(10, 12, 6)).astype(np.float32), oblique)
    save_volume(tmp_path / "masks/training3.nii.gz", organ_mask(), oblique)
    report = check(tmp_path)
    assert report.problems == []
    assert [(note.kind, note.file, note.split, note.message) for note in report.notes] == [
        ("organ", "masks/training1.nii.gz", "training / test", "2 masks of the datalist show no organ"),
        ("axes", "images/training2.nii.gz", "training", "the voxel axes are 73.3 degrees off a right angle"),
    ]
    assert {note.kind for note in report.notes} <= set(KINDS)


def test_faults_of_the_list_do_not_keep_its_files_from_being_read(tmp_path):
    content = picture_set(tmp_path)
    content["modalty"] = "dermoscopy"
    content["training"][0]["subject"] = "P1"
    content["training"][1] = {"imag": "training/1.png", "label": 0}
    content["training"][2] = "training/2.png"
    del content["training"][3]["label"]
    (tmp_path / "training/0.png").unlink()
    write_list(tmp_path, content)
    report = check(tmp_path)
    assert found(report) == sorted([
        ("key", "datalist.json", ""),
        ("datalist", "training/0.png", "training"),
        ("missing", "training/0.png", "training"),
        ("key", "datalist.json", "training"),
        ("datalist", "datalist.json", "training"),
        ("datalist", "training/3.png", "training"),
    ])  # fmt: skip
    assert any("Did you mean 'modality'?" in problem.advice for problem in report.problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object"), ('{"task": 3}', "task 3 is unknown")],
)
def test_a_list_that_is_none(tmp_path, text, message):
    (tmp_path / "datalist.json").write_text(text)
    report = check(tmp_path)
    assert any(problem.kind == "datalist" and message in problem.message for problem in report.problems)
    assert all(problem.file == "datalist.json" for problem in report.problems)


def test_a_folder_without_a_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no datalist\.json here\. Make one with `medssl prepare folder"):
        check(tmp_path)


@pytest.mark.parametrize(
    ("path", "leaves"),
    [("a/b.png", False), ("a/../b.png", False), ("./a.png", False), ("..png", False), ("a/..b/c.png", False),
     ("../a.png", True), ("a/../../b.png", True), ("/a.png", True), ("C:\\a.png", True), ("C:a.png", True),
     ("..\\a.png", True), ("\\\\server\\a.png", True)],
)  # fmt: skip
def test_paths_that_leave_the_folder(path, leaves):
    assert leaves_folder(path) is leaves


# --- content, whatever the format ----------------------------------------------------------------------------------


def test_copies_are_found_across_formats(tmp_path):
    grey = picture(1)
    (tmp_path / "x").mkdir()
    save_picture(tmp_path / "x/a.png", grey)
    Image.fromarray(grey).save(tmp_path / "x/b.tif")
    Image.fromarray(grey).save(tmp_path / "x/c.bmp")
    save_picture(tmp_path / "x/d.png", np.stack([grey] * 3, axis=-1))
    np.save(tmp_path / "x/e.npy", grey.astype(np.int64))
    save_volume(tmp_path / "x/f.nii.gz", grey.T[:, :, None].astype(np.float32))
    other = grey.copy()
    other[3, 3] ^= 1
    save_picture(tmp_path / "x/g.png", other)
    items = [{"image": f"x/{name}", "label": n % 2} for n, name in enumerate(sorted(os.listdir(tmp_path / "x")))]
    write_list(tmp_path, {"name": "x", "task": "binary", "labels": ["no", "yes"], "training": items})
    report = check(tmp_path)
    copies = {problem.file for problem in report.problems if problem.kind == "duplicate"}
    assert copies == {"x/b.tif", "x/c.bmp", "x/d.png", "x/e.npy", "x/f.nii.gz"}


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64])
def test_digest_counts_values_not_types(dtype):
    values = RNG.integers(0, 100, (7, 5, 3))
    assert content_digest(values.astype(dtype), has_channels=False) == content_digest(values, has_channels=False)


def test_digest_tells_other_values_shapes_and_channels_apart():
    values = RNG.integers(-100, 100, (6, 5, 3))
    changed = values.copy()
    changed[0, 0, 0] += 1
    digests = [
        content_digest(values, has_channels=False),
        content_digest(changed, has_channels=False),
        content_digest(values + 0.25, has_channels=False),
        content_digest(values.reshape(5, 6, 3), has_channels=False),
        content_digest(values[..., ::-1], has_channels=False),
        content_digest(values[::-1], has_channels=False),
    ]
    assert len(set(digests)) == len(digests)


def test_digest_of_fractions_does_not_depend_on_precision_that_is_not_there():
    values = RNG.normal(size=(4, 4, 4)).astype(np.float32)
    assert content_digest(values, has_channels=False) == content_digest(values.astype(np.float64), has_channels=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, bool])
def test_distinct_values_are_those_of_numpy(dtype):
    array = RNG.integers(0, 2 if dtype is bool else 90, (30, 30)).astype(dtype)
    assert distinct_values(array) == tuple(np.unique(array).astype(float))
    assert distinct_values(np.array([-70000, 5, 5, 2**40])) == (-70000.0, 5.0, float(2**40))
    assert distinct_values(np.array([-3, 4, -3], dtype=np.int16)) == (-3.0, 4.0)
    assert len(distinct_values(RNG.normal(size=1000))) == 257


def test_corner_distance_of_a_shift_and_of_a_rotation():
    shifted = np.eye(4)
    shifted[:3, 3] = [3, 4, 0]
    assert corner_distance(np.eye(4), shifted, (5, 5, 5)) == pytest.approx(5.0)
    quarter = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    # the corner (4, 4, z) goes to (-4, 4, z): 8 mm; so does (4, 0) -> (0, 4): 5.66 mm
    assert corner_distance(np.eye(4), quarter, (5, 5, 2)) == pytest.approx(8.0)


@pytest.mark.real
def test_real_lesions_are_without_copies_and_a_planted_one_is_found(real_data, tmp_path):
    files = sorted((real_data / "ham10000" / "images").glob("*.jpg"))[:60]
    for file in files:
        os.symlink(file, tmp_path / file.name)
    items = [{"image": file.name, "label": n % 2} for n, file in enumerate(files)]
    content = {"name": "ham", "task": "binary", "labels": ["no", "yes"], "training": items[:40], "test": items[40:]}
    write_list(tmp_path, content)
    assert check(tmp_path).ok
    with Image.open(files[0]) as image:
        image.save(tmp_path / "copy.png")
    content["test"].append({"image": "copy.png", "label": 0})
    write_list(tmp_path, content)
    assert found(check(tmp_path)) == [("leakage", "copy.png", "training / test")]
