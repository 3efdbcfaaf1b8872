"""Splits: whole subjects, the publisher's split kept, test never touched."""

from __future__ import annotations

import pytest

from medssl_monai.core import ConfigError, DataError
from medssl_monai.data.prepare import PREPARERS, Draft, Entry, Material, Preparer, prepare_dataset
from medssl_monai.data.prepare.assemble import assemble, parse_split


def entry(name, label=None, subject=None, split=None):
    return Entry(Material.of_bytes(name, lambda: name.encode()), label, subject, split)


def draft(entries, **options):
    return Draft(**{"task": "binary", "labels": ["a", "b"], "name": "d", **options}, entries=list(entries))


def names(splits):
    return {split: sorted(item.name for item in items) for split, items in splits.items()}


def test_parse_split():
    assert parse_split("70/10/20") == (0.7, 0.1, 0.2)
    assert parse_split("80/0/20") == (0.8, 0.0, 0.2)


@pytest.mark.parametrize("text", ["70/30", "70/10/10", "a/b/c", "-10/90/20", "nan/50/50", ""])
def test_faulty_splits(text):
    with pytest.raises(ConfigError, match=r"--split: not a split \(found .*training/validation/test that sum to 100"):
        parse_split(text)


def test_a_split_without_training():
    with pytest.raises(ConfigError, match=r"a split needs a training part"):
        parse_split("0/50/50")


class TestDrawn:
    entries = tuple(entry(f"{i}.png", i % 2, f"S{i // 4}") for i in range(80))

    def test_subjects_stay_whole_and_shares_hold(self):
        splits = assemble(draft(self.entries), (0.7, 0.1, 0.2), 0, "")
        assert {split: len(items) for split, items in splits.items()} == {"training": 56, "validation": 8, "test": 16}
        parts = [{item.subject for item in items} for items in splits.values()]
        assert sum(map(len, parts)) == len(set().union(*parts)) == 20
        assert all(subject.startswith("subject:S") for part in parts for subject in part)

    def test_the_seed_decides(self):
        runs = [names(assemble(draft(self.entries), (0.7, 0.1, 0.2), seed, "")) for seed in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]

    def test_a_zero_share_gives_no_part(self, caplog):
        splits = assemble(draft(self.entries), (0.8, 0, 0.2), 0, "")
        assert sorted(splits) == ["test", "training"]
        assert "there is no validation part" in caplog.text


class TestPublished:
    def test_it_is_kept_and_validation_carved_from_training(self, caplog):
        entries = [entry(f"tr{i}.png", i % 2, f"S{i}", "training") for i in range(80)]
        entries += [entry(f"te{i}.png", i % 2, f"T{i}", "test") for i in range(10)]
        splits = assemble(draft(entries), (0.7, 0.1, 0.2), 0, "")
        assert len(splits["training"]) == 70  # 80 * 0.7 / (0.7 + 0.1)
        assert len(splits["validation"]) == 10
        assert all(item.name.startswith("tr") for item in splits["validation"])
        assert names(splits)["test"] == sorted(f"te{i}.png" for i in range(10))

    def test_a_complete_one_is_untouched(self):
        parts = {"training": "a", "validation": "b", "test": "c"}
        entries = [entry(f"{n}{i}.png", i % 2, f"{n}{i}", part) for part, n in parts.items() for i in range(4)]
        assert names(assemble(draft(entries), (0.7, 0.1, 0.2), 0, "")) == {
            part: [f"{n}{i}.png" for i in range(4)] for part, n in parts.items()
        }

    def test_a_leaking_subject_is_named(self, caplog):
        entries = [
            entry("a.png", 0, "X", "training"),
            entry("b.png", 1, "Y", "training"),
            entry("c.png", 1, "X", "test"),
        ]
        assemble(draft(entries), (1, 0, 0), 0, "")
        assert "1 subject(s) stand in more than one part of it: subject:X" in caplog.text

    def test_without_training(self):
        with pytest.raises(DataError, match=r"the publisher's split has no training part \(found test\)"):
            assemble(draft([entry("a.png", 0, "X", "test")]), (0.7, 0.1, 0.2), 0, "")


class TestUnlabeled:
    def test_held_out_subjects_do_not_enter_pre_training(self, caplog):
        entries = [entry(f"l{i}.png", i % 2, f"S{i}") for i in range(20)]
        entries += [entry(f"u{i}.png", None, f"S{i}") for i in range(30)]
        splits = assemble(draft(entries), (0.7, 0.1, 0.2), 0, "")
        held_out = {item.subject for part in ("validation", "test") for item in splits[part]}
        pool = {item.subject for item in splits["unlabeled"]}
        assert len(held_out) == 6
        assert not pool & held_out
        assert len(pool) == 30 - 6
        assert "6 unlabelled images are left out: their subjects are in validation or test" in caplog.text

    def test_alone_they_are_a_dataset(self):
        splits = assemble(draft([entry("u.png", None, "S")]), (0.7, 0.1, 0.2), 0, "")
        assert names(splits) == {"unlabeled": ["u.png"]}


class TestWarnings:
    def test_without_subjects_the_advice_is_given(self):
        with pytest.warns(UserWarning, match=r"every file counts as its own patient.*training and test. Try X") as seen:
            assemble(draft([entry(f"{i}.png", i % 2) for i in range(9)]), (0.7, 0.1, 0.2), 0, "Try X")
        assert len(seen) == 1

    def test_with_some_subjects_they_are_counted(self, caplog):
        assemble(draft([entry(f"{i}.png", i % 2, "S" if i > 6 else None) for i in range(9)]), (0.7, 0.1, 0.2), 0, "")
        assert "7 of 9 images have no subject" in caplog.text

    def test_a_class_absent_from_training_is_named(self, caplog):
        entries = [entry(f"{i}.png", 0, f"S{i}", "training") for i in range(9)] + [entry("t.png", 1, "T", "test")]
        assemble(draft(entries), (0.7, 0.1, 0.2), 0, "")
        assert "training has no image of class b" in caplog.text

    def test_nothing_found(self):
        with pytest.raises(DataError, match=r"d: no image was found. Check that SOURCE"):
            assemble(draft([]), (0.7, 0.1, 0.2), 0, "")


class TestNewLayout:
    """A layout only yields entries; exams of several planes are written like single images."""

    @pytest.fixture
    def layout(self, monkeypatch):
        class Exams(Preparer):
            help = "exams"
            subject_advice = "none"
            planes = ("sagittal", "axial")

            def volume(self, plane, number):
                return Material.of_bytes(f"{plane}/{number}.npy", lambda: f"{plane}{number}".encode())

            def read(self, source):
                entries = [
                    Entry({plane: self.volume(plane, i) for plane in self.planes}, (i % 2, 1), f"P{i}")
                    for i in range(10)
                ]  # fmt: skip
                return Draft("multilabel", ["acl", "meniscus"], entries, name="knee")

        monkeypatch.setitem(PREPARERS._entries, "exams", Exams)

    def test_exams(self, layout, tmp_path):
        (tmp_path / "in").mkdir()
        datalist = prepare_dataset("exams", tmp_path / "in", tmp_path / "out")
        item = datalist.splits["training"][0]
        number = item.subject.removeprefix("subject:P")
        assert item.image == {"sagittal": f"sagittal/{number}.npy", "axial": f"axial/{number}.npy"}
        assert len(list((tmp_path / "out").rglob("*.npy"))) == 20
        assert (tmp_path / "out" / f"axial/{number}.npy").read_text() == f"axial{number}"

    def test_two_images_of_one_name(self, monkeypatch, tmp_path):
        class Twice(Preparer):
            help = subject_advice = "x"

            def read(self, source):
                return draft([entry("same.png", i % 2, f"S{i}") for i in range(9)])

        monkeypatch.setitem(PREPARERS._entries, "twice", Twice)
        (tmp_path / "in").mkdir()
        with pytest.raises(DataError, match=r"same\.png: two different images would get this name"):
            prepare_dataset("twice", tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()
