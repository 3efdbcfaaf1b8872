"""Loading of weights: reports, errors that name the other network, published addresses, our own state dicts."""

import dataclasses
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch import nn

from medssl_monai.core import CheckpointError, ConfigError, file_digest
from medssl_monai.networks import BACKBONES, SRCLNet, build_backbone, load_backbone_weights, load_state


def small(name="resnet18", seed=0, width=0.125, **kwargs):
    torch.manual_seed(seed)
    return build_backbone(name, width=width, **kwargs)


def small_net(name="resnet18", seed=0, width=0.125, **kwargs):
    torch.manual_seed(seed)
    return SRCLNet(name, width=width, **kwargs)


def saved(path, content):
    torch.save(content, path)
    return path


def same(module, other):
    ours, theirs = module.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def refused(module, load, *matches):
    """The loading fails, its message matches, and the network is as it was."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load()
    for text in matches:
        assert text in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


# --- load_backbone_weights -------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_backbone_names_both(tmp_path):
    path = saved(tmp_path / "other.pth", small("efficientnet_lite0").body.state_dict())
    net = small("densenet121")
    refused(
        net,
        lambda: load_backbone_weights(net, path),
        f"{path}: checkpoint of another network: 725 of 725 keys of Backbone (densenet121, width=0.125)",
        "expected conv0.weight (8, 3, 7, 7)",
        "The file's keys are those of efficientnet_lite0: build the network with it, or give weights of densenet121.",
    )


def test_a_checkpoint_of_another_width_shows_both_shapes(tmp_path):
    path = saved(tmp_path / "wide.pth", small(width=0.25).body.state_dict())
    net = small()
    refused(
        net,
        lambda: load_backbone_weights(net, path),
        "bn1.weight: shape (16,), expected (8,)",
        "The names fit, the shapes do not",
    )


def test_a_missing_layer_is_named(tmp_path):
    state = small().body.state_dict()
    del state["layer3.1.conv2.weight"]
    net = small(seed=1)
    path = saved(tmp_path / "part.pth", state)
    refused(net, lambda: load_backbone_weights(net, path), "1 of 120 keys", "expected layer3.1.conv2.weight (32, 32, 3")


def test_a_deeper_net_of_the_same_kind_is_refused(tmp_path):
    state = small().body.state_dict()
    state |= {key.replace("layer1.1", "layer1.2"): value for key, value in state.items() if "layer1.1" in key}
    net = small(seed=1)
    path = saved(tmp_path / "resnet34.pth", state)
    refused(
        net,
        lambda: load_backbone_weights(net, path),
        "it has 12 keys that Backbone (resnet18, width=0.125) has not",
        "layer1.2.conv1.weight: a layer this network does not have",
    )


def test_two_networks_in_one_file_are_refused(tmp_path):
    state = small().body.state_dict()
    path = saved(tmp_path / "two.pth", {**state, **{f"module.{key}": value for key, value in state.items()}})
    net = small(seed=1)
    refused(
        net,
        lambda: load_backbone_weights(net, path),
        "two keys hold 'conv1.weight' of Backbone (resnet18",
        "'conv1.weight' and 'module.conv1.weight'",
        "more than one network",
    )


def test_the_encoder_of_a_whole_network_is_found(tmp_path):
    whole = small_net("densenet121", seed=3)
    backbone = small("densenet121")
    report = load_backbone_weights(backbone, saved(tmp_path / "model.pt", whole.state_dict()))
    assert same(backbone, whole.encoder)
    assert report.skipped["classifier.weight"] == "classification head"
    assert report.skipped["projector.0.weight"] == "no such key in this network"


def test_half_precision_weights_are_cast(tmp_path):
    state = {key: value.half() if value.is_floating_point() else value for key, value in small().state_dict().items()}
    backbone = small(seed=1)
    load_backbone_weights(backbone, saved(tmp_path / "half.pth", state))
    assert backbone.body.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.body.conv1.weight, state["body.conv1.weight"].float())


def test_the_layout_can_be_named(tmp_path):
    path = saved(tmp_path / "a.pth", small().body.state_dict())
    assert load_backbone_weights(small(seed=1), path, name="resnet50").complete  # both take torchvision's names
    with pytest.raises(ConfigError, match=r"unknown backbone 'resnet2O'"):
        load_backbone_weights(small(), path, name="resnet2O")


# --- addresses -------------------------------------------------------------------------------------------------------


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder served on this machine, and the download folder of torch in another."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def publish(monkeypatch, name, address):
    entry = dataclasses.replace(BACKBONES.get(name), published=address)
    monkeypatch.setitem(BACKBONES._entries, name, entry)


def test_published_weights_are_fetched_once_and_checked(server, monkeypatch, tmp_path):
    folder, address = server
    source = small(seed=5)
    saved(folder / "a.pth", source.body.state_dict())
    name = f"resnet18-{file_digest(folder / 'a.pth')[:8]}.pth"
    (folder / "a.pth").rename(folder / name)
    publish(monkeypatch, "resnet18", f"{address}/{name}")
    backbone = small()
    assert load_backbone_weights(backbone, "published").source == f"{address}/{name}"
    assert same(backbone, source)
    assert (tmp_path / "torch" / "hub" / "checkpoints" / name).is_file()
    (folder / name).unlink()
    assert load_backbone_weights(small(), "published").complete


def test_a_download_whose_hash_is_wrong_is_refused(server, monkeypatch, tmp_path):
    folder, address = server
    saved(folder / "resnet18-0123456789.pth", small().body.state_dict())
    publish(monkeypatch, "resnet18", f"{address}/resnet18-0123456789.pth")
    with pytest.raises(CheckpointError, match=r"published weights of resnet18 cannot be had: the download is damaged"):
        load_backbone_weights(small(), "published")
    assert not list((tmp_path / "torch").rglob("*.pth"))


def test_published_weights_that_cannot_be_had_name_the_address_and_the_alternative(server, monkeypatch):
    _, address = server
    publish(monkeypatch, "resnet18", f"{address}/resnet18-f37072fd.pth")
    expected = (
        rf"{address}/resnet18-f37072fd.pth: the published weights of resnet18 cannot be had: .*404.*"
        r"Fetch the file on a machine that reaches this address and give its path, or put it at .*resnet18-f37072fd.pth"
    )
    with pytest.raises(CheckpointError, match=expected):
        load_backbone_weights(small(), "published")


def test_two_addresses_with_one_file_name_are_two_files(server):
    folder, address = server
    for number in (1, 2):
        (folder / str(number)).mkdir()
        saved(folder / str(number) / "model.pth", small(seed=number).body.state_dict())
    for number in (1, 2, 1):
        backbone = small()
        load_backbone_weights(backbone, f"{address}/{number}/model.pth")
        assert same(backbone, small(seed=number))


def test_every_published_address_is_of_its_backbone():
    for name in BACKBONES:
        assert name in BACKBONES.get(name).published


# --- load_state ------------------------------------------------------------------------------------------------------


def test_our_encoder_goes_into_the_encoder(tmp_path):
    source, net = small(seed=4), small_net()
    path = saved(tmp_path / "pretrain.pt", source.state_dict())
    report = load_state(net.encoder, path)
    assert same(net.encoder, source)
    assert report.complete
    assert report.renamed == {}
    assert report.network == "Backbone (resnet18, width=0.125)"


def test_our_served_network_and_its_encoder_by_prefix(tmp_path):
    source, net, backbone = small_net(seed=4), small_net(), small()
    path = saved(tmp_path / "model.pt", {f"module.{key}": value for key, value in source.state_dict().items()})
    load_state(net, path)
    assert same(net, source)
    report = load_state(backbone, path, prefix="encoder.")
    assert same(backbone, source.encoder)
    assert report.skipped["module.classifier.bias"] == "outside the prefix 'encoder.'"


def test_a_resumable_checkpoint_is_unwrapped(tmp_path):
    source, net = small_net(seed=4), small_net()
    load_state(net, saved(tmp_path / "checkpoint.pt", {"epoch": 3, "objects": {"network": source.state_dict()}}))
    assert same(net, source)


def test_a_state_dict_in_memory():
    source, net = nn.Linear(3, 2), nn.Linear(3, 2)
    assert load_state(net, source.state_dict()).source == "state dict"
    assert same(net, source)


def test_a_checkpoint_of_another_network_names_both(tmp_path):
    path = saved(tmp_path / "pretrain.pt", small("resnet50").state_dict())
    net = small("densenet121")
    refused(
        net,
        lambda: load_state(net, path),
        f"{path}: checkpoint of another network: 725 of 725 keys of Backbone (densenet121, width=0.125)",
        "The file's keys are those of resnet50: build the network with it, or give weights of densenet121.",
    )


def test_another_number_of_classes_shows_both_shapes(tmp_path):
    path = saved(tmp_path / "model.pt", small_net(num_classes=7).state_dict())
    net = small_net(num_classes=3)
    refused(
        net,
        lambda: load_state(net, path),
        "classifier.weight: shape (7, 64), expected (3, 64)",
        "another number of channels or classes",
    )


def test_another_number_of_channels_is_not_adapted_silently(tmp_path):
    path = saved(tmp_path / "pretrain.pt", small(in_channels=3).state_dict())
    net = small(in_channels=1)
    refused(net, lambda: load_state(net, path), "body.conv1.weight: shape (8, 3, 7, 7), expected (8, 1, 7, 7)")


def test_a_whole_network_given_for_a_part_and_the_reverse(tmp_path):
    whole, part = small_net(), small()
    model, pretrain = saved(tmp_path / "model.pt", whole.state_dict()), saved(tmp_path / "p.pt", part.state_dict())
    refused(part, lambda: load_state(part, model), "holds this network under the prefix 'encoder.'")
    refused(whole, lambda: load_state(whole, pretrain), "holds only the part 'encoder.' of this network")
    refused(part, lambda: load_state(part, model, prefix="enc0der."), "No key of it begins with 'enc0der.'.")


def test_surplus_keys_are_an_error_when_strict():
    net, state = nn.Linear(3, 2), nn.Linear(3, 2).state_dict()
    state["more"] = torch.ones(1)
    refused(net, lambda: load_state(net, state), "it has 1 keys that Linear has not", "Give a checkpoint of Linear.")
    assert load_state(net, state, strict=False).skipped == {"more": "no such key in this network"}


def test_what_fits_is_loaded_when_not_strict(tmp_path):
    source, net = small_net(seed=4, num_classes=7), small_net(num_classes=3)
    before = net.classifier.weight.clone()
    report = load_state(net, saved(tmp_path / "model.pt", source.state_dict()), strict=False)
    assert same(net.encoder, source.encoder)
    assert torch.equal(net.classifier.weight, before)
    assert report.missing == ("classifier.weight", "classifier.bias")
    assert not report.complete
    other = nn.Linear(4, 4)
    refused(other, lambda: load_state(other, source.state_dict(), strict=False), "2 of 2 keys of Linear", "resnet18")


# --- the report ------------------------------------------------------------------------------------------------------


def test_the_report_is_a_table(tmp_path):
    state = {f"module.{key}": value for key, value in small().body.state_dict().items() if "num_batches" not in key}
    state["module.fc.weight"] = torch.ones(3, 64)
    path = saved(tmp_path / "a.pth", state)
    lines = str(load_backbone_weights(small(), path)).splitlines()
    assert lines[0] == f"weights for Backbone (resnet18, width=0.125) from {path}"
    counts = {line.split("  ")[1].strip(): int(line.split()[-1]) for line in lines if line.split()[-1].isdecimal()}
    assert counts == {"matched (of 120)": 100, "renamed": 100, "adapted": 0, "kept": 20, "missing": 0, "skipped": 1}
    assert "    module.conv1.weight -> conv1.weight" in lines
    assert "    ... and 95 more" in lines
    assert "    module.fc.weight: classification head" in lines
