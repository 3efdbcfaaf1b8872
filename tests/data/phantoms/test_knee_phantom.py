"""The knee phantom: one anatomy in three planes, local lesions, true places in both formats, visible labels."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import nibabel as nib
import numpy as np
import pydicom
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl_monai.apps.phantom import summary
from medssl_monai.core import ConfigError
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.phantoms import PHANTOMS, make_phantom
from medssl_monai.data.phantoms.knee.anatomy import draw_knee, knee_solids, ligament_path, rotation
from medssl_monai.data.phantoms.knee.findings import (
    PATTERNS,
    Findings,
    Ligament,
    Meniscus,
    draw_findings,
    label_sequence,
)
from medssl_monai.data.phantoms.knee.image import (
    CONTRAST,
    PLANES,
    clean_image,
    draw_series,
    render_series,
)
from medssl_monai.data.phantoms.knee.menisci import meniscus_centre
from medssl_monai.data.phantoms.knee.shapes import cylinder, ellipsoid, half_space, tube
from medssl_monai.data.phantoms.knee.sheet import ROWS, knee_sheet
from medssl_monai.data.readers import image_header, read_image

SIZE, VIEW = 64, 110.0


def series_of(knee, plane, seed=0, exam=0, size=SIZE):
    return draw_series(seed, exam, plane, size, VIEW, knee)


def tissue_at(knee, point):
    """The tissue of a world point and how far (mm) the nearest surface is, solid by solid with plain numbers."""
    tissue, nearest = "air", np.inf
    for solid in knee_solids(knee):
        x, y, z = (solid.frame @ np.append(point, 1.0))[:3]
        distance = float(solid.distance(*(np.full((1, 1, 1), c, np.float32) for c in (x, y, z)))[0, 0, 0])
        for layer in solid.layers:
            edge = (distance + layer.depth) * solid.scale
            nearest = min(nearest, abs(edge) - layer.softness / 2)
            if edge < 0 and layer.opacity == 1:
                tissue = layer.tissue
            elif edge < 0:
                nearest = 0.0
    return tissue, nearest


@pytest.mark.parametrize("exam", range(3))
def test_the_same_world_point_is_the_same_tissue_in_every_plane(exam):
    """Away from surfaces each voxel shows the tissue that the anatomy has at its world position, in every plane."""
    knee = draw_knee(5, exam, Findings())
    palette = {name: value for value, name in enumerate(sorted(CONTRAST["axial"]), start=1)}
    rng = np.random.default_rng(exam)
    seen: Counter[str] = Counter()
    for plane in PLANES:
        series = series_of(knee, plane, 5, exam)
        picture = clean_image(knee, series, palette)
        assert picture.shape == series.shape
        for index in rng.integers(0, picture.shape, (150, 3)):
            tissue, far = tissue_at(knee, (series.affine @ np.append(index, 1.0))[:3])
            if far > series.thickness / 2 + series.pixel:
                assert picture[tuple(index)] == pytest.approx(palette.get(tissue, 0), abs=1e-4)
                seen[tissue] += 1
    assert {"air", "muscle", "marrow", "fat"} <= set(seen)
    assert sum(seen.values()) > 100


def test_planes_agree_with_one_another():
    """Thin slices of two planes, read at the same world points, show the same picture."""
    knee = draw_knee(1, 0, Findings())
    a, b = (series_of(knee, plane, 1, 0, 96) for plane in ("sagittal", "axial"))
    pictures = [clean_image(knee, s, CONTRAST["axial"]) for s in (a, b)]
    index = np.stack(np.meshgrid(*(np.arange(n) for n in a.shape), indexing="ij"), -1).reshape(-1, 3)
    other = (np.linalg.inv(b.affine) @ a.affine @ np.c_[index, np.ones(len(index))].T)[:3].T.round().astype(int)
    inside = ((other >= 0) & (other < b.shape)).all(1)
    x, y = pictures[0][tuple(index[inside].T)], pictures[1][tuple(other[inside].T)]
    assert inside.sum() > 20_000
    assert np.corrcoef(x, y)[0, 1] > 0.85
    assert np.median(np.abs(x - y)) < 0.01
    shifted = pictures[1][tuple(np.clip(other[inside] + [0, 8, 0], 0, np.array(b.shape) - 1).T)]
    assert np.corrcoef(x, shifted)[0, 1] < 0.6


def test_which_side_is_which():
    """World axes: the patella lies in front, the femur above the tibia, the fibula on the outer side of either leg."""
    sides = set()
    for exam in range(6):
        knee = draw_knee(0, exam, Findings())
        sides.add(knee.right)
        places = {}
        for solid in knee_solids(knee):
            if solid.name in ("patella", "fibula", "femur", "tibia"):
                middle = np.append((solid.low + solid.high) / 2, 1.0)
                places[solid.name] = (np.linalg.inv(solid.frame) @ middle)[:3]
        assert places["patella"][1] > knee.centre[1] + 20
        assert places["femur"][2] > knee.centre[2] > places["tibia"][2]
        assert (places["fibula"][0] > knee.centre[0]) == knee.right
        assert (knee.centre[0] > 0) == knee.right  # RAS: the right knee is at positive x
    assert sides == {True, False}


@pytest.mark.parametrize("plane", PLANES)
def test_affines(plane):
    knee = draw_knee(0, 2, Findings())
    series = series_of(knee, plane, exam=2)
    axes = series.affine[:3, :3] / np.linalg.norm(series.affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    codes = {"sagittal": ("P", "I", "R"), "coronal": ("L", "I", "P"), "axial": ("L", "P", "S")}
    assert nib.aff2axcodes(series.affine) == codes[plane]
    assert not np.allclose(np.abs(axes).max(0), 1)  # oblique
    assert 20 <= series.shape[2] <= 36
    assert 3 <= series.thickness <= 4 <= series.distance + 1
    # the cruciate ligament, what it is all about, lies well within the stack
    path = np.c_[ligament_path(knee), np.ones(9)] @ np.linalg.inv(knee.thigh).T
    index = (path @ np.linalg.inv(series.affine).T)[:, :3]
    assert (index > 0.1 * np.array(series.shape)).all()
    assert (index < 0.9 * np.array(series.shape)).all()


def findings():
    ligaments = [Findings(ligament=Ligament(kind, 0.5, 0.0)) for kind in ("gap", "wavy", "absent")]
    kinds = ("oblique", "vertical", "truncated", "displaced")
    menisci = [Findings(meniscus=Meniscus(k, m, 0.1, 0.5, 0.2)) for k, m in zip(kinds, (True, False) * 2, strict=True)]
    return ligaments + menisci + [Findings(other=(kind,)) for kind in ("effusion", "bruise", "cartilage")]


@pytest.mark.parametrize("found", findings(), ids=lambda f: str(f.ligament or f.meniscus or f.other)[:40])
@pytest.mark.parametrize("plane", PLANES)
def test_a_lesion_changes_few_voxels_in_few_slices(found, plane):
    healthy = draw_knee(0, 4, Findings())
    series = series_of(healthy, plane, exam=4)
    before, after = (clean_image(draw_knee(0, 4, f), series, CONTRAST[plane]) for f in (Findings(), found))
    changed = np.abs(after - before) > 0.05
    per_slice = changed.any((0, 1))
    assert 8 < changed.sum() < 0.03 * changed.size
    assert per_slice.sum() < (0.9 if found.other == ("effusion",) else 0.65) * len(per_slice)
    places = (series.affine @ np.c_[np.argwhere(changed), np.ones(changed.sum())].T)[:3].T
    if found.ligament:
        middle, frame = ligament_path(healthy, 3)[1], healthy.thigh
    elif found.meniscus:
        middle, frame = meniscus_centre(found.meniscus.medial), healthy.shank
    else:
        return
    centre = (np.linalg.inv(frame) @ np.append(middle, 1))[:3]
    assert np.linalg.norm(places - centre, axis=1).max() < 36


@pytest.mark.parametrize("found", findings(), ids=lambda f: str(f.ligament or f.meniscus or f.other)[:40])
def test_severity_makes_lesions_larger(found):
    healthy = draw_knee(0, 4, Findings())
    series = series_of(healthy, "sagittal", exam=4)
    before = clean_image(healthy, series, CONTRAST["sagittal"])
    sizes = []
    for severity in (0.5, 1.0, 2.0):
        after = clean_image(draw_knee(0, 4, replace(found, severity=severity)), series, CONTRAST["sagittal"])
        sizes.append(int((np.abs(after - before) > 0.05).sum()))
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_torn_ligament_may_let_the_tibia_slide_forward():
    knee = draw_knee(0, 1, Findings(ligament=Ligament("gap", 0.5, 6.0)))
    still = draw_knee(0, 1, Findings(ligament=Ligament("gap", 0.5, 0.0)))
    tubercle = np.array([2, 25, -38, 1.0])
    moved, before = (np.linalg.inv(one.shank) @ tubercle for one in (knee, still))
    assert np.linalg.norm((moved - before)[:3]) == pytest.approx(6 * knee.scale)
    assert moved[1] > before[1] + 5 * knee.scale
    np.testing.assert_array_equal(knee.thigh, still.thigh)


def test_findings_make_up_their_label():
    for label, exam in itertools.product(PATTERNS, range(40)):
        found = draw_findings(label, 3, exam)
        assert found.label == label
        assert draw_findings(label, 3, exam) == found
    drawn = [draw_findings((1, 1, 1), 3, exam) for exam in range(300)]
    assert {f.ligament.kind for f in drawn} == {"gap", "wavy", "absent"}
    assert {f.meniscus.kind for f in drawn} == {"oblique", "vertical", "truncated", "displaced"}
    assert {f.meniscus.medial for f in drawn} == {True, False}
    shifts = np.array([f.ligament.shift for f in drawn])
    assert 0.4 < (shifts == 0).mean() < 0.6
    assert 3 <= shifts[shifts > 0].min() < shifts.max() <= 7
    assert 0.3 < np.mean([bool(f.other) for f in drawn]) < 0.5
    with pytest.raises(ValueError, match=r"label is \(0, 1, 0\); expected one of .* \(abnormal, acl, meniscus\)"):
        draw_findings((0, 1, 0), 0, 0)


@pytest.mark.parametrize("seed", range(4))
def test_prevalence(seed):
    labels = np.array(label_sequence(2000, seed, 0.8, 0.2, 0.4))
    np.testing.assert_allclose(labels.mean(0), (0.8, 0.2, 0.4), atol=0.004)
    assert (labels[:, 1:].max(1) <= labels[:, 0]).all()
    assert np.abs((labels[:, 1] * labels[:, 2]).mean() - 0.8 * 0.25 * 0.5) < 0.004
    assert label_sequence(30, seed, 0.8, 0.2, 0.4) == tuple(map(tuple, labels[:30].tolist()))
    assert np.array(label_sequence(20, seed, 0.0, 0.0, 0.0)).sum() == 0
    with pytest.raises(ConfigError, match=r"cannot be more frequent than abnormality.*found abnormal 0.1, acl 0.2"):
        label_sequence(20, seed, 0.1, 0.2, 0.0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("exams", [20, 40])
def test_every_split_of_a_small_set_shows_and_lacks_every_label(tmp_path, seed, exams, monkeypatch):
    monkeypatch.setattr(type(PHANTOMS.get("knee")), "write", lambda *arguments: None)  # splits only
    datalist = make_phantom("knee", tmp_path, subjects=exams, seed=seed, split=(0.6, 0.2, 0.2))
    for split in ("training", "validation", "test"):
        labels = np.array([item.label for item in datalist.splits[split]])
        assert labels.any(0).all()
        assert (1 - labels).any(0).all()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("knee")
    return make_phantom(
        "knee", folder / "a", subjects=5, seed=2, size=48, field_of_view=VIEW, dicom=2, split=(0.4, 0.2, 0.4)
    )


def test_the_folder_obeys_the_data_contract(dataset):
    read = load_datalist(dataset.root)
    assert read.to_json() == dataset.to_json()
    assert read.task == "multilabel"
    assert read.class_names == ["abnormal", "acl", "meniscus"]
    assert read.modality == "MR"
    for _, item in read:
        assert list(item.image) == list(PLANES)
        assert item.subject == f"subject:{item.name.split('/')[1]}"
        assert set(item.columns) == {"age", "sex", "side"}
        for path in item.paths:
            header = image_header(dataset.root / path)
            assert header.shape[:2] == (48, 48)
            assert header.dtype == np.uint16
    table = summary(read)
    assert "abnormal  acl  meniscus" in table
    assert int(table.splitlines()[2].split()[3]) == sum(item.label[0] for item in read.splits["training"])


def test_files_are_equal_byte_for_byte_however_many_there_are(dataset, tmp_path):
    again = make_phantom(
        "knee", tmp_path, subjects=2, seed=2, size=48, field_of_view=VIEW, dicom=1, split=(0.5, 0.0, 0.5)
    )
    files = [p for p in again.root.rglob("*") if p.is_file() and p.suffix != ".json"]
    assert {p.suffix for p in files} == {".gz", ".dcm"}
    for path in files:
        assert path.read_bytes() == (dataset.root / path.relative_to(again.root)).read_bytes()
    assert not (again.root / "dicom" / "E00001").exists()
    one = render_series(Findings(), 2, 0, "axial", 48, VIEW, 0.03)[0]
    assert not np.array_equal(one, render_series(Findings(), 3, 0, "axial", 48, VIEW, 0.03)[0])


@pytest.mark.parametrize("exam", ["E00000", "E00001"])
@pytest.mark.parametrize("plane", PLANES)
def test_dicom_and_nifti_are_the_same_image_in_the_same_place(dataset, exam, plane):
    voxels, meta = read_image(dataset.root / "exams" / exam / f"{plane}.nii.gz")
    same, place = read_image(dataset.root / "dicom" / exam / plane)
    np.testing.assert_array_equal(voxels, same)
    assert voxels.dtype == same.dtype
    np.testing.assert_allclose(np.asarray(meta["affine"]), np.asarray(place["affine"]), atol=1e-4)


def test_dicom_headers(dataset):
    files = sorted((dataset.root / "dicom" / "E00000").rglob("*.dcm"))
    headers = [pydicom.dcmread(path) for path in files]
    assert {h.SOPClassUID.name for h in headers} == {"MR Image Storage"}
    assert len({h.SOPInstanceUID for h in headers}) == len(files)
    assert len({h.SeriesInstanceUID for h in headers}) == 3
    assert len({h.StudyInstanceUID for h in headers}) == len({h.FrameOfReferenceUID for h in headers}) == 1
    item = next(item for _, item in dataset if "E00000" in item.name)
    for plane in PLANES:
        chosen = [h for path, h in zip(files, headers, strict=True) if path.parent.name == plane]
        positions = np.array([h.ImagePositionPatient for h in chosen], float)
        steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        np.testing.assert_allclose(steps, float(chosen[0].SpacingBetweenSlices), rtol=1e-6)
        assert 3 <= float(chosen[0].SliceThickness) <= 4
        assert chosen[0].Laterality == item.columns["side"][0].upper()
        rows = np.array(chosen[0].ImageOrientationPatient, float).reshape(2, 3)
        front = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}[plane]
        assert tuple(np.abs(rows).argmax(1)) == front


def crops(plane, exams, seed=11):
    """Small boxes about ligament and posterior horn, in units of the image's middle, and the labels of each exam.

    The horn is that of the torn meniscus, else of the one that the exam's side says.
    """
    offsets = np.stack(np.meshgrid(*[np.linspace(-12, 12, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    rows: dict[str, list[np.ndarray]] = {"acl": [], "meniscus": []}
    patterns = [pattern for pattern in PATTERNS if pattern[0]]
    labels = [patterns[exam % len(patterns)] for exam in range(exams)]
    for exam, pattern in enumerate(labels):
        found = draw_findings(pattern, seed, exam)
        knee = draw_knee(seed, exam, found)
        image, series = render_series(found, seed, exam, plane, SIZE, VIEW, 0.03)
        medial = found.meniscus.medial if found.meniscus else knee.right
        horn = np.array(meniscus_centre(medial)) + np.array([0, -17, 3])
        places = {"acl": (knee.thigh, ligament_path(knee, 3)[1]), "meniscus": (knee.shank, horn)}
        for name, (frame, point) in places.items():
            world = np.linalg.inv(frame) @ np.c_[offsets + point, np.ones(len(offsets))].T
            index = (np.linalg.inv(series.affine) @ world)[:3].round().astype(int).T
            index = np.clip(index, 0, np.array(series.shape) - 1)
            rows[name].append(image[tuple(index.T)] / np.median(image[image > np.median(image)]))
    truth = dict(zip(("acl", "meniscus"), np.array(labels)[:, 1:].T, strict=True))
    return {name: (np.stack(boxes), truth[name]) for name, boxes in rows.items()}


@pytest.mark.parametrize("plane", PLANES)
def test_a_simple_detector_sees_the_tears(plane):
    """Logistic regression on the intensities about ligament and horn: far above chance, so the label is in the image.

    All exams are abnormal, many with both tears or another abnormality: what is told apart is the tear itself.
    """
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    for features, truth in crops(plane, 160).values():
        score = cross_val_predict(model, features, truth, cv=5, method="decision_function")
        assert roc_auc_score(truth, score) > 0.8


def test_pose_and_stack_do_not_tell_the_label():
    """Size, side, pose, stacks and contrast are functions of the exam's number alone."""
    a, b = (draw_knee(0, 5, draw_findings(label, 0, 5)) for label in ((0, 0, 0), (1, 1, 1)))
    assert {k: v for k, v in vars(a).items() if k != "findings"} == {
        k: v for k, v in vars(b).items() if k != "findings"
    }
    for plane in PLANES:
        np.testing.assert_array_equal(series_of(a, plane, 0, 5).affine, series_of(b, plane, 0, 5).affine)
    knees = [draw_knee(0, exam, Findings()) for exam in range(200)]
    assert 0.4 < np.mean([knee.right for knee in knees]) < 0.6
    assert np.std([knee.scale for knee in knees]) > 0.05
    assert len({series_of(knee, "axial", 0, e).shape[2] for e, knee in enumerate(knees[:60])}) > 8


def test_distances_by_hand():
    """Points at known distances; ellipsoids are exact at the surface and nearly so close to it."""

    def at(distance, *point):
        return float(distance(*(np.full((1, 1, 1), c, np.float32) for c in point))[0, 0, 0])

    pipe = tube([(0, 0, 0), (10, 0, 0), (10, 10, 0)], [2, 1, 1])
    assert at(pipe, 0, 5, 0) == pytest.approx(3)
    assert at(pipe, 5, 0, 0) == pytest.approx(-1.5)
    assert at(pipe, 10, 13, 4) == pytest.approx(4)
    ball = ellipsoid((1, 0, 0), (10, 20, 5))
    for surface, normal in (((11, 0, 0), (1, 0, 0)), ((1, 20, 0), (0, 1, 0)), ((1, 0, -5), (0, 0, -1))):
        for step in (-0.5, 0.0, 0.5):
            assert at(ball, *(np.array(surface) + step * np.array(normal))) == pytest.approx(step, abs=0.03)
    assert at(cylinder((1, 2), (5, 5)), 1, 10, 99) == pytest.approx(3)
    assert at(half_space((0, 0, 1), 4), 7, 7, 6) == pytest.approx(2)
    turn = rotation(0.3, -0.2, 0.5)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rotation(0, 0, np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_noise_is_rician():
    """In air the magnitude of two noise channels has the Rayleigh mean, sigma sqrt(pi / 2)."""
    quiet, series = render_series(Findings(), 0, 0, "axial", SIZE, VIEW, 0.0)
    noisy, _ = render_series(Findings(), 0, 0, "axial", SIZE, VIEW, 0.05)
    air = quiet == 0
    assert air.any()
    gain = quiet.max() / 1000  # of the order of one: bias and gain
    assert noisy[air].mean() / noisy[air].std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.03)
    assert 0.5 < noisy[air].mean() / (50 * np.sqrt(np.pi / 2) * gain) < 2
    assert np.array_equal(quiet, render_series(Findings(), 0, 0, "axial", SIZE, VIEW, 0.0)[0])
    assert series.pixel == pytest.approx(VIEW / SIZE, rel=0.06)


def test_what_is_no_exam():
    phantom = PHANTOMS.get("knee")
    item = next(iter(next(iter(phantom.items(_recipe())))))
    wrong = type(item)(item.image, 1, item.subject)
    with pytest.raises(ValueError, match="a knee exam has a 0/1 vector and three planes, got 1"):
        phantom.write(_recipe(), 0, [wrong], None)


def _recipe():
    from medssl_monai.data.phantoms import Recipe

    options = {name: option.default for name, option in PHANTOMS.get("knee").options.items()}
    return Recipe("knee", 1, 0, 48, (1.0, 0.0, 0.0), 0.0, options)


def test_sheet():
    """Each row differs from the intact knee in every plane; all tiles show something."""
    picture = knee_sheet(1, tile=64)
    assert picture.dtype == np.uint8
    rows, columns, step = len(ROWS), len(PLANES), 66
    head, margin = picture.shape[0] - rows * step, picture.shape[1] - columns * step
    body = picture[head:, margin:].reshape(rows, step, columns, step, 3)
    tiles = body.swapaxes(1, 2)[:, :, :64, :64]
    assert (tiles.std((2, 3, 4)) > 20).all()
    assert (np.abs(tiles[1:].astype(float) - tiles[:1]).mean((2, 3, 4)) > 5).all()
    assert (picture[:head] < 128).any()
    with pytest.raises(ValueError, match="tile must be positive, got 0"):
        knee_sheet(tile=0)
