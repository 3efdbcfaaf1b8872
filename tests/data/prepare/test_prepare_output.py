"""The output folder: whole or absent files, interruption and resumption, whose folder it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medssl_monai.core import ConfigError, DataError, OutputError
from medssl_monai.data.datalist import load_datalist
from medssl_monai.data.prepare import output, prepare_dataset

OPTIONS = {"subject_regex": r"^(P\d+)_"}


def prepare(source: Path, out: Path, **options):
    return prepare_dataset("folder", source, out, **{**OPTIONS, **options})


class TestCopying:
    def test_files_are_copied_whole_and_the_source_is_unchanged(self, class_folders, tmp_path, snapshot):
        before = snapshot(class_folders)
        datalist = prepare(class_folders, tmp_path / "out")
        assert snapshot(class_folders) == before
        for _, item in datalist:
            assert (tmp_path / "out" / item.name).read_bytes() == (class_folders / item.name).read_bytes()
            assert not (tmp_path / "out" / item.name).is_symlink()
        assert load_datalist(tmp_path / "out").to_json() == datalist.to_json()
        assert not list((tmp_path / "out").rglob("*.tmp"))

    def test_links_are_relative_and_survive_moving_both(self, class_folders, tmp_path):
        home = tmp_path / "home"
        home.mkdir()
        source = Path(shutil.move(class_folders, home / "pets"))
        datalist = prepare(source, home / "out", link=True)
        moved = Path(shutil.move(home, tmp_path / "elsewhere"))
        for _, item in datalist:
            place = moved / "out" / item.name
            assert place.is_symlink()
            assert not place.readlink().is_absolute()
            assert place.resolve() == moved / "pets" / item.name

    def test_a_second_call_changes_nothing(self, class_folders, tmp_path, snapshot):
        for link in (False, True):
            out = tmp_path / f"out{link}"
            prepare(class_folders, out, link=link)
            before = snapshot(out)
            prepare(class_folders, out, link=link)
            assert snapshot(out) == before

    def test_two_folders_get_the_same_bytes(self, class_folders, tmp_path):
        for name in ("one", "two"):
            prepare(class_folders, tmp_path / name)
        assert (tmp_path / "one/datalist.json").read_bytes() == (tmp_path / "two/datalist.json").read_bytes()

    def test_a_missing_or_damaged_file_is_written_again(self, class_folders, tmp_path, snapshot):
        out = tmp_path / "out"
        prepare(class_folders, out)
        before = snapshot(out)
        (out / "cat/P0_0.png").unlink()
        (out / "dog/P6_12.png").write_bytes(b"cut short")
        prepare(class_folders, out)
        after = snapshot(out)
        assert {name: digest for name, (_, digest) in after.items()} == {n: d for n, (_, d) in before.items()}
        touched = {name for name in after if after[name] != before[name]}
        assert touched == {"cat/P0_0.png", "dog/P6_12.png", "datalist.json"}


class TestInterruption:
    @pytest.mark.parametrize("link", [False, True])
    def test_an_interrupted_run_leaves_no_datalist_and_is_finished_later(
        self, class_folders, tmp_path, snapshot, monkeypatch, link
    ):
        out, calls = tmp_path / "out", []
        original = output.OutputFolder._put

        def fail_at_seventh(self, place, content):
            calls.append(place)
            if len(calls) == 7:
                raise KeyboardInterrupt
            original(self, place, content)

        monkeypatch.setattr(output.OutputFolder, "_put", fail_at_seventh)
        with pytest.raises(KeyboardInterrupt):
            prepare(class_folders, out, link=link)
        assert not (out / "datalist.json").exists()
        written = snapshot(out)
        assert len(written) == 6 + 1  # six images and the record
        calls.clear()
        monkeypatch.setattr(output.OutputFolder, "_put", lambda *a: (calls.append(a[1]), original(*a))[1])
        prepare(class_folders, out, link=link)
        assert len(calls) == 20 - 6
        assert {name: stamp for name, stamp in snapshot(out).items() if name in written} == written
        prepare(class_folders, tmp_path / "whole", link=link)
        assert (out / "datalist.json").read_bytes() == (tmp_path / "whole/datalist.json").read_bytes()

    def test_a_copy_cut_off_midway_leaves_no_part_of_a_file(self, class_folders, tmp_path, monkeypatch):
        def half(source, target):
            Path(target).write_bytes(Path(source).read_bytes()[:10])
            raise OSError(28, "No space left on device", str(target))

        monkeypatch.setattr(output.shutil, "copyfile", half)
        with pytest.raises(OutputError, match=r"P0_0\.png: cannot be written \(No space left on device\)\. The same"):
            prepare(class_folders, tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["prepare.json"]

    def test_a_source_file_that_cannot_be_read_is_named(self, class_folders, tmp_path, monkeypatch):
        def denied(source, target):
            raise PermissionError(13, "Permission denied", str(source))

        monkeypatch.setattr(output.shutil, "copyfile", denied)
        with pytest.raises(DataError, match=r"pets/cat/P0_0\.png: cannot be read \(Permission denied\)"):
            prepare(class_folders, tmp_path / "out")

    def test_what_a_killed_run_left_is_swept_up(self, class_folders, tmp_path):
        out = tmp_path / "out"
        prepare(class_folders, out)
        (out / "cat/.medssl.89abcdef.tmp").write_bytes(b"half")
        (out / "cat/.medssl.0123abcd.tmp").symlink_to(class_folders / "cat/P0_0.png")
        (out / "mine.tmp").write_text("a user's own")
        prepare(class_folders, out)
        assert [path.name for path in out.rglob("*.tmp")] == ["mine.tmp"]
        assert (class_folders / "cat/P0_0.png").is_file()


class TestWhoseFolder:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"seed": 1}, r"holds another dataset \(seed: 0 there, 1 now\)"),
            ({"link": True}, r"\(link: False there, True now\)"),
            ({"subject_regex": None}, r"\(subject_regex: '\^\(P\\\\d\+\)_' there, None now\)"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:no subject")
    def test_other_options_are_refused(self, class_folders, tmp_path, snapshot, options, text):
        out = tmp_path / "out"
        prepare(class_folders, out)
        before = snapshot(out)
        with pytest.raises(OutputError, match=text + r".*Name another OUT, or give --overwrite"):
            prepare(class_folders, out, **options)
        assert snapshot(out) == before
        prepare(class_folders, out, **options, overwrite=True)

    def test_another_source_is_refused_even_before_it_was_finished(self, class_folders, tmp_path):
        prepare(class_folders, tmp_path / "out")
        (tmp_path / "out/datalist.json").unlink()
        other = shutil.copytree(class_folders, tmp_path / "other")
        with pytest.raises(OutputError, match=r"another dataset \(source: '.*pets' there, '.*other' now\)"):
            prepare(other, tmp_path / "out")

    def test_a_datalist_of_other_origin_is_refused(self, class_folders, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/datalist.json").write_text("{}")
        with pytest.raises(OutputError, match=r"a datalist\.json that was not made by `medssl prepare`"):
            prepare(class_folders, tmp_path / "out")

    @pytest.mark.parametrize("name", ["datalist.json", "prepare.json"])
    def test_a_damaged_record_can_be_overwritten(self, class_folders, tmp_path, name):
        expected = prepare(class_folders, tmp_path / "out").to_json()
        (tmp_path / "out" / name).write_text("{cut")
        with pytest.raises(OutputError, match=r"--overwrite"):
            prepare(class_folders, tmp_path / "out")
        prepare(class_folders, tmp_path / "out", overwrite=True)
        assert load_datalist(tmp_path / "out").to_json() == expected

    def test_a_changed_source_is_refused(self, class_folders, tmp_path, draw):
        prepare(class_folders, tmp_path / "out")
        draw(class_folders / "cat/P0_99.png")
        with pytest.raises(OutputError, match=r"holds this dataset as it was before SOURCE"):
            prepare(class_folders, tmp_path / "out")
        datalist = prepare(class_folders, tmp_path / "out", overwrite=True)
        assert len(datalist) == 21
        assert load_datalist(tmp_path / "out").to_json() == datalist.to_json()

    def test_a_file_of_somebody_else_is_never_replaced(self, class_folders, tmp_path):
        theirs = tmp_path / "out/cat/P0_0.png"
        theirs.parent.mkdir(parents=True)
        theirs.write_text("my only copy")
        for _ in range(2):
            with pytest.raises(OutputError, match=r"P0_0\.png: is there already with other content\. Name another OUT"):
                prepare(class_folders, tmp_path / "out")
        assert theirs.read_text() == "my only copy"
        prepare(class_folders, tmp_path / "out", overwrite=True)
        assert theirs.read_bytes() == (class_folders / "cat/P0_0.png").read_bytes()

    def test_overwriting_a_linked_dataset_never_writes_through_the_links(self, class_folders, tmp_path, snapshot):
        before = snapshot(class_folders)
        prepare(class_folders, tmp_path / "out", link=True)
        prepare(class_folders, tmp_path / "out", overwrite=True)
        assert snapshot(class_folders) == before
        assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))

    def test_a_folder_linked_into_the_source_is_not_written_through(self, class_folders, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").mkdir()
        (tmp_path / "out/cat").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OutputError, match=r"cat: is a symbolic link that leads out of OUT; nothing is written"):
            prepare(class_folders, tmp_path / "out")
        assert not list((tmp_path / "elsewhere").iterdir())

    def test_overwriting_says_that_old_files_stay(self, class_folders, tmp_path, caplog):
        prepare(class_folders, tmp_path / "out")
        prepare(class_folders, tmp_path / "out", seed=2, overwrite=True)
        assert "is overwritten; files of the earlier dataset that the new one does not name stay" in caplog.text


class TestApart:
    def test_out_is_source(self, class_folders):
        with pytest.raises(OutputError, match=r"OUT is SOURCE itself, which is never modified"):
            prepare(class_folders, class_folders)

    def test_out_inside_source(self, class_folders):
        with pytest.raises(OutputError, match=r"OUT lies inside SOURCE"):
            prepare(class_folders, class_folders / "cat" / "out")

    def test_out_around_source(self, class_folders, tmp_path):
        with pytest.raises(OutputError, match=r"OUT lies around SOURCE"):
            prepare(class_folders, tmp_path)

    def test_out_is_a_link_into_source(self, class_folders, tmp_path):
        (tmp_path / "innocent").symlink_to(class_folders / "cat")
        with pytest.raises(OutputError, match=r"OUT lies inside SOURCE"):
            prepare(class_folders, tmp_path / "innocent")

    def test_out_is_a_file(self, class_folders, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(OutputError, match=r"out: an output folder is needed here, but this is a file"):
            prepare(class_folders, tmp_path / "out")

    def test_source_is_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"none: SOURCE does not exist"):
            prepare(tmp_path / "none", tmp_path / "out")


class TestOptions:
    def test_unknown_names_are_guessed(self, class_folders, tmp_path):
        with pytest.raises(ConfigError, match=r"unknown dataset layout 'foldr'\. Did you mean 'folder'\?"):
            prepare_dataset("foldr", class_folders, tmp_path / "out")
        with pytest.raises(ConfigError, match=r"unknown option 'clases'\. Did you mean 'classes'\?"):
            prepare_dataset("folder", class_folders, tmp_path / "out", clases="a,b")
        with pytest.raises(ConfigError, match=r"option --image-column is needed\. column with the image's path or id"):
            prepare_dataset("table", class_folders, tmp_path / "out")
        with pytest.raises(
            ConfigError,
            match=r"--classes: expected names separated by commas, none empty and none twice \(found 'a,,b'\)",
        ):
            prepare_dataset("folder", class_folders, tmp_path / "out", classes="a,,b")
        assert not (tmp_path / "out").exists()

    def test_name_modality_and_license_are_written(self, class_folders, tmp_path):
        prepare(class_folders, tmp_path / "out", name="mine", modality="photo", license="CC0")
        content = json.loads((tmp_path / "out/datalist.json").read_text())
        assert (content["name"], content["modality"], content["license"]) == ("mine", "photo", "CC0")
