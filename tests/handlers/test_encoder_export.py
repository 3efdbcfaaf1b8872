"""The encoder apart: what is written is what was trained, and loads without this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import Resize
from PIL import Image

from medssl_monai.core import CheckpointError, ConfigError, OutputError, file_digest
from medssl_monai.handlers import EncoderExport
from medssl_monai.networks import SRCLNet, build_backbone

ARGUMENTS = {"name": "resnet18", "in_channels": 3, "width": 0.125}


@pytest.fixture
def net() -> SRCLNet:
    torch.manual_seed(0)
    return SRCLNet("resnet18", width=0.125)


def export(net, folder, **keys):
    given = {
        "target": "medssl_monai.networks.build_backbone", "arguments": ARGUMENTS, "input_shape": (3, 32, 32),
        "settings": {"bundle": "tiny", "image_size": 32}, **keys,
    }  # fmt: skip
    return EncoderExport(net, folder, **given)


def train(handler) -> None:
    engine = Engine(lambda engine, batch: None)
    handler.attach(engine)
    engine.run([0], max_epochs=1)


def test_the_encoder_of_the_file_is_exported_and_the_network_left_alone(net, tmp_path):
    """model.pt is of an earlier, better epoch than the network's present weights."""
    torch.save(net.state_dict(), tmp_path / "model.pt")
    best = {key: value.clone() for key, value in net.encoder.state_dict().items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1)
    later = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()
    train(export(net, tmp_path))
    assert net.training
    assert all(torch.equal(value, later[key]) for key, value in net.state_dict().items())
    saved = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert saved.keys() == best.keys()
    assert all(torch.equal(value, best[key]) for key, value in saved.items())
    x = torch.rand(3, 3, 32, 32)
    encoder = build_backbone(**ARGUMENTS).eval()
    encoder.load_state_dict(best)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "encoder.ts")(x), encoder(x))


def test_of_pretraining_no_second_copy_of_the_weights(net, tmp_path):
    torch.save(net.encoder.state_dict(), tmp_path / "pretrain.pt")
    train(export(net, tmp_path, source="pretrain.pt", stem="pretrain_encoder"))
    assert {path.name for path in tmp_path.iterdir()} == {"pretrain.pt", "pretrain_encoder.ts", "pretrain_encoder.json"}
    assert json.loads((tmp_path / "pretrain_encoder.json").read_text())["weights"] == "pretrain.pt"


def test_the_description_is_true(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "model.pt")
    train(export(net, tmp_path))
    content = json.loads((tmp_path / "encoder.json").read_text())
    assert content["weights_sha256"] == file_digest(tmp_path / content["weights"])
    assert content["torchscript_sha256"] == file_digest(tmp_path / content["torchscript"])
    assert content["build"] == {"target": "medssl_monai.networks.build_backbone", "arguments": ARGUMENTS}
    assert content["input"]["shape"] == ["N", 3, 32, 32]
    assert content["output"]["shape"] == ["N", 64]
    assert content["settings"] == {"bundle": "tiny", "image_size": 32}


@pytest.mark.parametrize("channels", [1, 3])
def test_its_lines_load_it_in_a_process_without_this_package(channels, tmp_path):
    torch.manual_seed(0)
    net = SRCLNet("resnet18", in_channels=channels, width=0.125)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    train(export(net, tmp_path, arguments={**ARGUMENTS, "in_channels": channels}, input_shape=(channels, 32, 24)))
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, channels), dtype=np.uint8)  # 24 rows, 32 columns
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "image.png")
    lines = json.loads((tmp_path / "encoder.json").read_text())["load"]
    assert len(lines) == 7  # as the README says
    program = "\n".join([
        "FILE = 'image.png'", *lines, "import sys, json",
        "assert not any(name.split('.')[0] in ('medssl_monai', 'monai') for name in sys.modules)",
        "print(json.dumps(features.tolist()))",
    ])  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    x = torch.tensor(pixels.transpose(2, 1, 0)[None] / 255, dtype=torch.float32)
    with torch.no_grad():
        expected = net.eval().encoder(x.half().float())
    torch.testing.assert_close(torch.tensor(json.loads(result.stdout)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "columns"), [(48, 48), (450, 600), (20, 100), (100, 20), (16, 20), (33, 24), (24, 33)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_its_lines_resize_as_the_bundle_does(channels, rows, columns, tmp_path):
    """Noise, which tells one way of resizing from another best: Pillow's own is off by a tenth and more."""
    torch.manual_seed(0)
    net = SRCLNet("resnet18", in_channels=channels, width=0.125)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    train(export(net, tmp_path, arguments={**ARGUMENTS, "in_channels": channels}, input_shape=(channels, 32, 24)))
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns, channels), dtype=np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "image.png")
    content = json.loads((tmp_path / "encoder.json").read_text())
    scope = {"FILE": tmp_path / "image.png"}
    exec("\n".join(content["load"]).replace("encoder.ts", str(tmp_path / "encoder.ts")), scope)  # noqa: S102
    image = torch.tensor(pixels.transpose(2, 1, 0) / 255, dtype=torch.float32)
    expected = Resize((32, 24), mode="bilinear", anti_aliasing=True)(image)
    torch.testing.assert_close(scope["x"], expected.as_tensor(), rtol=0, atol=1e-5)
    with torch.no_grad():
        features = net.eval().encoder(expected.as_tensor()[None].half().float())
    assert float((scope["features"].detach() - features).norm() / features.norm()) < 1e-3
    assert content["input"]["resizing"].startswith('As monai.transforms.Resized(mode="bilinear", anti_aliasing=True)')


def test_images_that_are_no_pictures_have_lines_of_their_own(tmp_path):
    net = SRCLNet("resnet18", in_channels=2, width=0.125)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    train(export(net, tmp_path, arguments={**ARGUMENTS, "in_channels": 2}, input_shape=(2, 32, 32)))
    scope = {"images": torch.rand(1, 2, 32, 32)}
    text = "\n".join(json.loads((tmp_path / "encoder.json").read_text())["load"])
    exec(text.replace("encoder.ts", str(tmp_path / "encoder.ts")), scope)  # noqa: S102
    torch.testing.assert_close(scope["features"], net.eval().encoder(scope["images"]))


class TestRefusals:
    def test_a_target_that_is_not_there(self, net, tmp_path):
        with pytest.raises(ConfigError, match=r"nothing of this name can be imported.*medssl_monai.networks.nothing"):
            export(net, tmp_path, target="medssl_monai.networks.nothing")

    def test_a_part_that_is_not_there(self, net, tmp_path):
        with pytest.raises(AttributeError, match="encodr"):
            export(net, tmp_path, attribute="encodr")

    def test_no_weights(self, net, tmp_path):
        with pytest.raises(CheckpointError, match=r"model\.pt: checkpoint not found"):
            train(export(net, tmp_path))

    def test_weights_of_another_network(self, net, tmp_path):
        torch.save(SRCLNet("resnet18", width=0.25).state_dict(), tmp_path / "model.pt")
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"model\.pt: not the weights of this encoder"):
            train(export(net, tmp_path))
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        assert not (tmp_path / "encoder.ts").exists()

    def test_a_description_that_builds_another_encoder(self, net, tmp_path):
        """Same keys and shapes, other normalisation: only the output tells."""
        torch.save(net.state_dict(), tmp_path / "model.pt")
        net.encoder.mean.add_(0.2)
        with pytest.raises(ConfigError, match=r"what medssl_monai.networks.build_backbone builds .* differences up to"):
            train(export(net, tmp_path))
        assert not (tmp_path / "encoder.ts").exists()

    def test_an_encoder_that_cannot_be_scripted(self, tmp_path):
        net = torch.nn.Module()
        net.encoder = Unscriptable()
        torch.save(net.state_dict(), tmp_path / "model.pt")
        handler = export(net, tmp_path, target=f"{__name__}.Unscriptable", arguments={}, input_shape=(1, 2, 2))
        with pytest.raises(
            ConfigError, match=r"cannot be written as TorchScript.*The weights are whole in .*encoder\.pt"
        ):
            train(handler)
        assert (tmp_path / "encoder.pt").is_file()
        assert not (tmp_path / "encoder.ts").exists()

    def test_a_full_disk(self, net, tmp_path, monkeypatch):
        def full(module, path):
            raise RuntimeError("[enforce fail at inline_container.cc:664] unexpected pos 64 vs 0")

        torch.save(net.state_dict(), tmp_path / "model.pt")
        monkeypatch.setattr(torch.jit, "save", full)
        with pytest.raises(OutputError, match=r"encoder\.ts: cannot be written \(.*unexpected pos"):
            train(export(net, tmp_path))
        assert not (tmp_path / "encoder.ts").exists()
        assert not (tmp_path / "encoder.json").exists()


class Unscriptable(torch.nn.Module):
    """Runs, but no script can be made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, *images, **unused):
        return self.layer(images[0].flatten(1))


def test_only_the_first_process_writes(net, tmp_path, monkeypatch):
    torch.save(net.state_dict(), tmp_path / "model.pt")
    monkeypatch.setattr("medssl_monai.handlers.encoder.is_main", lambda: False)
    train(export(net, tmp_path))
    assert [path.name for path in Path(tmp_path).iterdir()] == ["model.pt"]
