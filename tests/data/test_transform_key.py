"""The key of transforms: equal for equal work in every process, different for every change of it."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from datetime import date
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flip,
    Lambdad,
    LoadImaged,
    MapTransform,
    Orientation,
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
        (ValueError("a"), ValueError("b")), (deque([1]), deque([2])), (bytearray(b"a"), bytearray(b"b")),
        (SimpleNamespace(a=1), SimpleNamespace(a=2)), (itemgetter(1), itemgetter(2)),
        (date(2020, 1, 1), date(2021, 1, 1)),
        (MetaTensor(torch.ones(2), affine=torch.eye(4)), MetaTensor(torch.ones(2), affine=2 * torch.eye(4))),
        (MetaTensor(torch.ones(2)), MetaTensor(torch.ones(2), meta={"space": "LPS"})),
        (MetaTensor(torch.ones(2)), torch.ones(2)), (np.ones(2), torch.ones(2)), (np.zeros(3000), np.r_[:3000] == 1500),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[0, 0])), (np.eye(3), np.eye(3, dtype="f4")),
        (torch.tensor([1 + 1j]).conj(), torch.tensor([1 + 1j])), (np.array(["a", "b"]), np.array(["a", "c"])),
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
    monkeypatch.setattr(module, "package_version", lambda name: "9.9" if name == "monai" else "1")
    assert transform_key(pipeline()) != before


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(
        ConfigError,
        match=r"^cache_dir: transform 1 \(Held\) cannot be a part of the cache key: its setting held of type "
        r"_thread.lock has no comparable value\. Put it behind the first random transform",
    ):
        transform_key([Held(1), Held(threading.Lock())])


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(3).to_sparse(), r"torch\.Tensor \(torch\.sparse_coo\)"),
        (torch.eye(3).to_sparse_csr(), r"torch\.Tensor \(torch\.sparse_csr\)"),
        (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), r"torch\.Tensor \(torch\.strided\)"),
        (torch.ones(2, device="meta"), r"torch\.Tensor on no device"),
    ],
    ids=["sparse", "rows", "nested", "meta"],
)
def test_tensors_without_plain_content_are_refused(tensor: torch.Tensor, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"its setting held of type {kind} has no comparable value"):
        transform_key([Held(tensor)])


def test_arrays_count_by_content_and_not_by_their_place_in_memory(tmp_path: Path) -> None:
    grid = np.arange(12).reshape(3, 4)
    assert key_of(np.asfortranarray(grid)) == key_of(grid) == key_of(np.arange(24).reshape(3, 8)[:, ::2] // 2)
    grid.tofile(tmp_path / "grid")
    mapped = [np.memmap(tmp_path / "grid", grid.dtype, "r", shape=(3, 4)) for _ in range(2)]
    assert key_of(mapped[0]) == key_of(mapped[1])
    assert key_of(torch.ones(2, requires_grad=True)) == key_of(torch.ones(2))
    images = [Orientation("LPS", labels=None)(MetaTensor(torch.ones(1, 2, 2, 2))) for _ in range(2)]
    assert images[0].applied_operations
    assert key_of(images[0]) == key_of(images[1])
    lazy = [Flip(axis, lazy=True)(MetaTensor(torch.ones(1, 2, 2, 2))) for axis in (0, 0, 1)]
    assert key_of(lazy[0]) == key_of(lazy[1]) != key_of(lazy[2])


class TestWhatCodeRefersTo:
    """Modules of a user's, in a folder of their own, edited and loaded again."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.path = tmp_path
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # an edit within a second keeps the time of a file
        before = set(sys.modules)
        yield
        for name in {"mine", "helpers", "vendor", "vendor.parts"} - before:
            sys.modules.pop(name, None)

    def write(self, texts: dict[str, str]) -> None:
        for name, text in texts.items():
            path = self.path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    def key(self, texts: dict[str, str], made: str = "Lambdad('image', mine.f)") -> str:
        self.write(texts)
        for name in ("mine", "helpers", "vendor.parts", "vendor"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return transform_key([eval(made, {"Lambdad": Lambdad, "mine": importlib.import_module("mine")})])  # noqa: S307

    @pytest.mark.parametrize(
        ("texts", "old", "new", "made"),
        [
            ({"mine.py": "SCALE = 1.0\ndef f(x): return x * SCALE\n"}, "1.0", "5.0", ""),
            ({"mine.py": "import numpy as np\nA = np.array([1, 2])\ndef f(x): return x * A\n"}, "2]", "3]", ""),
            ({"mine.py": "def g(x): return x * 2\ndef f(x): return g(x)\n"}, "2", "3", ""),
            ({"mine.py": "K = 2\ndef h(x): return x * K\ndef g(x): return h(x)\nf = lambda x: g(x)\n"}, "2", "3", ""),
            ({"mine.py": "K = 2\ndef f(x): return [K * y for y in x]\n"}, "2", "3", ""),
            ({"mine.py": "import helpers\ndef f(x): return helpers.s(x)\n", "helpers.py": "def s(x): return x * 2\n"},
             "2", "3", ""),
            ({"mine.py": "import helpers\ndef f(x): return x * helpers.K\n", "helpers.py": "K = 2\n"}, "2", "3", ""),
            ({"mine.py": "def f(x):\n    from helpers import K\n    return x * K\n", "helpers.py": "K = 2\n"},
             "2", "3", ""),
            ({"mine.py": "import helpers\ndef g(m): return m.K\ndef f(x): return x * g(helpers)\n",
              "helpers.py": "K = 2\n"}, "2", "3", ""),
            ({"mine.py": "import vendor.parts\ndef f(x): return vendor.parts.s(x)\n",
              "vendor/__init__.py": "__version__ = '1.0'\n", "vendor/parts.py": "def s(x): return x * 2\n"},
             "* 2", "* 3", ""),
            ({"mine.py": "from vendor import s as f\n",
              "vendor/__init__.py": "__version__ = '1.0'\ndef s(x): return x * 2\n"}, "* 2", "* 3", ""),
            ({"mine.py": "K = 2\nclass T:\n    def __call__(self, x): return x * K\n"}, "2", "3", "mine.T()"),
            ({"mine.py": "def g(x): return x * 2\nclass T:\n    @staticmethod\n    def a(x): return g(x)\n"
                         "    def __call__(self, x): return self.a(x)\n"}, "2", "3", "mine.T()"),
            ({"mine.py": "def g(x): return x * 2\nclass B:\n    @property\n    def a(self): return g(1)\n"
                         "class T(B):\n    def __call__(self, x): return self.a\n"}, "2", "3", "mine.T()"),
            ({"mine.py": "K = 2\nclass T:\n    a = K\n    def __call__(self, x): return self.a\n"},
             "2", "3", "mine.T()"),
            ({"mine.py": "class C:\n    def __init__(self, a): self.a = a\nC0 = C(2)\ndef f(x): return x * C0.a\n"},
             "2", "3", ""),
            ({"mine.py": "import re\nP = re.compile('a2')\ndef f(x): return P.sub('', x)\n"}, "a2", "a3", ""),
            ({"mine.py": "from functools import wraps\nimport numpy\n@wraps(numpy.sum)\ndef f(x): return x * 2\n"},
             "2", "3", ""),
            ({"mine.py": "class C(str): pass\nK = C('a2')\ndef f(x): return K\n"}, "a2", "a3", ""),
            ({"mine.py": "class C:\n    __slots__ = ('a',)\nK = C()\nK.a = 2\ndef f(x): return K.a\n"},
             "= 2", "= 3", ""),
            ({"mine.py": "import enum\nclass E(enum.Enum):\n    A = 2\ndef f(x): return E.A.value\n"}, "2", "3", ""),
            ({"mine.py": "def f(x):\n    return x\nf.by = 2\n"}, "2", "3", ""),
            ({"mine.py": "f = {1: 2}.get\n"}, "2", "3", ""),
        ],
    )  # fmt: skip
    def test_an_edit_is_seen(self, texts: dict[str, str], old: str, new: str, made: str) -> None:
        expression = made or "Lambdad('image', mine.f)"
        before = self.key(texts, expression)
        assert self.key(texts, expression) == before
        edited = {name: text.replace(old, new) for name, text in texts.items()}
        assert edited != texts
        assert self.key(edited, expression) != before

    def test_what_the_code_does_not_name_does_not_count(self) -> None:
        text = "import helpers\nK = 2\nOTHER = 1\ndef f(x): return x * K * helpers.A\n"
        keys = {
            self.key({"mine.py": text.replace("OTHER = 1", other), "helpers.py": f"A = 1\nB = {b}\n"})
            for other in ("OTHER = 1", "OTHER = 2")
            for b in (1, 2)
        }
        assert len(keys) == 1

    def test_reloading_after_an_edit(self) -> None:
        before = self.key({"mine.py": "SCALE = 1.0\ndef f(x): return x * SCALE\n"})
        self.write({"mine.py": "SCALE = 5.0\ndef f(x): return x * SCALE\n"})
        again = importlib.reload(sys.modules["mine"])
        assert transform_key([Lambdad("image", again.f)]) != before

    def test_equal_in_every_process(self) -> None:
        self.write({
            "helpers.py": "NAMES = {'a', 'b', 'c', 'd'}\nclass Table:\n    kinds = frozenset({'x', 'y', 'z'})\n",
            "mine.py": "import logging, helpers\nMISSING, LOG = object(), logging.getLogger('mine')\n"
            "def g(x): return f(x) if x is MISSING else helpers.Table\n"
            "def f(x):\n    LOG.info('x')\n    return g(x) in helpers.NAMES\n",
        })  # fmt: skip
        code = (
            "import mine; from monai.transforms import Lambdad; from medssl_monai.data.transform_key import "
            "transform_key; print(transform_key([Lambdad('image', mine.f)]))"
        )
        keys = set()
        for seed in ("1", "2"):
            variables = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(self.path)}
            run = subprocess.run(
                [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
            )
            keys.add(run.stdout.split()[-1])
        assert len(keys) == 1

    def test_recursion_ends_and_counts(self) -> None:
        alone = "def f(x): return f(x - 1) * 2 if x else 1\n"
        mutual = "def g(x): return f(x - 1) * 2\ndef f(x): return g(x) if x else 1\n"
        ring = "class A:\n    def a(self): return B()\nclass B:\n    def b(self): return A, 2\nA.other = B\nB.other = A\nf = A().a\n"  # noqa: E501
        for text in (alone, mutual, ring):
            assert self.key({"mine.py": text}) != self.key({"mine.py": text.replace("2", "3")})

    def test_a_logger_counts_by_its_name(self) -> None:
        text = "import logging\nlogger = logging.getLogger('one')\ndef f(x):\n    logger.info('x')\n    return x\n"
        before = self.key({"mine.py": text})
        logging.getLogger("one").addHandler(logging.NullHandler())
        assert self.key({"mine.py": text}) == before
        assert self.key({"mine.py": text.replace("one", "two")}) != before

    @pytest.mark.parametrize(
        ("text", "made", "named"),
        [
            ("import threading\nLOCK = threading.Lock()\ndef f(x):\n    with LOCK: return x\n", "",
             r"the global mine\.LOCK of type _thread\.lock"),
            ("FILE = open(__file__)\ndef g(x): return FILE.read()\ndef f(x): return g(x)\n", "",
             r"the global mine\.FILE of type _io\.TextIOWrapper"),
            ("import threading\nLOCK = threading.Lock()\nclass T:\n    def __call__(self, x):\n        with LOCK:"
             " return x\n", "mine.T()", r"the global mine\.LOCK of type _thread\.lock"),
            ("class C:\n    pass\nHELD = C()\nHELD.file = open(__file__)\ndef f(x): return HELD.file\n", "",
             r"the global mine\.HELD \(its setting file\) of type _io\.TextIOWrapper"),
            ("import threading\nclass T:\n    lock = threading.Lock()\n    def __call__(self, x): return x\n",
             "mine.T()", r"the member of mine\.T lock of type _thread\.lock"),
            ("import threading\ndef made(lock): return lambda x: lock\nf = made(threading.Lock())\n", "",
             r"the variable lock of type _thread\.lock"),
        ],
    )  # fmt: skip
    def test_a_global_that_cannot_be_compared_is_named(self, text: str, made: str, named: str) -> None:
        with pytest.raises(ConfigError, match=rf"cannot be a part of the cache key: {named} has no comparable value"):
            self.key({"mine.py": text}, made or "Lambdad('image', mine.f)")
