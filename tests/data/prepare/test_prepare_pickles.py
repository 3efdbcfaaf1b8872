"""Pickled arrays: every protocol and generation is read, nothing else is ever run."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.core import DataError
from medssl_monai.data.prepare.pickles import load_pickled_array

VOLUME = np.random.default_rng(0).integers(0, 4096, (4, 6, 5)).astype(np.uint16)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


class TestArrays:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("dtype", ["uint16", ">i2", "float32", "bool"])
    def test_every_protocol(self, tmp_path: Path, protocol: int, order: str, dtype: str) -> None:
        array = np.array(VOLUME.astype(dtype), order=order)  # type: ignore[call-overload]
        found = load_pickled_array(written(tmp_path / "v.pck", pickle.dumps(array, protocol=protocol)))
        np.testing.assert_array_equal(found, array)
        assert found.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_the_other_generation_of_numpy(self, tmp_path: Path, protocol: int) -> None:
        content = pickle.dumps(VOLUME, protocol=protocol)
        here, other = ("_core", "core") if b"numpy._core" in content else ("core", "_core")
        for module in ("multiarray", "numeric"):
            names = [f"numpy.{core}.{module}".encode() for core in (here, other)]
            if protocol >= 4:  # the length stands before a name
                names = [bytes([len(name)]) + name for name in names]
            content = content.replace(*names)
        if protocol >= 4:
            assert content[2:3] == b"\x95"  # a frame, whose length is another now; frames need not be
            content = content[:2] + content[11:]
        assert f"numpy.{other}.".encode() in content
        assert f"numpy.{here}.".encode() not in content
        np.testing.assert_array_equal(load_pickled_array(written(tmp_path / "v.pck", content)), VOLUME)

    def test_python_2(self, tmp_path: Path) -> None:
        """What Python 2 wrote by protocol 2: bytes as SHORT_BINSTRING and BINSTRING."""
        raw = VOLUME.tobytes()
        content = (
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x04K\x06K\x05\x87cnumpy\ndtype\nU\x02u2K\x00K\x01\x87R"
            b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + len(raw).to_bytes(4, "little") + raw + b"tb."
        )  # fmt: skip
        np.testing.assert_array_equal(load_pickled_array(written(tmp_path / "v.pck", content)), VOLUME)


class _Asks:
    """Pickles to a call of ``function`` with ``arguments``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.function, self.arguments


class TestOtherContent:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize(
        ("function", "name"),
        [(os.system, "posix.system"), (eval, "eval"), (exec, "exec"), (open, "open"), (getattr, "getattr"),
         (subprocess.check_call, "check_call"), (np.load, "numpy.load"), (np.matrix, "matrix")],
    )  # fmt: skip
    def test_nothing_is_run(self, tmp_path: Path, protocol: int, function: object, name: str) -> None:
        marker = tmp_path / "ran"
        argument = f"touch {marker}" if name == "posix.system" else str(marker)
        path = written(tmp_path / "v.pck", pickle.dumps(_Asks(function, argument, "w"), protocol=protocol))
        with pytest.raises(
            DataError,
            match=rf"v.pck: is a pickle that asks for \S*{name}, which is no part of an array and is not run "
            r"\(expected a pickled NumPy array\)\. Download the file again",
        ):
            load_pickled_array(path)
        assert not marker.exists()

    def test_the_trap_is_a_trap(self, tmp_path: Path) -> None:
        """The same bytes do run where they are unpickled without care; otherwise the test above shows nothing."""
        path = written(tmp_path / "v.pck", pickle.dumps(_Asks(open, str(tmp_path / "ran"), "w")))
        code = f"import pickle; pickle.load(open({str(path)!r}, 'rb'))"
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        "content",
        [
            b"(S'touch ran'\nios\nsystem\n.",  # INST
            b"(cos\nsystem\nS'touch ran'\no.",  # OBJ
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.",  # STACK_GLOBAL
            b"\x80\x04\x8c\x05numpy\x8c\x12os.system.__call__\x93\x8c\x09touch ran\x85R.",  # a dotted name
            b"cnumpy.testing._private.utils\nrunstring\n(S\"open('ran', 'w')\"\n}tR.",
            b"c_codecs\nencode\n(X\x04\x00\x00\x00textX\x03\x00\x00\x00hextR.",  # a codec that is none of an array
            b"c_codecs\ndecode\n(X\x04\x00\x00\x00textX\x03\x00\x00\x00hextR.",
        ],
        ids=["inst", "obj", "stack-global", "dotted", "gadget", "codec", "decode"],
    )
    def test_written_by_hand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match="which is no part of an array and is not run"):
            load_pickled_array(written(tmp_path / "v.pck", content))
        assert os.listdir(tmp_path) == ["v.pck"]

    def test_an_array_of_objects_runs_nothing(self, tmp_path: Path) -> None:
        array = np.array([_Asks(open, str(tmp_path / "ran"), "w")], dtype=object)
        with pytest.raises(DataError, match=r"asks for .*open"):
            load_pickled_array(written(tmp_path / "v.pck", pickle.dumps(array)))
        assert not (tmp_path / "ran").exists()
        with pytest.raises(DataError, match=r"holds no array of numbers \(found type object, expected a pickled NumPy"):
            load_pickled_array(written(tmp_path / "v.pck", pickle.dumps(np.array([None]))))

    @pytest.mark.parametrize(
        ("value", "found"), [([1, 2], "list"), ({"a": 1}, "dict"), (np.float64(1), "float64"), (np.array(["a"]), "<U1")]
    )
    def test_no_array_of_numbers(self, tmp_path: Path, value: object, found: str) -> None:
        with pytest.raises(DataError, match=rf"holds no array of numbers \(found (type )?{found}"):
            load_pickled_array(written(tmp_path / "v.pck", pickle.dumps(value)))

    @pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04", pickle.dumps(VOLUME)[:200], b"\x80\xff."])
    def test_damaged_files(self, tmp_path: Path, content: bytes) -> None:
        with pytest.raises(DataError, match=r"v.pck: cannot be read as a pickled array \(\w+: "):
            load_pickled_array(written(tmp_path / "v.pck", content))

    def test_a_state_that_changes_what_is_admitted(self, tmp_path: Path) -> None:
        """BUILD on the admitted codec must not alter it for the next file."""
        content = b"c_codecs\nencode\n}X\x08\x00\x00\x00__call__K\x01sb."
        with pytest.raises(DataError, match="cannot be read as a pickled array"):
            load_pickled_array(written(tmp_path / "v.pck", content))
        again = pickle.dumps(VOLUME, protocol=2)
        np.testing.assert_array_equal(load_pickled_array(written(tmp_path / "v.pck", again)), VOLUME)

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"v.pck: cannot be read \(No such file"):
            load_pickled_array(tmp_path / "v.pck")
