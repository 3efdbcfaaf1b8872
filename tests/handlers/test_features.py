"""Embeddings on the way through a network, and the file they are kept in."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from torch import nn

from medssl_monai.core import ConfigError, DataError, hash_case
from medssl_monai.engines import ClassificationEvaluator
from medssl_monai.handlers import EmbeddingHook, Features, FeatureWriter, read_features
from medssl_monai.handlers import features as module


class Net(nn.Module):
    """Counts its passes; ``trunk`` gives a map, ``encoder`` a vector an image, ``flat`` one row for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Conv2d(1, 4, 3, padding=1)
        self.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.flat = nn.Flatten(0)
        self.classifier = nn.Linear(4, 3)
        self.unused = nn.Identity()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        maps = self.trunk(x)
        self.flat(maps)
        return self.classifier(self.encoder(maps))


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def records() -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {"image": torch.tensor(rng.random((1, 6, 6)), dtype=torch.float32), "label": i % 3, "name": f"Mr Smith/{i}.png"}
        for i in range(7)
    ]


def evaluate(net, records, *handlers, **keys):
    loader = DataLoader(records, batch_size=3)
    return ClassificationEvaluator(
        device="cpu", val_data_loader=loader, network=net, val_handlers=list(handlers), with_metrics=False, **keys
    ).run()


@pytest.fixture
def writer(net, tmp_path) -> FeatureWriter:
    weights = tmp_path / "model.pt"
    torch.save(net.state_dict(), weights)
    return FeatureWriter(net, tmp_path / "eval", ["a", "b", "c"], weights, metadata={"bundle": "tiny"})


def test_evaluation_writes_what_the_encoder_gives(net, records, writer):
    evaluate(net, records, writer)
    found = read_features(writer.path)
    images = torch.stack([record["image"] for record in records])
    with torch.no_grad():
        expected = net.trunk(images).mean((2, 3)).numpy()
        predicted = net(images).argmax(1).numpy()
    assert found.embeddings.dtype == np.float32
    assert found.embeddings == pytest.approx(expected, abs=1e-6)
    assert found.predicted.tolist() == predicted.tolist()
    assert found.label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert found.case.tolist() == [hash_case(record["name"]) for record in records]
    assert found.class_names.tolist() == ["a", "b", "c"]
    assert found.split.tolist() == ["test"] * 7
    assert found.metadata["bundle"] == "tiny"
    assert found.metadata["key"] == hash_case("key")


def test_a_second_epoch_starts_anew(net, records, writer):
    evaluate(net, records, writer)
    evaluate(net, records[:4], writer)
    assert len(read_features(writer.path).case) == 4


def test_no_second_pass_and_no_hook_left(net, records, writer):
    evaluate(net, records, writer)
    assert net.passes == 3  # one for each batch of 3, 3 and 1
    assert not net.encoder._forward_hooks


def test_under_autocast_they_are_float32(net, records, writer):
    evaluate(net, records, writer, amp=True)
    assert read_features(writer.path).embeddings.dtype == np.float32


def test_names_are_not_in_the_file(net, records, writer):
    evaluate(net, records, writer)
    with zipfile.ZipFile(writer.path) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
    for text in ("Smith", "png"):
        assert text.encode() not in content
        assert text.encode("utf-32-le") not in content


def test_equal_features_are_equal_bytes(net, records, writer):
    evaluate(net, records, writer)
    first = writer.path.read_bytes()
    evaluate(net, records, writer)
    assert writer.path.read_bytes() == first


def test_images_without_labels(net, records, writer):
    evaluate(net, [{k: v for k, v in record.items() if k != "label"} for record in records], writer)
    assert read_features(writer.path).label.tolist() == [-1] * 7


def test_a_map_is_averaged_over_its_positions(net):
    hook, x = EmbeddingHook(net, "trunk"), torch.rand(2, 1, 6, 6)
    hook.start()
    net(x)
    assert torch.allclose(hook.take(2), net.trunk(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("flat", r"features_layer: 'flat' does not give one embedding an image \(found \(288,\), expected \(2, D\)\)"),
        ("unused", r"'unused' does not give one embedding an image \(found no pass through it, expected \(2, D\)\)"),
    ],
)
def test_a_part_that_gives_no_embedding(net, layer, message):
    hook = EmbeddingHook(net, layer)
    hook.start()
    net(torch.rand(2, 1, 6, 6))
    with pytest.raises(ConfigError, match=message):
        hook.take(2)


def test_a_part_that_is_not_there(net):
    with pytest.raises(ConfigError, match=r"features_layer: the network has no part 'encodr'.*Did you mean 'encoder'"):
        EmbeddingHook(net, "encodr")


class TestReading:
    def save(self, path: Path, **keys) -> Path:
        content = {
            "embeddings": np.ones((2, 3), np.float32), "case": np.array(["x", "y"]), "label": np.array([0, -1]),
            "predicted": np.array([1, 1]), "class_names": np.array(["a", "b"]), "split": np.array(["test", ""]),
            "metadata": {"bundle": "b"}, **keys,
        }  # fmt: skip
        Features(**content).save(path)
        return path

    def test_plain_numpy_reads_it_without_pickle(self, tmp_path):
        with np.load(self.save(tmp_path / "f.npz"), allow_pickle=False) as content:
            assert set(content) == {
                "embeddings", "case", "label", "predicted", "class_names", "split", "metadata",
            }  # fmt: skip
            assert json.loads(str(content["metadata"])) == {"format": 1, "bundle": "b"}

    def test_missing(self, tmp_path):
        with pytest.raises(DataError, match=r"f\.npz: no file of features here"):
            read_features(tmp_path / "f.npz")

    def test_cut_short(self, tmp_path):
        path = self.save(tmp_path / "f.npz")
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(DataError, match=r"f\.npz: not a readable file of features"):
            read_features(path)

    def test_array_missing(self, tmp_path):
        np.savez(tmp_path / "f.npz", embeddings=np.ones((2, 3)))
        with pytest.raises(DataError, match=r"not a readable file of features.*case"):
            read_features(tmp_path / "f.npz")

    def test_arrays_of_other_lengths(self, tmp_path):
        path = self.save(tmp_path / "f.npz", label=np.array([0]))
        with pytest.raises(DataError, match=r"the arrays do not fit one another.*'label': 1"):
            read_features(path)

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = self.save(tmp_path / "f.npz")
        before = path.read_bytes()

        def broken(stream, **arrays):
            stream.write(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(module.np, "savez", broken)
        with pytest.raises(OSError, match="disk full"):
            self.save(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["f.npz"]
