"""Keyed hashes of case names, digests of files and texts."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.core import file_digest, hash_case, hash_key, hashing, sampled_digest, source_digest, text_digest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(hashing.KEY_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_hash_depends_on_name_and_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hmac.new(b"secret", b"case/1.png", hashlib.sha256).hexdigest()[:12]
    assert hash_case("case/1.png", b"secret") == expected
    for name, value in (("MEDSSL_HASH_KEY", "other"), ("HOME", "/nowhere"), ("USER", "x"), ("PYTHONHASHSEED", "1")):
        monkeypatch.setenv(name, value)
        assert hash_case("case/1.png", b"secret") == expected
    monkeypatch.setenv("MEDSSL_HASH_KEY", "secret")
    assert hash_case("case/1.png") == expected
    assert hash_case("case/2.png") != expected
    monkeypatch.setenv("MEDSSL_HASH_KEY", "Secret")
    assert hash_case("case/1.png") != expected


def test_key_file_is_made_once_and_private(home: Path) -> None:
    key = hash_key()
    path = home / ".config" / "medssl" / "hash_key"
    assert path.read_text().encode() == key
    assert len(key) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert hash_key() == key
    path.write_text("chosen by the user\n")
    assert hash_key() == b"chosen by the user"


def test_variable_goes_before_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hash_key()
    monkeypatch.setenv(hashing.KEY_VARIABLE, "from the variable")
    assert hash_key() == b"from the variable"


def test_a_home_that_cannot_be_written_gives_a_key_for_the_process(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".config").write_text("a file where a folder is needed")
    monkeypatch.setenv(hashing.KEY_VARIABLE, "")  # restored to its value before the test, whatever is set below
    key = hash_key()
    assert len(key) == 64
    assert hash_key() == key
    assert hash_case("a") == hash_case("a")


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    # the published test vector of SHA-256
    assert file_digest(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_source_of_weights_is_told_by_its_content_or_its_address(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"abc")
    (tmp_path / "b.pt").write_bytes(b"abc")
    assert source_digest(tmp_path / "a.pt") == source_digest(str(tmp_path / "b.pt")) == file_digest(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"abd")
    assert source_digest(tmp_path / "b.pt") != source_digest(tmp_path / "a.pt")
    for other in ("published", "package:weights", "https://example.org/x.pth", str(tmp_path)):
        assert source_digest(other) == other
    assert source_digest(None) is None


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_text_digest_tells_boundaries_apart(first: list[str], second: list[str]) -> None:
    assert (text_digest(first) == text_digest(second)) == (first == second)


def test_a_sampled_digest_sees_size_and_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"

    def digest(data: bytes) -> str:
        path.write_bytes(data)
        return sampled_digest(path, edge=10)

    base = bytes(range(100))
    changed = [b"x" + base[1:], base[:-1] + b"x", base + b"x", base[:9], b"", base[:15]]
    assert len({digest(data) for data in [base, *changed]}) == 7
    assert digest(base) == hashlib.sha256(b"100:" + base[:10] + base[-10:]).hexdigest()
    assert digest(base[:50] + b"x" + base[51:]) == digest(base)  # the price of not reading everything
    assert sampled_digest(tmp_path / "none") == "missing"


def test_a_sampled_digest_of_a_folder_sees_names_and_contents(tmp_path: Path) -> None:
    series = tmp_path / "series"
    (series / "deep").mkdir(parents=True)
    (series / "1.dcm").write_bytes(b"one")
    (series / "deep" / "2.dcm").write_bytes(b"two")
    seen = [sampled_digest(series)]
    (series / "deep" / "2.dcm").write_bytes(b"TWO")
    seen.append(sampled_digest(series))
    (series / "1.dcm").rename(series / "3.dcm")
    seen.append(sampled_digest(series))
    assert len(set(seen)) == 3
