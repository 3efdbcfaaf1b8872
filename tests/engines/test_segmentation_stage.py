"""Evaluation and inference of organs end to end: scans of any grid, NIfTI and DICOM, and label maps of theirs."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from monai.transforms import Compose, CopyItemsd, EnsureChannelFirstd, EnsureTyped, LoadImaged
from organ_phantom import ORGANS, SHAPES, draw, grid, picture, write_dicom, write_nifti
from torch import Tensor, nn

from medssl_monai.core import ConfigError, DataError, OutputError, hash_case
from medssl_monai.data import Datalist, InputProfile, SeededCacheDataset, evaluation_records, inference_records
from medssl_monai.data.datalist import Item, load_datalist
from medssl_monai.data.readers import MedicalImageReader, read_image
from medssl_monai.engines import SegmentationEvaluator, label_ranges
from medssl_monai.handlers import SegmentationReport, SegmentationWriter, read_organ_scores
from medssl_monai.handlers.provenance import hash_subjects
from medssl_monai.handlers.segmentation_files import case_file, write_label_map
from medssl_monai.metrics import organ_scores
from medssl_monai.transforms import DescribeInputd, RestoreLabelMapd, scan_transforms
from medssl_monai.visualize import OrganMosaics

GRIDS = {
    "a/straight.nii.gz": grid("LAS", (1.5, 1.5, 6.0)),
    "a/turned.nii.gz": grid("PIR", (1.5, 1.5, 5.0), (10.0, -8.0, 12.0)),
    "b/oblique.nii.gz": grid("LPS", (1.25, 1.5, 5.0), (-12.0, 15.0, 5.0)),
}


class Greys(nn.Module):
    """Organs by their grey: what a perfect network would do on the phantom."""

    greys = (0.1, 0.55, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-(((x - grey - self.shift) / 0.05) ** 2) for grey in self.greys], dim=1)

    def forward_within(self, x: Tensor, ranges: Tensor) -> Tensor:
        logits = self(x)
        place = torch.arange(x.shape[4])
        for scan, rows in enumerate(ranges):
            for organ, (first, last) in enumerate(rows.tolist()):
                logits[scan, 1 + organ][..., (place < first) | (place > last)] = -400.0
        return logits


def chain(labels: bool) -> Compose:
    keys = ["image", "label"] if labels else ["image"]
    return Compose(
        [
            LoadImaged(keys, reader=MedicalImageReader, dtype=None),
            EnsureChannelFirstd(keys),
            *([CopyItemsd("label", names="truth")] if labels else []),
            DescribeInputd("image"),
            EnsureTyped("image", dtype=torch.float32),
            *scan_transforms("image", "label" if labels else None, image_size=128, field_of_view=224.0),
        ]
    )


def run(
    records: Sequence[dict],
    handler,
    labels: bool,
    postprocess: bool = True,
    network: nn.Module | None = None,
    further=(),
    **given,
) -> None:
    transform = chain(labels)
    dataset = SeededCacheDataset(records, transform, cache_rate=0.0, half=False, progress=False)
    restore = RestoreLabelMapd(["pred", "paper_pred"], transform, list(ORGANS), allow_missing_keys=True)
    SegmentationEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=1),
        network=network or Greys(),
        values=list(ORGANS),
        postprocessing=restore if postprocess else None,
        val_handlers=[handler, *further],
        **given,
    ).run()


@pytest.fixture
def dataset(tmp_path: Path) -> Datalist:
    items = []
    for number, (name, (shape, affine)) in enumerate(GRIDS.items()):
        labels = draw(shape, affine)
        write_nifti(tmp_path / "data" / name, picture(labels), affine)
        write_nifti(tmp_path / "data" / "masks" / name, labels, affine)
        items.append(Item(name, f"masks/{name}", f"subject:{number}", {"sex": "f"}))
    whole = Datalist("phantom", "segmentation", {0: "background", **ORGANS}, {"test": items})
    whole.save(tmp_path / "data")
    return load_datalist(tmp_path / "data")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def confidence(logits: Tensor) -> Tensor:
    return torch.softmax(logits, 1)[:, 1:].amax(dim=(2, 3, 4))


def test_evaluate_reports_both_protocols(dataset: Datalist, tmp_path: Path) -> None:
    out = tmp_path / "eval"
    report = SegmentationReport(
        output_dir=out, organs=ORGANS, items=dataset.splits["test"], dataset="phantom", n_boot=20, masks=True,
        serving={"settings": {"image_size": 128}, "label_counts": {"n_labels_training": 1, "n_labels_validation": 0}},
    )  # fmt: skip
    run(evaluation_records(dataset), report, True, protocols=("blind", "paper"), confidence=confidence)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["metrics"]["mean_dice"]["estimate"] > 0.93
    assert metrics["metrics"]["paper/mean_dice"] == metrics["protocols"]["paper"]["metrics"]["mean_dice"]
    assert (metrics["protocol"], metrics["n_subjects"], metrics["class_names"]) == ("blind", 3, ["liver", "spleen"])
    assert metrics["label_counts"]["n_labels_training"] == 1
    rows = rows_of(out / "predictions.csv")
    assert [(row["image"], row["organ"]) for row in rows] == [(n, o) for n in GRIDS for o in ("liver", "spleen")]
    for row in rows:  # the figures are those of the label maps that were written, against the masks on disk
        mask, truth = nib.load(out / row["image"]), nib.load(dataset.root / "masks" / row["image"])
        assert np.array_equal(mask.affine, truth.affine)
        assert mask.get_data_dtype() == np.uint8
        maps = [np.asarray(one.dataobj).astype(int) for one in (mask, truth)]
        score = next(one for one in organ_scores(*maps, ORGANS, truth.affine) if one.organ == row["organ"])
        assert float(row["dice"]) == pytest.approx(score.dice)
        assert float(row["hd95_mm"]) == pytest.approx(score.hd95_mm)
        assert float(row["volume_error_percent"]) == pytest.approx(score.volume_error_percent)
        assert float(row["paper_dice"]) > 0.9
        assert float(row["confidence"]) > 0.9
        assert (row["subject"], row["absent"], row["label"]) == (
            f"subject:{list(GRIDS).index(row['image'])}", "0", {"liver": "3", "spleen": "7"}[row["organ"]],
        )  # fmt: skip
    for protocol in ("blind", "paper"):
        names, subjects, scores = read_organ_scores(out / "predictions.csv", protocol)
        assert (names, subjects) == (list(GRIDS), [f"subject:{k}" for k in range(3)])
        prefix = "" if protocol == "blind" else "paper_"
        assert [one.dice for scan in scores for one in scan] == [float(row[f"{prefix}dice"]) for row in rows]


def test_paper_protocol_takes_the_ranges_of_the_querys_labels(dataset: Datalist, tmp_path: Path) -> None:
    class Everywhere(Greys):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 3, *x.shape[2:])
            logits[:, 2] = 9.0
            return logits

    report = SegmentationReport(
        output_dir=tmp_path / "eval", organs=ORGANS, items=dataset.splits["test"], serving={}, n_boot=5
    )
    run(evaluation_records(dataset)[:1], report, True, protocols=("blind", "paper"), network=Everywhere())
    row = next(one for one in rows_of(tmp_path / "eval" / "predictions.csv") if one["organ"] == "spleen")
    scan = np.prod(GRIDS["a/straight.nii.gz"][0]) * 1.5 * 1.5 * 6 / 1000
    assert float(row["volume_ml"]) == pytest.approx(scan, rel=0.02)
    # the spleen is 52 mm high: 9 of 23 slices of 6 mm, to the slice
    assert float(row["paper_volume_ml"]) == pytest.approx(scan * 52 / 138, rel=0.15)


def test_label_ranges() -> None:
    labels = torch.zeros(2, 1, 4, 4, 6)
    labels[0, 0, 1, 2, 1], labels[0, 0, 3, 3, 4], labels[1, 0, 0, 0, 5] = 3, 3, 7
    assert label_ranges(labels, [3, 7]).tolist() == [[[1, 4], [0, -1]], [[0, -1], [5, 5]]]
    with pytest.raises(ValueError, match=r"labels: expected \(N, 1, H, W, S\), got \(4, 4, 6\)"):
        label_ranges(labels[0, 0], [3])


def test_inference_of_nifti_and_dicom_gives_the_same_mask(tmp_path: Path) -> None:
    shape, affine = grid("LPS", (1.25, 1.5, 5.0), (-12.0, 15.0, 5.0))
    image = picture(draw(shape, affine))
    write_nifti(tmp_path / "in" / "as_nifti.nii.gz", image, affine)
    write_dicom(tmp_path / "in" / "patient.1" / "series", image, affine)
    writer = SegmentationWriter(output_dir=tmp_path / "out", organs=ORGANS, thresholds={"spleen": 0.9999})
    run(inference_records(tmp_path / "in"), writer, False, confidence=lambda logits: confidence(logits) * 0.9)
    nifti, dicom = (nib.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("as_nifti", "patient.1/series"))
    assert dicom.shape == nifti.shape == shape
    assert np.array_equal(nifti.affine, nib.load(tmp_path / "in" / "as_nifti.nii.gz").affine)
    assert np.allclose(dicom.affine, affine, atol=1e-5)
    assert np.array_equal(dicom.dataobj, nifti.dataobj)
    assert np.allclose(dicom.header.get_qform(), dicom.affine, atol=1e-4)
    truth = draw(shape, affine)
    for one in organ_scores(np.asarray(dicom.dataobj), truth, ORGANS, affine):
        assert one.dice > 0.93
    rows = rows_of(tmp_path / "out" / "inference.csv")
    assert [row["image"] for row in rows] == ["as_nifti.nii.gz"] * 2 + ["patient.1/series"] * 2
    half = np.prod(SHAPES[3][1]) * 4 / 3 * np.pi / 1000
    for row in rows:
        assert row["absent"] == {"liver": "0", "spleen": "1"}[row["organ"]]
        if row["organ"] == "liver":
            assert float(row["volume_ml"]) == pytest.approx(half, rel=0.06)


@pytest.mark.real
def test_the_dicom_ct_gets_its_mask_in_its_own_place(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "chaos_ct_dicom" / "DICOM"
    array, meta = read_image(folder)
    record = {"image": str(folder), "name": "ct"}
    writer = SegmentationWriter(output_dir=tmp_path, organs=ORGANS)
    run([record], writer, False)
    mask = nib.load(tmp_path / "ct.nii.gz")
    assert mask.shape == array.shape
    assert np.allclose(mask.affine, meta["affine"], atol=1e-4)


def test_scans_that_differ_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shape, affine = GRIDS["a/straight.nii.gz"]
    for name, factor in (("usual", 1), ("bright", 20)):
        write_nifti(tmp_path / "in" / f"{name}.nii.gz", picture(draw(shape, affine)) * factor, affine)
    records = inference_records(tmp_path / "in")
    loading = Compose(chain(False).transforms[:3])
    profile = InputProfile.from_records([one for one in records if "usual" in one["name"]], loading)
    run(records, SegmentationWriter(output_dir=tmp_path / "out", organs=ORGANS, inputs=profile.to_json()), False)
    differs = {row["image"]: row["differs"] for row in rows_of(tmp_path / "out" / "inference.csv")}
    assert differs["usual.nii.gz"] == ""
    assert "intensity mean" in differs["bright.nii.gz"]
    assert "1 of 2 scans differ from the labelled ones" in caplog.text


def test_names_that_meet_are_kept_apart(tmp_path: Path) -> None:
    shape, affine = GRIDS["a/straight.nii.gz"]
    image = picture(draw(shape, affine))
    write_nifti(tmp_path / "in" / "scan.nii.gz", image, affine)
    write_nifti(tmp_path / "in" / "scan.nii", image[:60], affine)
    write_nifti(tmp_path / "in" / "other.nii", image, affine)
    mosaics = OrganMosaics(tmp_path / "out", ORGANS, n_slices=1)
    writer = SegmentationWriter(output_dir=tmp_path / "out", organs=ORGANS)
    run(inference_records(tmp_path / "in"), writer, False, further=[mosaics])
    found = {path.name: nib.load(path).shape for path in (tmp_path / "out").glob("*.nii.gz")}
    cut = (60, *shape[1:])
    assert found == {"scan.nii.nii.gz": cut, "scan.nii.gz.nii.gz": shape, "other.nii.gz": shape}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"scan.nii.png", "scan.nii.gz.png", "other.png"}


def test_a_scan_is_never_replaced(tmp_path: Path) -> None:
    shape, affine = GRIDS["a/straight.nii.gz"]
    write_nifti(tmp_path / "scan.nii.gz", picture(draw(shape, affine)), affine)
    before = (tmp_path / "scan.nii.gz").read_bytes()
    with pytest.raises(OutputError, match=r"the result would replace the scan.*output_dir"):
        run(inference_records(tmp_path), SegmentationWriter(output_dir=tmp_path, organs=ORGANS), False)
    assert (tmp_path / "scan.nii.gz").read_bytes() == before
    for name in ("../scan.nii.gz", "/scan.nii.gz"):
        with pytest.raises(OutputError, match="leads out of the output folder"):
            case_file(tmp_path, name, ".nii.gz")


def test_label_maps_take_the_smallest_type_and_the_same_bytes(tmp_path: Path) -> None:
    labels = np.zeros((4, 5, 6), np.int32)
    sheared = np.array([[1.0, 0, 0, 3], [0, 1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    for value, kind in ((0, np.uint8), (255, np.uint8), (256, np.uint16), (70000, np.uint32)):
        labels[0, 0, 0] = value
        write_label_map(tmp_path / "a.nii.gz", labels, sheared)
        written = nib.load(tmp_path / "a.nii.gz")
        assert written.get_data_dtype() == kind
        assert np.array_equal(written.dataobj, labels)
    assert np.array_equal(written.affine, sheared)
    assert int(written.header["qform_code"]) == 0  # a quaternion knows no shear
    write_label_map(tmp_path / "b.nii.gz", labels, sheared)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_validation_is_no_test(dataset: Datalist, tmp_path: Path) -> None:
    report = SegmentationReport(
        output_dir=tmp_path / "eval", organs=ORGANS, items=dataset.splits["test"], serving={}, split="validation",
        n_boot=5,
    )  # fmt: skip
    run(evaluation_records(dataset)[:1], report, True)
    metrics = json.loads((tmp_path / "eval" / "validation_metrics.json").read_text())
    assert "figures of the validation split" in metrics["warnings"][0]
    assert (tmp_path / "eval" / "validation_predictions.csv").is_file()


def test_supports_among_the_tested_are_told(dataset: Datalist, tmp_path: Path) -> None:
    items = dataset.splits["test"]
    serving = {
        "seen_key": hash_case("key"), "seen_subjects": sorted(hash_subjects("phantom", items[:1])), "label_counts": {},
    }  # fmt: skip
    report = SegmentationReport(
        output_dir=tmp_path, organs=ORGANS, items=items, serving=serving, dataset="phantom", n_boot=5
    )
    run(evaluation_records(dataset)[:2], report, True)
    assert report.report["n_subjects_seen_in_training"] == 1
    assert "1 of 2 test subjects were seen in training: the figures are too good" in report.report["warnings"]


def test_settings_that_do_not_fit_are_refused(dataset: Datalist, tmp_path: Path) -> None:
    records = evaluation_records(dataset)[:1]

    def report(**given) -> SegmentationReport:
        settings = {"output_dir": tmp_path, "organs": ORGANS, "items": dataset.splits["test"], "serving": {}, **given}
        return SegmentationReport(**settings)

    with pytest.raises(
        ConfigError, match=r"thresholds: thresholds of organs .*\(found kidney, expected liver, spleen\)"
    ):
        report(thresholds={"kidney": 0.5})
    for n_boot in (0, 2.5):
        with pytest.raises(
            ConfigError, match=rf"^n_boot: resamples of the intervals .found {n_boot}, expected 1 or more"
        ):
            report(n_boot=n_boot)
    with pytest.raises(ConfigError, match=r"protocols: cannot be used .*Did you mean 'paper'"):
        run(records, report(), True, protocols=("blind", "papr"))
    with pytest.raises(ConfigError, match="protocols: cannot be used"):
        run(records, report(), True, protocols=("paper",))
    with pytest.raises(ConfigError, match="cannot be told in which slices an organ lies"):
        run(records, report(), True, protocols=("blind", "paper"), network=nn.Identity())
    with pytest.raises(ConfigError, match="takes the slices of each organ from the query's labels"):
        run(inference_records(dataset.root / "a"), report(), False, protocols=("blind", "paper"))
    with pytest.raises(ConfigError, match=r"postprocessing \(pred\): the output is no label map"):
        run(records, report(), True, postprocess=False)
    with pytest.raises(ConfigError, match="found decollate: false"):
        run(records, report(), True, postprocess=False, decollate=False)
    with pytest.raises(ConfigError, match=r"not a confidence for each organ .found 1, expected 2"):
        run(records, report(), True, confidence=lambda logits: torch.ones(len(logits), 1))
    with pytest.raises(DataError, match="the scan is not in the test split"):
        run(records, report(items=[]), True)
    with pytest.raises(DataError, match="comes without its mask as it was read"):
        run(records, report(), False)
    scan = {"name": records[0]["name"], "truth": MetaTensor(torch.zeros(1, 3, 3, 3))}
    with pytest.raises(DataError, match=r"the mask has another grid than its scan \(found shape \(3, 3, 3\)"):
        report().row(scan, {}, MetaTensor(torch.zeros(1, 4, 4, 4, dtype=torch.int32)))


def test_tables_that_cannot_be_read_back(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table of scores"):
        read_organ_scores(tmp_path / "predictions.csv")
    path = tmp_path / "predictions.csv"
    header = "image,subject,organ,label,case,dice,hd95_mm,volume_ml,true_volume_ml\n"
    path.write_text(header)
    with pytest.raises(DataError, match="found no row"):
        read_organ_scores(path)
    path.write_text(header + "a,,liver,1,both,0.5,1,2,3\n")
    assert read_organ_scores(path)[1] == ["a"]
    with pytest.raises(DataError, match="found no column paper_case"):
        read_organ_scores(path, "paper")
    for line, said in {
        "a,,liver,1,lost,0.5,1,2,3": "case is 'lost'",
        "a,,liver,1,both,0.5,1,,3": "a volume is missing",
        "a,,liver,1,both,much,1,2,3": "could not convert",
    }.items():
        path.write_text(f"{header}{line}\n")
        with pytest.raises(DataError, match=f"line 2 cannot be read .*{said}"):
            read_organ_scores(path)
