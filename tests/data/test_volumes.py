"""Volumes on disk: the samples of MONAI's CacheDataset, and every change and damage of a file noticed."""

from __future__ import annotations

import copy
import errno
import importlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import (
    Compose,
    DeleteItemsd,
    EnsureChannelFirstd,
    EnsureTyped,
    FgBgToIndicesd,
    Lambdad,
    LoadImaged,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandScaleIntensityd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)

from medssl_monai.core import ConfigError, DataError, OutputError, seed_transform
from medssl_monai.data import CachedVolumeDataset, SampleKey, SeededBatchSampler
from medssl_monai.data.cache_files import (
    DamagedFileError,
    MappedItem,
    StoredValueError,
    read_description,
    write_item,
)
from medssl_monai.data.volumes import record_key
from medssl_monai.transforms import RandSliced, SlicesFirstd, SlicesLastd

KEYS = ["image", "label"]


def volumes(folder: Path, number: int = 4, name: str = "patient Smith") -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    records = []
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(number):
        affine = np.diag([-1.0, 1.0, 2.0, 1.0])
        image = random.integers(0, 1000, (20, 18, 10)).astype(np.int16)
        paths = {key: folder / f"{name} {i} {key}.nii.gz" for key in KEYS}
        nib.save(nib.Nifti1Image(image, affine), paths["image"])
        nib.save(nib.Nifti1Image((image > 700).astype(np.uint8), affine), paths["label"])
        records.append({**{key: str(path) for key, path in paths.items()}, "name": paths["image"].name, "age": 40 + i})
    return records


def prepared(a_max: float = 1000.0, track_meta: bool = False) -> list[Transform]:
    return [
        LoadImaged(KEYS),
        EnsureChannelFirstd(KEYS),
        Orientationd(KEYS, axcodes="RAS", labels=None),
        Spacingd(KEYS, pixdim=(1.25, 1.0, 2.0), mode=("bilinear", "nearest")),
        ScaleIntensityRanged("image", 0, a_max, 0, 1, clip=True),
        EnsureTyped(KEYS, track_meta=track_meta),
    ]


def random_part() -> list[Transform]:
    return [
        RandSpatialCropd(KEYS, (8, 8, 4), random_size=False),
        RandFlipd(KEYS, prob=0.5, spatial_axis=0),
        RandAffined(KEYS, prob=0.5, rotate_range=0.2, mode=("bilinear", "nearest")),
        RandScaleIntensityd("image", factors=0.2, prob=0.8),
    ]


def dataset(records: list[dict[str, Any]], cache: Path, transform: Any = None, **kwargs: Any) -> CachedVolumeDataset:
    chain = Compose(prepared() + random_part()) if transform is None else transform
    return CachedVolumeDataset(records, chain, cache, **{"seed": 3, "num_workers": 2, "progress": False, **kwargs})


def monai_samples(records: list[dict[str, Any]], transform: Compose, epochs: int = 2) -> list[dict[str, Any]]:
    cached = CacheDataset(records, transform, progress=False)
    samples = []
    for epoch in range(epochs):
        for index in range(len(records)):
            seed_transform(cached.transform, 3, epoch, index, 0)
            samples.append(cached[index])
    return samples


def assert_equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert_equal(one, other)
        return
    for key in KEYS:
        assert ours[key].dtype == theirs[key].dtype
        torch.testing.assert_close(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key]), rtol=0, atol=0)


def files(cache: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*.volume")}


@pytest.fixture
def records(tmp_path: Path) -> list[dict[str, Any]]:
    return volumes(tmp_path / "data")


class TestSamples:
    @pytest.mark.parametrize("track_meta", [False, True])
    def test_are_those_of_monai(self, records: list[dict[str, Any]], tmp_path: Path, track_meta: bool) -> None:
        transform = Compose(prepared(track_meta=track_meta) + random_part())
        expected = monai_samples(records, transform)
        for _ in range(2):  # made, then found
            ours = dataset(records, tmp_path / "cache", transform, track_meta=track_meta)
            samples = [ours[SampleKey(i, epoch)] for epoch in range(2) for i in range(4)]
            assert_equal(samples, expected)
        assert all(isinstance(s["image"], MetaTensor) == track_meta for s in samples)
        if track_meta:
            for one, other in zip(samples, expected):
                torch.testing.assert_close(one["image"].affine, other["image"].affine)
        assert [s["age"] for s in samples[:4]] == [40, 41, 42, 43]
        assert samples[0]["name"] == "patient Smith 0 image.nii.gz"

    def test_of_several_crops_an_item_around_the_label(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        crop = RandCropByPosNegLabeld(
            KEYS,
            "label",
            (6, 6, 4),
            num_samples=3,
            fg_indices_key="label_fg_indices",
            bg_indices_key="label_bg_indices",
        )
        transform = Compose([*prepared(), FgBgToIndicesd("label"), crop])
        ours = dataset(records, tmp_path / "cache", transform)
        samples = [ours[SampleKey(i, epoch)] for epoch in range(2) for i in range(4)]
        assert_equal(samples, monai_samples(records, transform))
        assert len(samples[0]) == 3

    def test_are_the_same_for_any_number_of_workers(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        def batches(workers: int) -> list[dict[str, Any]]:
            sampler = SeededBatchSampler(4, 2, seed=3)
            loader = DataLoader(dataset(records, tmp_path / "cache"), batch_sampler=sampler, num_workers=workers)
            made = []
            for epoch in range(2):
                sampler.set_epoch(epoch)
                made += list(loader)
            return made

        alone = batches(0)
        for workers in (1, 2):
            for one, other in zip(alone, batches(workers)):
                assert_equal(one, other)
                assert one["name"] == other["name"]
        assert not torch.equal(alone[0]["image"], alone[2]["image"])

    def test_own_their_memory_and_leave_the_file_alone(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        def darken(data: dict[str, Any]) -> dict[str, Any]:
            data["image"].mul_(0.5)  # in place, which MONAI allows
            return data

        ours = dataset(records, tmp_path / "cache", Compose([*prepared(), darken]))
        first, again = ours[0]["image"], ours[0]["image"]
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        plain = dataset(records, tmp_path / "cache", Compose(prepared()))[0]["image"]
        torch.testing.assert_close(first, plain / 2, rtol=0, atol=0)
        crop = dataset(records, tmp_path / "cache")[0]["image"]
        assert crop.untyped_storage().nbytes() == crop.numel() * 4

    def test_tracking_of_metadata_is_as_before(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        seen: list[bool] = []

        def look(data: dict[str, Any]) -> dict[str, Any]:
            seen.append(get_track_meta())
            return data

        chain = Compose([*prepared(), look])
        assert get_track_meta()
        dataset(records, tmp_path / "cache", chain)[0]
        dataset(records, tmp_path / "cache", chain, track_meta=True)[0]
        assert seen == [False, True]
        assert get_track_meta()
        with pytest.raises(DataError, match="patient Smith 0"):
            dataset(records, tmp_path / "cache", Compose([*prepared(), lambda data: data["absent"]]))[0]
        assert get_track_meta()

    @pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="the system does not say what is mapped")
    def test_a_crop_reads_its_own_pages(self, tmp_path: Path) -> None:
        # a tensor that lies in a mapping of its file is read where it is touched; how many pages the system then
        # reads at once is its own affair
        record = {"image": "none"}
        path = tmp_path / "big.volume"
        write_item(path, {"image": torch.zeros(1, 2048, 64, 64)}, record)  # 32 MiB
        item = MappedItem(path, read_description(path), record)
        image = item.item["image"]
        places = {int(image.data_ptr()), int(image[:, 100:132, :32, :32].data_ptr())}
        inside = set()
        for line in Path("/proc/self/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.endswith(str(path)):
                inside |= {place for place in places if start <= place < end}
        assert inside == places


class TestKey:
    def made(self, caplog: pytest.LogCaptureFixture, work: Any) -> int:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="medssl_monai.data.volumes"):
            work()
        line = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("prepared "))
        return int(line.split()[1])

    def test_what_is_there_is_used_and_what_changed_is_made_anew(
        self, records: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = tmp_path / "cache"
        assert self.made(caplog, lambda: dataset(records, cache)) == 4
        before = files(cache)
        assert self.made(caplog, lambda: dataset(records, cache)) == 0
        # another random part, seed or order uses the same files
        other = Compose([*prepared(), RandFlipd(KEYS, prob=1.0)])
        assert self.made(caplog, lambda: dataset(records[::-1], cache, other, seed=8)) == 0
        assert files(cache) == before
        # another setting does not, and its values are the new ones
        brighter = Compose([*prepared(a_max=500.0), *random_part()])
        assert self.made(caplog, lambda: dataset(records, cache, brighter)) == 4
        assert_equal(dataset(records, cache, brighter)[0], monai_samples(records, brighter)[0])
        assert self.made(caplog, lambda: dataset(records, cache, track_meta=True)) == 4
        assert self.made(caplog, lambda: dataset(records, cache)) == 0

    def test_a_changed_file_is_noticed(
        self, records: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache, chain = tmp_path / "cache", Compose(prepared())
        before = dataset(records, cache, chain)[1]["image"]
        image = nib.load(records[1]["image"])
        changed = nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine)
        nib.save(changed, records[1]["image"])
        assert self.made(caplog, lambda: dataset(records, cache, chain)) == 1
        after = dataset(records, cache, chain)[1]["image"]
        assert not torch.equal(before, after)
        assert_equal([dataset(records, cache, chain)[1]], monai_samples(records[1:2], chain, 1))
        # the label file counts as well, and so does what the record says
        os.utime(records[2]["label"], ns=(1, 1))
        assert self.made(caplog, lambda: dataset(records, cache, chain)) == 1
        assert self.made(caplog, lambda: dataset([{**records[0], "age": 1}], cache, chain)) == 1

    @pytest.mark.parametrize(("header", "voxels"), [("v.mhd", "v.raw"), ("v.nhdr", "v.raw"), ("v.hdr", "v.img")])
    def test_changed_voxels_beside_a_header_are_noticed(self, tmp_path: Path, header: str, voxels: str) -> None:
        (tmp_path / "v.mhd").write_text("ElementDataFile = v.raw\n")
        (tmp_path / "v.nhdr").write_text("NRRD0004\ndata file: v.raw\n")
        (tmp_path / "v.hdr").write_bytes(b"0" * 348)
        (tmp_path / voxels).write_bytes(b"1234")
        before = record_key({"image": str(tmp_path / header)})
        assert record_key({"image": str(tmp_path / header)}) == before
        (tmp_path / voxels).write_bytes(b"12345")
        assert record_key({"image": str(tmp_path / header)}) != before

    def test_a_changed_constant_of_an_own_module_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        values = []
        for scale in (1.0, 5.0, 1.0):
            (tmp_path / "own_scale.py").write_text(f"SCALE = {scale}\ndef f(x): return x * SCALE\n")
            sys.modules.pop("own_scale", None)
            importlib.invalidate_caches()
            chain = Compose([Lambdad("image", importlib.import_module("own_scale").f)])
            values.append(float(dataset([{"image": torch.tensor(2.0)}], tmp_path / "cache", chain)[0]["image"]))
        del sys.modules["own_scale"]
        assert values == [2.0, 10.0, 2.0]
        assert len(files(tmp_path / "cache")) == 2

    def test_a_folder_stands_for_its_files(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        series = tmp_path / "series"
        series.mkdir()
        (series / "1").write_text("1")
        chain = Compose([Lambdad("image", lambda p: torch.tensor(len(list(Path(p).iterdir()))))])
        record = [{"image": str(series)}]
        assert dataset(record, tmp_path / "cache", chain)[0]["image"] == 1
        (series / "2").write_text("2")
        assert dataset(record, tmp_path / "cache", chain)[0]["image"] == 2

    def test_records_of_arrays_and_tensors_are_told_apart(self, tmp_path: Path) -> None:
        # texts of arrays are abbreviated: these differ in the middle only
        one, other = torch.zeros(2, 3000), torch.zeros(2, 3000)
        other[1, 1500] = 1
        chain = Compose([Lambdad("image", lambda x: torch.as_tensor(x) + 1)])
        for kind in (torch.as_tensor, np.asarray, lambda x: MetaTensor(x, affine=torch.eye(4))):
            made = dataset([{"image": kind(one)}, {"image": kind(other)}], tmp_path / "cache", chain)
            assert float(made[0]["image"][1, 1500]) == 1
            assert float(made[1]["image"][1, 1500]) == 2
        assert len(files(tmp_path / "cache")) == 6

    def test_keys_of_records(self) -> None:
        image = torch.ones(1, 2, 2)
        records = [
            {"a": 1, 2: 3}, {"a": 1, "2": 3}, {"a": 1}, {"a": "1"}, {"a": None}, {"a": [1, (2,)]}, {"a": [1, [2]]},
            {"a": image}, {"a": image.numpy()}, {"a": image.double()}, {"a": image.reshape(2, 2)},
            {"a": MetaTensor(image, affine=torch.eye(4))}, {"a": MetaTensor(image, affine=2 * torch.eye(4))},
            {"a": {"b": image}}, {"a": Path("x")}, {"a": np.float32(1)},
        ]  # fmt: skip
        keys = [record_key(record) for record in records]
        assert len(set(keys)) == len(keys)
        assert [record_key(record) for record in copy.deepcopy(records)] == keys
        assert record_key({"b": 2, "a": 1}) == record_key({"a": 1, "b": 2})

    @pytest.mark.parametrize("value", [threading.Lock(), torch.eye(3).to_sparse()], ids=["lock", "sparse"])
    def test_a_record_that_cannot_be_compared(self, tmp_path: Path, value: Any) -> None:
        record = {"name": "p1", "image": torch.ones(2), "more": [value]}
        with pytest.raises(
            DataError,
            match=r"^p1: the item's record cannot be a part of the cache key: the entry 'more' of type .* has no "
            r"comparable value \(expected texts, numbers, paths, arrays",
        ):
            dataset([record], tmp_path / "cache", Compose([Lambdad("image", lambda x: x)]))

    def test_no_name_is_in_the_folder(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        dataset(records, cache, track_meta=True)
        assert all(re.fullmatch(r"[0-9a-f]{64}\.volume", path.name) for path in files(cache))
        assert len(files(cache)) == 4
        for path in files(cache):
            assert b"Smith" not in path.read_bytes()


class TestDamage:
    @pytest.mark.parametrize("where", ["head", "description", "content", "end", "all"])
    def test_is_reported_and_mended(
        self, records: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
    ) -> None:
        cache = tmp_path / "cache"
        chain = Compose(prepared())
        expected = [sample["image"] for sample in dataset(records, cache, chain)]
        victim = sorted(files(cache))[0]
        content = bytearray(victim.read_bytes())
        positions = {"head": 3, "description": 100, "content": len(content) - 40}
        if where in positions:
            content[positions[where]] ^= 255
        else:
            content = content[:-100] if where == "end" else bytearray()
        victim.write_bytes(content)
        with caplog.at_level(logging.WARNING, logger="medssl_monai.data.volumes"):
            mended = [sample["image"] for sample in dataset(records, cache, chain)]
        assert f"prepared item {victim.name} is damaged" in caplog.text
        for one, other in zip(mended, expected):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        read_description(victim, verify=True)

    @pytest.mark.parametrize("how", ["gone", "cut"])
    def test_while_the_run_goes_on(
        self, records: list[dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
    ) -> None:
        cache, chain = tmp_path / "cache", Compose(prepared())
        ours = dataset(records, cache, chain)
        expected = ours[2]["image"]
        if how == "gone":
            shutil.rmtree(cache)
        else:
            for path in files(cache):
                os.truncate(path, 200)
        with caplog.at_level(logging.WARNING, logger="medssl_monai.data.volumes"):
            torch.testing.assert_close(ours[2]["image"], expected, rtol=0, atol=0)
        assert ("is gone" if how == "gone" else "is damaged (it has 200 bytes") in caplog.text

    def test_without_verification_sizes_are_looked_at(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        cache, chain = tmp_path / "cache", Compose(prepared())
        expected = dataset(records, cache, chain)[0]["image"]
        for path in files(cache):
            os.truncate(path, path.stat().st_size - 1)
        torch.testing.assert_close(dataset(records, cache, chain, verify=False)[0]["image"], expected, rtol=0, atol=0)

    def test_two_processes_fill_at_once(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        (tmp_path / "records.json").write_text(json.dumps(records))
        code = (
            "import json, sys; from pathlib import Path\n"
            "from test_volumes import dataset\n"
            "records = json.loads(Path(sys.argv[1]).read_text())\n"
            "ours = dataset(records, Path(sys.argv[2]))\n"
            "print('sum', sum(float(s['image'].double().sum()) for s in ours))\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "records.json"), str(tmp_path / "cache")]
        started = [
            subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) for _ in range(2)
        ]
        sums = [process.communicate(timeout=120)[0].split()[-1] for process in started]
        assert [process.returncode for process in started] == [0, 0]
        expected = sum(
            float(s["image"].double().sum()) for s in monai_samples(records, Compose(prepared() + random_part()), 1)
        )
        assert [float(value) for value in sums] == [expected, expected]
        assert len(files(tmp_path / "cache")) == 4
        assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".volume"] == []


class TestErrors:
    def test_an_unreadable_file_is_named(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        Path(records[2]["image"]).write_bytes(b"no volume")
        with pytest.raises(DataError, match=r"^patient Smith 2 image\.nii\.gz: cannot be prepared: "):
            dataset(records, tmp_path / "cache")

    def test_a_value_that_cannot_be_kept(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        chain = Compose([*prepared(), Lambdad("age", lambda _: {"a": [object()]})])
        with pytest.raises(
            DataError,
            match=r"^patient Smith 0 image\.nii\.gz: the prepared item cannot be kept on disk: age\.a\[0\] is a object "
            r"\(expected tensors, arrays, .*\)\. Add DeleteItemsd or EnsureTyped before the first random transform",
        ):
            dataset(records[:1], tmp_path / "cache", chain)
        chain = Compose([*chain.transforms, DeleteItemsd("age")])
        assert "age" not in dataset(records[:1], tmp_path / "cache", chain)[0]

    def test_the_folder_is_a_file(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("")
        with pytest.raises(OutputError, match="an output folder is needed here, but this is a file"):
            dataset(records, tmp_path / "cache")

    def test_a_full_disk(self, records: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            dataset(records, tmp_path / "cache")
        monkeypatch.undo()
        assert files(tmp_path / "cache") == {}
        assert_equal(
            dataset(records, tmp_path / "cache")[0], monai_samples(records, Compose(prepared() + random_part()))[0]
        )

    def test_no_items(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no image in this split"):
            dataset([], tmp_path / "cache")
        assert len(dataset([], tmp_path / "cache", allow_empty=True)) == 0


class TestFiles:
    def test_every_kind_of_value_comes_back(self, tmp_path: Path) -> None:
        item = {
            "float": torch.rand(2, 3), "half": torch.rand(3).half(), "brain": torch.rand(5).bfloat16(),
            "bool": torch.tensor([True, False]), "scalar": torch.tensor(7), "empty": torch.empty(0, 3),
            "strided": torch.rand(4, 6)[:, ::2].t(), "long": torch.arange(5),
            "array": np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2], "fortran": np.asfortranarray(np.eye(3)),
            "text": np.array(["a", "bc"]), "number": np.float32(1.5), "none_left": np.empty((0, 2)),
            "plain": 3, "real": 0.1, "truth": True, "word": "über", "nothing": None, "list": [1, {"a": torch.ones(2)}],
            "tuple": (1, "x"), 5: "integer key", "nested": {"b": {"c": np.ones(2)}},
        }  # fmt: skip
        path = tmp_path / "x.volume"
        write_item(path, item, {})
        again = MappedItem(path, read_description(path, verify=True), {}).item
        assert again.keys() == item.keys()
        self.compare(again, item)

    def compare(self, a: Any, b: Any) -> None:
        assert type(a) is type(b)
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                self.compare(a[key], b[key])
        elif isinstance(a, (list, tuple)):
            for one, other in zip(a, b, strict=True):
                self.compare(one, other)
        elif isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        elif isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b

    def test_what_the_record_says_is_not_written(self, tmp_path: Path) -> None:
        record = {"name": "Smith", "columns": {"site": "Ward 9"}, "age": 40, "flag": 1}
        item = {**record, "flag": True, "image": torch.zeros(2)}
        write_item(tmp_path / "x.volume", item, record)
        assert not {b"Smith", b"Ward"} & {w for w in (b"Smith", b"Ward") if w in (tmp_path / "x.volume").read_bytes()}
        mapped = MappedItem(tmp_path / "x.volume", read_description(tmp_path / "x.volume"), record)
        assert {key: mapped.item[key] for key in record} == {**record, "flag": True}
        assert mapped.item["flag"] is True
        mapped.item["columns"]["site"] = "changed"
        assert record["columns"] == {"site": "Ward 9"}

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({1, 2}, "x is a set"),
            (np.array([object()]), "x is an array of object"),
            (torch.eye(3).to_sparse(), "x is a tensor of layout torch.sparse_coo"),
            ({(1, 2): 3}, r"the key \(1, 2\) is a tuple"),
            (b"bytes", "x is a bytes"),
        ],
    )
    def test_what_cannot_be_written(self, tmp_path: Path, value: Any, message: str) -> None:
        with pytest.raises(StoredValueError, match=message):
            write_item(tmp_path / "x.volume", {"x": value}, {})
        assert list(tmp_path.iterdir()) == []

    def test_another_format(self, tmp_path: Path) -> None:
        (tmp_path / "x.volume").write_bytes(b"something else that is long enough to hold a head of sixty bytes")
        with pytest.raises(DamagedFileError, match="another format"):
            read_description(tmp_path / "x.volume")


def test_how_the_chain_is_applied_is_part_of_the_key(records: list[dict[str, Any]], tmp_path: Path) -> None:
    def chain(lazy: bool) -> Compose:
        steps = [LoadImaged("image"), EnsureChannelFirstd("image"), Orientationd("image", axcodes="RAS", labels=None)]
        return Compose(
            [*steps, Spacingd("image", pixdim=(1.3, 1.1, 2.4)), Spacingd("image", pixdim=(1, 1, 2))], lazy=lazy
        )

    chosen = [{"image": record["image"]} for record in records]
    for lazy in (False, True):  # one folder for both
        ours = CachedVolumeDataset(chosen, chain(lazy), tmp_path, track_meta=True, progress=False)
        theirs = CacheDataset(chosen, chain(lazy), progress=False)
        torch.testing.assert_close(ours[0]["image"].as_tensor(), theirs[0]["image"].as_tensor(), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="track_meta: lazy transforms keep what is to be done in the metadata"):
        CachedVolumeDataset(chosen, chain(True), tmp_path, progress=False)


class TestSlices:
    """One random slice a scan and epoch, from mapped volumes."""

    def chain(self) -> Compose:
        return Compose(
            [
                LoadImaged("image"),
                EnsureChannelFirstd("image"),
                SlicesLastd("image"),
                SlicesFirstd("image"),
                EnsureTyped("image", track_meta=False),
                DeleteItemsd("label"),
                RandSliced("image", slice_axis=1),
            ]
        )

    def test_are_those_of_the_volume(self, records: list[dict[str, Any]], tmp_path: Path) -> None:
        cached = dataset(records, tmp_path / "cache", self.chain(), index_key="index")
        drawn = set()
        for epoch in range(12):
            sample = cached[SampleKey(1, epoch)]
            assert sample["index"] == 1
            assert sample["image"].shape == (1, 20, 18)
            volume = nib.load(records[1]["image"]).get_fdata()
            same = [s for s in range(10) if np.array_equal(volume[..., s], sample["image"][0].numpy())]
            assert len(same) == 1
            drawn.add(same[0])
        assert len(drawn) > 4
        again = dataset(records, tmp_path / "cache", self.chain())[SampleKey(1, 11)]
        assert torch.equal(again["image"], sample["image"])


def test_what_the_log_says_of_preparing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of no item, of all, of none and of some: whole sentences that are true."""
    caplog.set_level("INFO")
    chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    records = []
    for k in range(5):
        np.save(tmp_path / f"{k}.npy", np.full((4, 4, 3), k, dtype=np.float32))
        records.append({"image": str(tmp_path / f"{k}.npy")})
    cache = tmp_path / "cache"
    said = []
    for number in (0, 1, 1, 5, 5):
        caplog.clear()
        CachedVolumeDataset(records[:number], chain, cache, allow_empty=True)
        said += [record.message for record in caplog.records if "prepare" in record.message]
    assert said == [
        f"no item to prepare in {cache}", f"prepared 1 item in {cache}",
        f"prepared 0 of 1 item in {cache}, which was there",
        f"prepared 4 of 5 items in {cache}, 1 was there", f"prepared 0 of 5 items in {cache}, which were all there",
    ]  # fmt: skip
