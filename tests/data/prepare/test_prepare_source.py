"""Nothing outside the source is read, whatever a cell, a link or a header says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.prepare.source import (
    Material,
    brief,
    check_subjects_read,
    is_image,
    path_inside,
    raise_problems,
    subject_reader,
    walk_files,
)


@pytest.fixture
def root(tmp_path: Path, draw) -> Path:
    root = (tmp_path / "in").resolve()
    draw(root / "a" / "x.png")
    draw(tmp_path / "secret.png")
    return root


class TestPathInside:
    @pytest.mark.parametrize("cell", ["a/x.png", "a\\x.png", "./a/x.png"])
    def test_finds_a_relative_path(self, root, cell):
        assert path_inside(root, cell) == root / "a" / "x.png"

    @pytest.mark.parametrize("cell", ["../secret.png", "a/../../secret.png", "..\\secret.png", "a/../a/x.png"])
    def test_refuses_the_parent_folder(self, root, cell):
        with pytest.raises(ValueError, match=r"leads out of the image folder by '\.\.'"):
            path_inside(root, cell)

    @pytest.mark.parametrize("cell", ["/etc/passwd", "C:\\scans\\x.png", "C:x.png", "\\\\server\\share\\x.png"])
    def test_refuses_absolute_paths_of_any_system(self, root, cell):
        with pytest.raises(ValueError, match=r"is an absolute path"):
            path_inside(root, cell)

    def test_refuses_links_that_lead_out(self, root):
        (root / "file.png").symlink_to(root.parent / "secret.png")
        (root / "folder").symlink_to(root.parent)
        for cell in ("file.png", "folder/secret.png"):
            with pytest.raises(ValueError, match=r"symbolic link that leads out of the source"):
                path_inside(root, cell)

    def test_follows_links_that_stay_inside(self, root):
        (root / "y.png").symlink_to("a/x.png")
        assert path_inside(root, "y.png") == root / "y.png"

    def test_refuses_what_is_not_there(self, root):
        with pytest.raises(ValueError, match=r"does not exist"):
            path_inside(root, "a/none.png")
        with pytest.raises(ValueError, match=r"is the image folder itself"):
            path_inside(root, ".")


class TestMaterial:
    def test_a_link_inside_is_carried_under_its_own_name(self, root):
        (root / "y.png").symlink_to("a/x.png")
        assert dict(Material.of_file(root, root / "y.png").files) == {"y.png": root / "a" / "x.png"}

    def test_a_folder_is_one_image_of_many_files(self, root):
        for name in ("1.dcm", "2.dcm", ".hidden"):
            (root / "a" / "series").mkdir(exist_ok=True)
            (root / "a" / "series" / name).write_bytes(b"x")
        material = Material.of_file(root, root / "a" / "series")
        assert material.target == "a/series"
        assert sorted(material.files) == ["a/series/1.dcm", "a/series/2.dcm"]

    def test_an_empty_folder_is_refused(self, root):
        (root / "empty").mkdir()
        with pytest.raises(ValueError, match=r"is a folder without files"):
            Material.of_file(root, root / "empty")

    def test_a_slice_that_is_a_link_out_is_refused(self, root):
        (root / "series").mkdir()
        (root / "series" / "1.dcm").symlink_to(root.parent / "secret.png")
        with pytest.raises(ValueError, match=r"leads out of the source"):
            Material.of_file(root, root / "series")

    def test_a_broken_link_is_refused(self, root):
        (root / "gone.png").symlink_to("nowhere.png")
        with pytest.raises(ValueError, match=r"does not exist"):
            Material.of_file(root, root / "gone.png")

    @pytest.mark.parametrize(
        ("name", "text"),
        [("v.mhd", "NDims = 3\nElementDataFile = v.raw\n"), ("v.nhdr", "NRRD0004\ndata file: v.raw\n"),
         ("v.nrrd", "NRRD0004\ndata file: v.raw\n\n"), ("v.mha", "ElementDataFile = v.raw\n")],
    )  # fmt: skip
    def test_a_detached_header_brings_its_data_file(self, root, name, text):
        (root / name).write_text(text)
        (root / "v.raw").write_bytes(b"0")
        assert sorted(Material.of_file(root, root / name).files) == sorted([name, "v.raw"])

    def test_a_nifti_header_brings_its_voxels(self, root):
        (root / "v.hdr").write_bytes(b"0")
        with pytest.raises(ValueError, match=r"is a header that names 'v\.img' as its data file; one file beside it"):
            Material.of_file(root, root / "v.hdr")
        (root / "v.img").write_bytes(b"0")
        assert sorted(Material.of_file(root, root / "v.hdr").files) == ["v.hdr", "v.img"]

    @pytest.mark.parametrize("data", ["../secret.png", "/etc/passwd", "LIST", "none.raw"])
    def test_a_header_cannot_name_a_file_elsewhere(self, root, data):
        (root / "v.mhd").write_text(f"ElementDataFile = {data}\n")
        with pytest.raises(ValueError, match=r"is a header that names .* as its data file; one file beside it"):
            Material.of_file(root, root / "v.mhd")

    def test_a_header_with_local_data_is_alone(self, root):
        (root / "v.mhd").write_text("ElementDataFile = LOCAL\n")
        assert list(Material.of_file(root, root / "v.mhd").files) == ["v.mhd"]

    def test_a_name_that_json_cannot_hold_is_refused(self, root):
        path = root / "a\nb.png"
        (root / "a" / "x.png").rename(path)
        with pytest.raises(ValueError, match=r"not printable UTF-8"):
            Material.of_file(root, path)


def test_images_are_known_by_suffix_and_dicom_by_content(root):
    (root / "IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (root / "notes.txt").write_text("x")
    (root / "._x.png").write_bytes(b"")
    (root / "link").symlink_to(root.parent / "secret.png")
    found = {
        name: is_image(root, root / name) for name in ("IM0001", "notes.txt", "._x.png", "link", "a/x.png", "B.NII.GZ")
    }
    assert found == {
        "IM0001": True,
        "notes.txt": False,
        "._x.png": False,
        "link": False,
        "a/x.png": True,
        "B.NII.GZ": True,
    }


def test_walk_does_not_enter_links_or_hidden_folders(root, draw):
    draw(root / ".git" / "z.png")
    (root / "out").symlink_to(root.parent)
    files, linked = walk_files(root)
    assert [path.name for path in files] == ["x.png"]
    assert linked == ["out"]


class TestSubjects:
    def test_the_first_group_is_the_subject(self):
        read = subject_reader(r"(?i)^(.*?)thin")
        assert [read(name) for name in ("C1P2ThinF_x.png", "c1p2thin.png", "other.png", "Thin.png")] == [
            "C1P2", "c1p2", None, None,
        ]  # fmt: skip

    def test_a_group_that_took_no_part_reads_nothing(self):
        assert subject_reader(r"(P\d+)?_x")("_x.png") is None

    def test_faulty_expressions(self):
        with pytest.raises(ConfigError, match=r"--subject-regex: not a regular expression: .*\(found '\('\)"):
            subject_reader("(")
        with pytest.raises(ConfigError, match=r"the regular expression has no group .* parentheses"):
            subject_reader("P[0-9]+")

    def test_misses_name_five(self):
        with pytest.raises(DataError, match=r"from 7 file names: f0, f1, f2, f3, f4 and 2 more\. Widen"):
            check_subjects_read([f"f{i}" for i in range(7)], Path("src"))


def test_brief_and_problem_lists_are_cut():
    assert brief(["a", "b"]) == "a, b"
    assert brief(np.arange(4), 2) == "0, 1 and 2 more"
    with pytest.raises(DataError) as caught:
        raise_problems([f"p{i}" for i in range(102)], Path("t.csv"))
    assert "t.csv: 102 problems:\n  p0\n" in str(caught.value)
    assert str(caught.value).endswith("  p99\n  and 2 more\nNothing was written.")
    raise_problems([], Path("t.csv"))
