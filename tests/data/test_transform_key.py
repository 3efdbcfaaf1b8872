"""The key of transforms: equal for equal work in every process, different for every change of it."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambdad,
    LoadImaged,
    MapTransform,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)

from medssl_monai.core import ConfigError
from medssl_monai.data import transform_key as module
from medssl_monai.data.readers import MedicalImageReader
from medssl_monai.data.transform_key import transform_key


def pipeline(a_max: float = 1000.0, pixdim: tuple[float, ...] = (1.25, 1.25, 2.0)) -> list[Transform]:
    return [
        LoadImaged("image", reader=MedicalImageReader),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=pixdim),
        ScaleIntensityRanged("image", 0, a_max, 0, 1, clip=True),
        Lambdad("image", lambda x: x * 2 if str(x.dtype) in {"a", "b", "c", "torch.float32"} else x),
    ]


class Held(Transform):
    """A transform that holds anything."""

    def __init__(self, held: object) -> None:
        self.held = held

    def __call__(self, data: object) -> object:
        return data


def key_of(held: object) -> str:
    return transform_key([Held(held)])


def test_equal_for_new_instances_and_after_use(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 4), np.int16), np.eye(4)), tmp_path / "a.nii")
    used = pipeline()
    before = transform_key(used)
    assert before == transform_key(pipeline())
    Compose(used)({"image": tmp_path / "a.nii"})
    assert transform_key(used) == before
    with_default_reader = [LoadImaged("image"), EnsureChannelFirstd("image")]
    before = transform_key(with_default_reader)
    Compose(with_default_reader)({"image": tmp_path / "a.nii"})
    assert transform_key(with_default_reader) == before


def test_equal_in_every_process() -> None:
    code = "from test_transform_key import pipeline, transform_key; print(transform_key(pipeline()))"
    here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True}
    keys = {
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, **here).stdout.split()[
            -1
        ]
        for seed in ("1", "2")
    }  # the order of sets differs between them
    assert len(keys) == 1


def test_arguments_order_and_number_count() -> None:
    keys = [
        transform_key(pipeline()), transform_key(pipeline(a_max=999.0)), transform_key(pipeline(pixdim=(1.25, 1, 2))),
        transform_key(pipeline()[::-1]), transform_key(pipeline()[:-1]), transform_key([]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0), (1, True), ("1", 1), (None, "None"), (b"a", "a"), ([1, 2], (1, 2)), ([1, [2]], [1, 2]),
        ({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), ({1, 2}, {1, 3}), (np.float32(1), np.float64(1)),
        (np.zeros(2), np.zeros((2, 1))), (np.zeros(2), np.ones(2)), (torch.zeros(2), torch.ones(2)),
        (torch.tensor([1.0], dtype=torch.float64), torch.tensor([1 + 1e-12], dtype=torch.float64)),
        (torch.float32, torch.float16), (np.dtype("int16"), np.dtype("int32")), (Path("a"), "a"), (Held, Transform),
        (functools.partial(round, ndigits=1), functools.partial(round, ndigits=2)), (np.add, np.subtract), (len, sum),
        (lambda x: x + 1, lambda x: x + 2), (lambda x: x.a, lambda x: x.b), (lambda x, y=1: x, lambda x, y=2: x),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)), (np, torch), (slice(1), slice(2)),
    ],
)  # fmt: skip
def test_a_change_of_a_setting_is_seen(one: object, other: object) -> None:
    assert key_of(one) == key_of(one)
    assert key_of(one) != key_of(other)


def test_what_a_function_closes_over_counts() -> None:
    def scaled(by: float) -> object:
        return lambda x: x * by

    assert key_of(scaled(2)) == key_of(scaled(2))
    assert key_of(scaled(2)) != key_of(scaled(3))


def test_bound_methods_cycles_and_generators() -> None:
    inner = Held(3)
    assert key_of(inner.__call__) == key_of(Held(3).__call__) != key_of(Held(4).__call__)
    ring, other = [1], [1]
    ring.append(ring)
    other.append(other)
    assert key_of(ring) == key_of(other)
    drawn = np.random.RandomState(1)
    assert key_of(drawn) == key_of(np.random.RandomState(2))


def test_a_changed_method_of_an_own_class_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = []
    for number, factor in enumerate((2, 3)):
        # same class name in a module of another file, as after an edit
        text = f"from monai.transforms import Transform\nclass Own(Transform):\n    def __call__(self, x):\n        return x * {factor}\n"  # noqa: E501
        (tmp_path / f"own{number}.py").write_text(text)
        own = __import__(f"own{number}").Own
        own.__module__ = "own_module"
        sys.modules["own_module"] = sys.modules[f"own{number}"]
        keys.append(transform_key([own()]))
    del sys.modules["own_module"]
    assert keys[0] != keys[1]


def test_a_class_without_source_is_told_by_its_code() -> None:
    def made(factor: int) -> Transform:
        names: dict[str, object] = {"MapTransform": MapTransform, "__name__": "typed_in"}
        exec(f"class Made(MapTransform):\n    def __call__(self, d):\n        return {factor}\n", names)  # noqa: S102
        return names["Made"](["image"])  # type: ignore[operator]

    assert transform_key([made(1)]) == transform_key([made(1)]) != transform_key([made(2)])


def test_versions_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = transform_key(pipeline())
    monkeypatch.setattr(module, "_version", lambda name: "9.9" if name == "monai" else "1")
    assert transform_key(pipeline()) != before


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^cache_dir: transform 1 \(Held\) cannot be a part of the cache key: its setting held of type "
        r"_thread.lock has no comparable value\. Put it behind the first random transform",
    ):
        transform_key([Held(1), Held(threading.Lock())])
