"""What a network starts from: random weights, published ones, or the encoder of a pretrain stage."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from tiny_training import assert_state, copy_state, tiny_net

from medssl_monai.core import CheckpointError, ConfigError
from medssl_monai.networks import CoWProNet, DenseEncoder, SRCLNet, build_head, initialize_encoder


def net(seed: int, **kwargs: object) -> SRCLNet:
    torch.manual_seed(seed)
    return SRCLNet(backbone="resnet18", num_classes=2, width=0.125, **kwargs)  # type: ignore[arg-type]


def test_without_weights_the_network_is_left_as_it_is() -> None:
    network = net(0)
    before = copy_state(network)
    assert initialize_encoder(network) is network
    assert_state(network, before)


def test_the_encoder_of_the_pretrain_stage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, network = net(1), net(2)
    torch.save(source.encoder.state_dict(), tmp_path / "pretrain.pt")
    head = copy_state(network.classifier)
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        initialize_encoder(network, pretrained=tmp_path / "pretrain.pt")
    assert_state(network.encoder, copy_state(source.encoder))
    assert_state(network.classifier, head)
    assert "pretrained encoder" in caplog.text
    assert "pretrain.pt" in caplog.text
    assert f"matched (of {len(source.encoder.state_dict())})" in caplog.text


def test_published_weights_of_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, network = net(1), net(2)
    published = {**source.encoder.body.state_dict(), "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}
    torch.save(published, tmp_path / "resnet.pth")
    with caplog.at_level(logging.INFO, logger="medssl_monai"):
        initialize_encoder(network, backbone_weights=tmp_path / "resnet.pth")
    assert_state(network.encoder, copy_state(source.encoder))
    assert "backbone weights" in caplog.text
    assert "classification head" in caplog.text


def test_a_pretrained_encoder_takes_the_place_of_published_weights(tmp_path: Path) -> None:
    source, network = net(1), net(2)
    torch.save(source.encoder.state_dict(), tmp_path / "pretrain.pt")
    initialize_encoder(network, backbone_weights=tmp_path / "not there.pth", pretrained=str(tmp_path / "pretrain.pt"))
    assert_state(network.encoder, copy_state(source.encoder))


def test_errors_leave_the_network(tmp_path: Path) -> None:
    network = net(2)
    before = copy_state(network)
    with pytest.raises(CheckpointError, match=r"gone\.pt"):
        initialize_encoder(network, pretrained=tmp_path / "gone.pt")
    torch.save(net(1, in_channels=1).encoder.state_dict(), tmp_path / "grey.pt")
    with pytest.raises(
        CheckpointError, match=r"grey\.pt: checkpoint of another network: 1 of \d+ keys .*The names fit, the"
    ):
        initialize_encoder(network, pretrained=tmp_path / "grey.pt")
    assert_state(network, before)
    with pytest.raises(ConfigError, match=r"^network_def: the network has no encoder to load weights into\.$"):
        initialize_encoder(tiny_net(), pretrained=tmp_path / "grey.pt")


class TestDenseEncoder:
    """Published weights go into the backbone; our own pretrain stage's into the whole encoder."""

    @pytest.fixture
    def networks(self) -> list[CoWProNet]:
        made = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            made.append(CoWProNet(DenseEncoder("resnet18", 1, 0.125, num_features=8, stages=3), build_head()))
        return made

    def test_of_the_pretrain_stage(self, networks: list[CoWProNet], tmp_path: Path) -> None:
        first, second = networks
        torch.save(first.encoder.state_dict(), tmp_path / "pretrain.pt")
        assert not torch.equal(first.encoder.reduce.weight, second.encoder.reduce.weight)
        initialize_encoder(second, pretrained=tmp_path / "pretrain.pt")
        for key, value in first.state_dict().items():
            assert torch.equal(value, second.state_dict()[key]), key

    def test_published(self, networks: list[CoWProNet], tmp_path: Path) -> None:
        first, second = networks
        reduce = second.encoder.reduce.weight.clone()
        torch.save(first.encoder.encoder.body.state_dict(), tmp_path / "published.pth")
        initialize_encoder(second, backbone_weights=tmp_path / "published.pth")
        for key, value in first.encoder.encoder.state_dict().items():
            assert torch.equal(value, second.encoder.encoder.state_dict()[key]), key
        assert torch.equal(second.encoder.reduce.weight, reduce)
