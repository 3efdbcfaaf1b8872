"""The train stage without gradients: what it writes, and that it is what the segmenter needs."""

from __future__ import annotations

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch
from labelled_scans import ORGANS, RANGES, preparing, tiny_segmenter, write_dataset
from monai.transforms import Compose

from medssl_monai.core import DataError, FolderLock, OutputError, file_digest, hash_case
from medssl_monai.data import InputProfile, load_datalist, select_budget
from medssl_monai.data.labelled_episodes import LabelledEpisodes, labelled_scan
from medssl_monai.data.sampling import SeededBatchSampler
from medssl_monai.engines.episodic import EpisodicTrainer
from medssl_monai.engines.support import SupportMemory, read_scans, remember_supports
from medssl_monai.engines.support_confidence import leave_one_slice_out
from medssl_monai.handlers.support_record import absence_thresholds, read_support
from medssl_monai.networks import CoWProNet
from medssl_monai.transforms import DescribeInputd, EpisodeViews


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The budget of a dataset, and its prepared scans."""
    budget = select_budget(load_datalist(write_dataset(tmp_path_factory.mktemp("scans"))), validation_share=0.0)
    prepare = preparing()
    return budget, [prepare(record) for record in budget.records("training")]


def memory(data, folder, network=None, **kwargs):
    budget, scans = data
    network = network or tiny_segmenter()
    settings = {"image_size": 48, "backbone": "resnet18"}
    return SupportMemory(network, kwargs.pop("dataset", scans), kwargs.pop("organs", ORGANS), folder, budget, settings)


def test_the_record_tells_what_the_scans_were_like(data, tmp_path):
    """As stored: before intensities are scaled and slices are cut."""
    budget, _ = data
    prepare = preparing()
    described = Compose([*prepare.transforms[:2], DescribeInputd("image"), *prepare.transforms[2:]])
    scans = [described(record) for record in budget.records("training")]
    stored = [nib.load(record["image"]).get_fdata() for record in budget.records("training")]
    content = memory((budget, scans), tmp_path / "described").run()["inputs"]
    assert (content["n"], content["channels"], content["slices"]) == (3, (1,), (16.0, 16.0))
    assert (content["width"], content["height"]) == ((48.0, 48.0), (48.0, 48.0))
    assert content["mean"][0] == pytest.approx(np.median([one.mean() for one in stored]), rel=1e-6)
    assert content["std"][0] == pytest.approx(np.median([one.std() for one in stored]), rel=1e-6)
    assert InputProfile.from_json(read_support(tmp_path / "described")["inputs"]).mean == content["mean"]
    assert memory((budget, [scans[0], data[1][1]]), tmp_path / "one").run()["inputs"] is None  # not known of both
    assert memory(data, tmp_path / "none").run()["inputs"] is None
    record = json.loads((tmp_path / "none/support.json").read_text())
    del record["inputs"]  # as before it was kept
    (tmp_path / "none/support.json").write_text(json.dumps(record))
    assert read_support(tmp_path / "none")["inputs"] is None


def test_the_files_hold_all_that_serving_needs(data, tmp_path, caplog):
    budget, scans = data
    network = tiny_segmenter()
    network.encoder.requires_grad_(True)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    with caplog.at_level(logging.INFO):
        content = memory(data, tmp_path, network).run()
    assert "bank of 3 labelled scans written in" in caplog.text
    assert not any(f"scan{k}" in caplog.text for k in range(3))
    for name, value in network.encoder.state_dict().items():
        assert torch.equal(value, before[name])
    pairs = [labelled_scan(scan, list(ORGANS)) for scan in scans]
    expected = tiny_segmenter()
    expected.remember(*zip(*pairs))
    check = leave_one_slice_out(expected, *zip(*pairs))
    served = tiny_segmenter()
    served.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad():
        torch.testing.assert_close(served(pairs[1][0][None]), expected(pairs[1][0][None]))
    torch.testing.assert_close(served.absence_threshold, check.thresholds.float(), equal_nan=True)
    record = json.loads((tmp_path / "support.json").read_text())
    assert record == content == read_support(tmp_path)
    order = [item.name for item in budget.labeled]
    ranges = [RANGES[int(name[4])] for name in order]
    for index, ((value, name), entry) in enumerate(zip(ORGANS.items(), record["organs"])):
        assert (entry["value"], entry["name"], entry["n_scans"]) == (value, name, 3)
        assert entry["n_slices"] == sum(of[index][1] - of[index][0] + 1 for of in ranges)
        starts, ends = ([(of[index][end] - 1) / 13 for of in ranges] for end in (0, 1))  # body: slices 1 to 14
        assert entry["extent"] == pytest.approx([min(starts), max(ends)], abs=1e-4)
        assert sum(entry["quadrants"]) == pytest.approx(1, abs=1e-3)
        found = check.organs[index]
        assert entry["absence_threshold"] == pytest.approx(found.threshold)
        summary = entry["leave_one_slice_out"]
        assert (summary["n_present"], summary["n_absent"]) == (entry["n_slices"], 3 * 14 - entry["n_slices"])
        assert summary["dice"] == pytest.approx(found.dice)
        assert summary["confidence_present"] == pytest.approx(found.present.mean())
        assert summary["confidence_absent"] == pytest.approx(found.absent.mean())
    assert record["cases"] == [{"case": hash_case(name), "n_slices": 16} for name in order]
    assert record["model_sha256"] == file_digest(tmp_path / "model.pt")
    assert record["label_counts"]["n_labels"] == 3
    assert record["settings"] == {"image_size": 48, "backbone": "resnet18"}
    assert len(record["seen_subjects"]) == 3
    text = (tmp_path / "support.json").read_text()
    assert "scan0" not in text
    assert "P0" not in text
    assert absence_thresholds(record) == {entry["name"]: entry["absence_threshold"] for entry in record["organs"]}


def test_one_scan_is_enough(data, tmp_path):
    content = memory(data, tmp_path, dataset=data[1][:1]).run()
    assert [entry["n_scans"] for entry in content["organs"]] == [1, 1]
    assert all(0 < entry["leave_one_slice_out"]["dice"] <= 1 for entry in content["organs"])


def test_an_organ_without_a_threshold_is_told(data, tmp_path, caplog):
    scan = dict(data[1][0])
    label = scan["label"].clone()
    places = (label == 3).flatten(0, 2).any(dim=0).nonzero().squeeze(1)
    label[..., places[1:]] = torch.where(label[..., places[1:]] == 3, 0, label[..., places[1:]])
    content = memory(data, tmp_path, dataset=[{**scan, "label": label}]).run()
    assert content["organs"][0]["absence_threshold"] is None
    assert content["organs"][0]["leave_one_slice_out"] == {
        "dice": None, "n_present": 0, "n_absent": 13, "confidence_present": None,
        "confidence_absent": content["organs"][0]["leave_one_slice_out"]["confidence_absent"],
    }  # fmt: skip
    assert "liver: no threshold of absence could be set, it is never flagged" in caplog.text


def test_what_was_there_stays_when_it_fails(data, tmp_path):
    memory(data, tmp_path).run()
    before = {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")}
    with pytest.raises(DataError, match=r"label: no labelled scan shows kidney \(found no voxel of value 9 in 3 masks, "
                                        r"expected every organ.*leave the organ out of `labels`"):  # fmt: skip
        memory(data, tmp_path, organs={3: "liver", 9: "kidney"}).run()
    with pytest.raises(DataError, match=r"there is no labelled scan.*give a larger label_budget"):
        memory(data, tmp_path, dataset=[]).run()
    assert {path.name: path.read_bytes() for path in tmp_path.glob("[!.]*")} == before


def test_another_run_in_the_folder(data, tmp_path):
    lock = FolderLock(tmp_path)
    lock.acquire()
    try:
        with pytest.raises(OutputError, match="another run is writing in this folder"):
            memory(data, tmp_path).run()
    finally:
        lock.release()
    assert memory(data, tmp_path).run() is not None
    assert memory(data, tmp_path).run() is not None  # it is given back


def test_another_number_of_organs(data, tmp_path):
    with pytest.raises(DataError, match=r"network_def::num_organs: the network is for another number of organs "
                                        r"\(found 3, expected 2 \(liver, spleen\)\)"):  # fmt: skip
        memory(data, tmp_path, tiny_segmenter(3))


def test_every_slice_is_encoded_once(data):
    network, seen = tiny_segmenter(), []
    network.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    scans = read_scans(data[1], list(ORGANS))
    remember_supports(network, scans, ORGANS)
    assert sum(seen) == 3 * 16


def test_fine_tuning_by_episodes_of_the_organs_comes_before_the_bank(data, tmp_path):
    """The trainer of pre-training takes the episodes; its gradients reach the encoder that writes the bank."""
    network = tiny_segmenter()
    episodes = LabelledEpisodes(data[1], list(ORGANS))
    plain = memory(data, tmp_path, network).run()
    before = network.encoder.reduce.weight.clone()
    net = CoWProNet(network.encoder, network.head)
    losses = []
    trainer = EpisodicTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=torch.utils.data.DataLoader(
            episodes, batch_sampler=SeededBatchSampler(len(episodes), 4, seed=0, steps_per_epoch=10)
        ),
        network=net,
        optimizer=torch.optim.SGD(net.parameters(), 0.01, momentum=0.9),
        views=EpisodeViews(seed=0),
        seed=0,
    )
    trainer.add_event_handler("ITERATION_COMPLETED", lambda engine: losses.append(engine.state.output["loss"]))
    trainer.run()
    assert not torch.equal(before, network.encoder.reduce.weight)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    tuned = memory(data, tmp_path, network).run()
    assert tuned["model_sha256"] != plain["model_sha256"]
    stored = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(stored["encoder.reduce.weight"], network.encoder.reduce.weight)
    again = tiny_segmenter()
    again.load_state_dict(stored)
    again.remember(*zip(*(labelled_scan(scan, list(ORGANS)) for scan in data[1])))
    torch.testing.assert_close(again.foreground, stored["foreground"])
