"""The abdomen phantom: organs where a body has them, masks that fit the image, true places, persons that differ."""

from __future__ import annotations

from itertools import combinations

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.ndimage import binary_erosion, label

from medssl_monai.core import ConfigError
from medssl_monai.data import segmentation_datalist, select_budget
from medssl_monai.data.check import check_dataset
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.phantoms import PHANTOMS, Recipe, make_phantom
from medssl_monai.data.phantoms.abdomen.anatomy import LABELS, draw_abdomen, solid
from medssl_monai.data.phantoms.abdomen.forms import blended, grown, tilted, trunk, wavy
from medssl_monai.data.phantoms.abdomen.image import draw_masks, draw_palette, draw_series, render_scan, texture
from medssl_monai.data.phantoms.abdomen.organs import abdomen_solids, organ_solids
from medssl_monai.data.phantoms.abdomen.sheet import abdomen_sheet
from medssl_monai.data.phantoms.knee.anatomy import rotation
from medssl_monai.data.phantoms.knee.image import paint_series
from medssl_monai.data.phantoms.knee.shapes import ellipsoid
from medssl_monai.data.readers import read_image

SIZE, VIEW, SPACING = 64, 320.0, 9.0
ORGANS = [value for value in LABELS if value]


def stack(person, orientation="axial", size=SIZE, spacing=SPACING, seed=0):
    return draw_series(seed, person, size, VIEW, spacing, orientation)


def world(affine, index):
    return np.c_[index, np.ones(len(index))] @ affine[:3].T


def at(distance, points):
    """Distance at points (n, 3), each by itself."""
    x, y, z = np.asarray(points, np.float32).T[:, None, None]
    return np.array(distance(x, y, z)).ravel()


@pytest.fixture(scope="module")
def scans():
    """Twelve persons: build, stack and mask."""
    found = []
    for subject in range(12):
        person = draw_abdomen(0, subject, 0.0)
        series = stack(person)
        found.append((person, series, draw_masks(person, series)))
    return found


class TestAnatomy:
    def test_organs_lie_on_their_sides_of_the_body_in_world_coordinates(self, scans):
        """RAS: the liver on the positive side of x, and above the kidneys, which lie behind it."""
        for person, series, mask in scans:
            x, y, z = np.array(
                [world(series.affine, np.argwhere(mask == value)).mean(0) - person.centre for value in ORGANS]
            ).T
            liver, right, left, spleen = range(4)
            assert min(x[liver], x[right]) > 30
            assert max(x[left], x[spleen]) < -30
            assert min(z[liver], z[spleen]) > max(z[right], z[left]) + 10
            assert max(y[right], y[left]) < y[liver] - 15
            assert y[spleen] < y[liver]

    def test_volumes_are_those_of_adults_and_each_organ_is_one_piece(self, scans):
        limits = {1: (800, 2600), 2: (60, 300), 3: (60, 300), 4: (40, 500)}  # ml
        for _, series, mask in scans:
            for value, (low, high) in limits.items():
                volume = (mask == value).sum() * abs(np.linalg.det(series.affine[:3, :3])) / 1000
                assert low < volume < high
                sizes = np.bincount(label(mask == value)[0].ravel())[1:]
                assert sizes.max() > 0.98 * sizes.sum()

    def test_organs_lie_inside_the_body_and_in_the_picture(self, scans):
        """By the formula of the trunk in plain float64."""
        for person, series, mask in scans:
            assert not mask[[0, -1]].any()
            assert not mask[:, [0, -1]].any()
            places = world(series.affine, np.argwhere(mask)) - person.centre
            x, y, z = (places @ rotation(*person.angles)).T
            linear, square = person.flare
            size = 1 + linear * z / 100 + square * (z / 100) ** 2
            u, v = (x / (person.width - person.fat)) ** 2, (y / (person.depth - person.fat)) ** 2
            assert ((u**2 + v**2 + 2 * person.roundness * u * v) ** 0.25 < size).all()

    def test_organs_do_not_overlap(self, scans):
        rng = np.random.default_rng(0)
        for person, _, _ in scans[:4]:
            points = rng.uniform((-150, -110, -130), (150, 110, 130), (60_000, 3))
            inside = [at(parts[0].distance, points) < 0 for parts in organ_solids(person).values()]
            assert all(one.any() for one in inside)
            assert not any((a & b).any() for a, b in combinations(inside, 2))

    def test_persons_differ(self, scans):
        volumes = np.array(
            [[(mask == v).sum() * series.pixel**2 * series.distance for v in ORGANS] for _, series, mask in scans]
        )
        assert (volumes.std(0) / volumes.mean(0) > 0.1).all()
        centres = np.array(
            [
                [world(series.affine, np.argwhere(mask == v)).mean(0) - person.centre for v in ORGANS]
                for person, series, mask in scans
            ]
        )
        assert (centres.std(0).max(1) > 5).all()  # mm, along the axis that varies most
        assert len({series.shape[2] for _, series, _ in scans}) >= 3
        livers = [draw_palette(0, subject)["liver"] for subject in range(40)]
        assert 0.06 < np.std(np.log(livers)) < 0.2
        first, second = (organ_solids(scans[k][0])["liver"][0] for k in (0, 1))
        assert not np.allclose(first.low, second.low)

    def test_what_lacks_is_the_only_difference(self):
        for subject in range(60):
            whole, lacking = (draw_abdomen(3, subject, share) for share in (0.0, 1.0))
            assert whole.lacking == ""
            assert {k: v for k, v in vars(whole).items() if k != "lacking"} == {
                k: v for k, v in vars(lacking).items() if k != "lacking"
            }
        missing = [draw_abdomen(3, subject, 1.0).lacking for subject in range(60)]
        assert set(missing) == {"right kidney", "left kidney", "spleen"}
        assert 0.2 < np.mean([bool(draw_abdomen(3, subject, 0.4).lacking) for subject in range(200)]) < 0.6
        person = draw_abdomen(3, 0, 1.0)
        whole = draw_abdomen(3, 0, 0.0)
        gone = next(value for value, name in LABELS.items() if name == person.lacking)
        before, after = (draw_masks(one, stack(one, seed=3)) for one in (whole, person))
        np.testing.assert_array_equal(after, np.where(before == gone, 0, before))
        assert (before == gone).any()
        assert person.lacking not in {one.name for one in abdomen_solids(person)}


class TestImage:
    @pytest.mark.parametrize("orientation", ["axial", "flipped", "oblique"])
    def test_masks_lie_where_the_anatomy_is(self, orientation):
        """Away from surfaces a voxel has the value of the organ that holds its world position, whatever the axes."""
        person = draw_abdomen(1, 2, 0.0)
        series = stack(person, orientation)
        mask = draw_masks(person, series)
        assert mask.shape == series.shape
        index = np.random.default_rng(0).integers(0, mask.shape, (4000, 3))
        places = world(series.affine, index)
        expected, far = np.zeros(len(index)), np.full(len(index), np.inf)
        for value, (name, parts) in zip(ORGANS, organ_solids(person).items(), strict=True):
            assert LABELS[value] == name
            distance = at(parts[0].distance, (np.c_[places, np.ones(len(places))] @ parts[0].frame.T)[:, :3])
            expected[distance < 0] = value
            far = np.minimum(far, np.abs(distance))
        clear = far > series.thickness / 2 + series.pixel
        assert clear.sum() > 2000
        assert set(expected[clear]) >= {0, 1}
        np.testing.assert_array_equal(mask[tuple(index[clear].T)], expected[clear])

    def test_the_inside_of_an_organ_has_its_intensity(self):
        person = draw_abdomen(0, 1, 0.0)
        series = stack(person, size=96, spacing=6.0)
        palette = draw_palette(0, 1)
        clean, mask = paint_series(abdomen_solids(person), series, palette), draw_masks(person, series)
        for value, tissue in ((1, "liver"), (4, "spleen")):
            core = binary_erosion(mask == value, iterations=2)
            assert core.sum() > 20
            assert np.median(clean[core]) == pytest.approx(palette[tissue], rel=1e-4)
        for value in (2, 3):
            core = clean[binary_erosion(mask == value)]
            assert core.mean() > 0.8 * min(palette["cortex"], palette["medulla"])
        assert clean[0, 0].max() == 0

    def test_the_mask_is_the_majority_of_each_voxel(self):
        """A ball: as large as by its formula, to a few percent, however thick the slices are."""
        person = draw_abdomen(0, 0, 0.0)
        series = stack(person, size=96, spacing=12.0)
        one = solid(person, "ball", (-40, -40, -40), (40, 40, 40), ellipsoid((0, 0, 0), (40, 40, 40)), "liver")
        cover = paint_series([one], series, {"liver": 1.0}) >= 0.5
        assert cover.sum() * series.pixel**2 * series.distance == pytest.approx(4 / 3 * np.pi * 40**3, rel=0.03)

    def test_orientations(self):
        person = draw_abdomen(0, 0, 0.0)
        assert nib.aff2axcodes(stack(person).affine) == ("L", "P", "S")
        codes, handed = set(), set()
        for subject in range(80):
            one = draw_abdomen(0, subject, 0.0)
            flipped, oblique = (stack(one, name).affine for name in ("flipped", "oblique"))
            codes.add(nib.aff2axcodes(flipped))
            handed.add(np.linalg.det(flipped) > 0)
            axes = oblique[:3, :3] / np.linalg.norm(oblique[:3, :3], axis=0)
            np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
            assert np.linalg.det(oblique) > 0
        assert ("L", "P", "S") not in codes
        assert len(codes) == 7
        assert handed == {True, False}
        tilt = [np.abs(stack(draw_abdomen(0, s, 0.0), "oblique").affine[:2, 2]).max() / SPACING for s in range(24)]
        assert max(tilt) > 0.25
        kinds = {nib.aff2axcodes(stack(draw_abdomen(0, s, 0.0), "mixed").affine) for s in range(24)}
        assert len(kinds) > 3

    def test_the_same_organ_is_at_the_same_place_in_every_orientation(self):
        person = draw_abdomen(4, 1, 0.0)
        a, b = (stack(person, name, 96, 6.0, 4) for name in ("axial", "oblique"))
        masks = [draw_masks(person, one) for one in (a, b)]
        index = np.argwhere(np.ones(a.shape, bool))
        other = (world(np.linalg.inv(b.affine) @ a.affine, index)).round().astype(int)
        inside = ((other >= 0) & (other < b.shape)).all(1)
        x, y = masks[0][tuple(index[inside].T)], masks[1][tuple(other[inside].T)]
        for value in ORGANS:
            assert 2 * ((x == value) & (y == value)).sum() / ((x == value).sum() + (y == value).sum()) > 0.9

    def test_spacing_and_field_of_view(self):
        person = draw_abdomen(0, 3, 0.0)
        series = stack(person, size=128, spacing=7.7)
        assert series.pixel == pytest.approx(VIEW / 128, rel=0.07)
        assert series.distance == pytest.approx(7.7, rel=0.07)
        assert 200 < series.shape[2] * series.distance < 280

    def test_noise_and_texture_can_be_left_out(self):
        person = draw_abdomen(0, 0, 0.0)
        series = stack(person)
        quiet, mask = render_scan(0, person, series, 0.0, 0.0)
        noisy, same = render_scan(0, person, series, 0.05, 0.1)
        np.testing.assert_array_equal(mask, same)
        assert (quiet == 0).mean() > 0.2
        assert (noisy == 0).mean() < 0.01
        field = texture(series, np.random.default_rng(0), 0.1)
        assert field.shape == series.shape
        assert field.mean() == pytest.approx(1, abs=0.05)
        assert 0.04 < field.std() < 0.2
        assert np.abs(np.diff(field, axis=0)).mean() < field.std() / 2  # smooth


class TestForms:
    def test_distances_by_hand(self):
        body = trunk((1, 2), (10, 10), 1.0, (0.0, 0.0))
        np.testing.assert_allclose(at(body, [(1, 15, 99), (5, 5, -9)]), [3, -5], atol=1e-4)
        square = trunk((0, 0), (10, 10), 0.0, (0.0, 0.0))  # x^4 + y^4 = 10^4
        corner = 10 / 2**0.25
        np.testing.assert_allclose(at(square, [(corner, corner, 0), (10, 0, 5)]), [0, 0], atol=1e-4)
        wide = trunk((0, 0), (10, 10), 1.0, (0.1, 0.2))
        np.testing.assert_allclose(at(wide, [(13, 0, 100), (11, 0, -100)]), [0, 0], atol=1e-4)
        ball = ellipsoid((0, 0, 0), (5, 5, 5))
        np.testing.assert_allclose(at(grown(ball, 2), [(5, 0, 0), (1, 2, 3)]), at(ball, [(5, 0, 0), (1, 2, 3)]) - 2)
        turn = rotation(0, 0, np.pi / 2)
        long = tilted(ellipsoid((0, 0, 0), (10, 2, 2)), (1, 1, 1), turn)
        np.testing.assert_allclose(at(long, [(1, 11, 1), (3, 1, 1)]), [0, 0], atol=1e-2)

    def test_a_blend_fills_the_edge_and_is_the_union_elsewhere(self):
        a, b = ellipsoid((-4, 0, 0), (5, 5, 5)), ellipsoid((4, 0, 0), (5, 5, 5))
        both = blended(a, b, 2.0)
        points = [(-9, 0, 0), (9, 0, 0), (0, 3, 0)]
        mixed, union = at(both, points), np.minimum(at(a, points), at(b, points))
        np.testing.assert_allclose(mixed[:2], union[:2], atol=1e-5)
        assert mixed[2] == pytest.approx(union[2] - 0.5, abs=1e-5)  # width / 4 where both are equally near

    def test_waves(self):
        flat = wavy(lambda x, y, z: z + 0 * x, np.array([[np.pi / 10, 0, 0]]), np.array([0.0]), 2.0)
        np.testing.assert_allclose(at(flat, [(5, 0, 0), (15, 7, 1), (10, 0, 3)]), [2, -1, 3], atol=1e-5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom(
        "abdomen", tmp_path_factory.mktemp("abdomen") / "a", subjects=6, seed=2, size=48, slice_spacing=14.0, dicom=3,
        orientation="mixed", lacking=0.5, split=(0.5, 0.0, 0.5),
    )  # fmt: skip


class TestFiles:
    def test_the_folder_obeys_the_data_contract(self, dataset):
        read = load_datalist(dataset.root)
        assert read.to_json() == dataset.to_json()
        assert segmentation_datalist(dataset.root).organs == {k: v for k, v in LABELS.items() if k}
        assert check_dataset(dataset.root, progress=False).problems == []
        for _, item in read:
            image, mask = (nib.load(dataset.root / path) for path in (item.image, item.label))
            np.testing.assert_array_equal(image.affine, mask.affine)
            assert image.shape == mask.shape
            assert (image.get_data_dtype(), mask.get_data_dtype()) == (np.uint16, np.uint8)
            shown = {LABELS[value] for value in np.unique(mask.dataobj) if value}
            assert set(LABELS.values()) - shown - {"background"} == {item.columns.get("lacking")} - {None}
        assert 0 < sum("lacking" in item.columns for _, item in read) < 6
        budget = select_budget(read, label_budget=1)
        assert set(budget.classes_training.values()) == {1}

    def test_files_are_equal_byte_for_byte_however_many_there_are(self, dataset, tmp_path):
        options = {"seed": 2, "size": 48, "slice_spacing": 14.0, "orientation": "mixed", "lacking": 0.5}
        again = make_phantom("abdomen", tmp_path, subjects=2, dicom=1, split=(1.0, 0.0, 0.0), **options)
        files = [p for p in again.root.rglob("*") if p.is_file() and p.suffix != ".json"]
        assert {p.suffix for p in files} == {".gz", ".dcm"}
        for path in files:
            assert path.read_bytes() == (dataset.root / path.relative_to(again.root)).read_bytes()
        other = make_phantom("abdomen", tmp_path / "o", subjects=1, split=(1.0, 0.0, 0.0), **{**options, "seed": 3})
        image = "scans/A00000/image.nii.gz"
        assert (other.root / image).read_bytes() != (dataset.root / image).read_bytes()

    @pytest.mark.parametrize("scan", ["A00000", "A00001", "A00002"])
    def test_dicom_and_nifti_are_the_same_image_in_the_same_place(self, dataset, scan):
        """Voxel by voxel in world coordinates; the order of the slices may differ where axes are flipped."""
        voxels, meta = read_image(dataset.root / "scans" / scan / "image.nii.gz")
        same, place = read_image(dataset.root / "dicom" / scan)
        first, second = (
            nib.as_closest_canonical(nib.Nifti1Image(np.asarray(v), np.asarray(m["affine"], float)))
            for v, m in ((voxels, meta), (same, place))
        )
        np.testing.assert_allclose(first.affine, second.affine, atol=1e-3)
        np.testing.assert_array_equal(first.dataobj, second.dataobj)

    def test_dicom_headers(self, dataset):
        headers = [pydicom.dcmread(path) for path in sorted((dataset.root / "dicom" / "A00000").iterdir())]
        assert {(h.BodyPartExamined, h.Laterality, h.SeriesDescription) for h in headers} == {
            ("ABDOMEN", "", "axial T2 FS")
        }
        assert len({h.SOPInstanceUID for h in headers}) == len(headers)
        assert len({h.SeriesInstanceUID for h in headers}) == 1

    def test_options_and_items_that_do_not_fit(self, tmp_path):
        with pytest.raises(ConfigError, match=r"option orientation cannot be 'obliqe'.*Did you mean 'oblique'"):
            make_phantom("abdomen", tmp_path, subjects=3, orientation="obliqe")
        with pytest.raises(ConfigError, match=r"option slice_spacing is out of range \(found 1.0, expected 2 to 40\)"):
            make_phantom("abdomen", tmp_path, subjects=3, slice_spacing=1.0)
        phantom = PHANTOMS.get("abdomen")
        options = {name: option.default for name, option in phantom.options.items()}
        recipe = Recipe("abdomen", 1, 0, 32, (1.0, 0.0, 0.0), 0.0, {**options, "slice_spacing": 40.0})
        item = phantom.items(recipe)[0][0]
        wrong = type(item)(item.image, 1, item.subject)
        with pytest.raises(ValueError, match=r"an abdominal scan has one image and one mask, got .*, 1"):
            phantom.write(recipe, 0, [wrong], tmp_path)

    def test_sheet(self):
        picture = abdomen_sheet(1, scans=2, tile=192)
        assert picture.shape == (2 * 194 + 2, 5 * 194 + 2, 3)
        assert picture.dtype == np.uint8
        assert picture[:2].min() == 255
        tiles = [picture[r : r + 192, c : c + 192] for r in (2, 196) for c in range(2, 970, 194)]
        outlines = [np.ptp(tile.astype(int), axis=2) > 100 for tile in tiles]
        assert all(50 < outline.sum() < 0.1 * outline.size for outline in outlines)
        with pytest.raises(ValueError, match="scans and tile must be positive, got 3 and 0"):
            abdomen_sheet(tile=0)
