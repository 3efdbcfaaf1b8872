"""Episodes as a dataset: scans and their superpixels, prepared once, of which each epoch draws a slice and a mask."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SelectItemsd

from medssl_monai.core import ConfigError, DataError, did_you_mean
from medssl_monai.data.readers import MedicalImageReader
from medssl_monai.data.volumes import CachedVolumeDataset
from medssl_monai.transforms import DrawEpisoded, DropSlicesd, EpisodeSlicesd, Superpixelsd, scan_transforms
from medssl_monai.transforms.scan_geometry import Modality

logger = logging.getLogger(__name__)

_REFERENCE_SIZE = 256  # pixels of the slices that the numbers of pixels below are meant for
_MIN_SIZE = 400  # pixels of a superpixel (Ouyang et al. 2020)
_MIN_DRAWN = 100  # pixels of what the body's rim has left of one
# Felzenszwalb's scale 1 was meant for MR as stored, up to about 1,000, and for CT in 0..255; ours are in [0, 1]
_SCALES: dict[str, float] = {"mr": 1 / 1000, "ct": 1 / 255}
_BODY: dict[str, float] = {"mr": 0.05, "ct": 1e-4}  # intensity, in [0, 1], above which a pixel may be of the body


def episode_dataset(
    data: Sequence[Mapping[str, Any]],
    cache_dir: str | Path,
    seed: int = 0,
    index_key: str | None = "index",
    modality: Modality = "mr",
    image_size: int = 256,
    field_of_view: float = 320.0,
    slice_spacing: float | None = 7.7,
    clip_percentile: float = 99.5,
    window: Sequence[float] = (-125.0, 275.0),
    method: str = "felzenszwalb",
    settings: Mapping[str, Any] | None = None,
    body_threshold: float | None = None,
    min_pixels: int | None = None,
    exclude: Sequence[str | int] = (),
    organs: Mapping[int, str] | None = None,
    num_workers: int | None = 2,
    progress: bool | None = None,
) -> CachedVolumeDataset:
    """Scans of which every access draws one slice and one of its superpixels: the support of an episode (thesis 7.4.1).

    What needs no chance is done once a scan and lies in ``cache_dir``, found again by the scans' files and by every
    setting here that changes it: ``medssl superpixels`` makes the same in parallel before a stage needs it. A scan of
    36 slices of 256 pixels takes 9 MiB.

    Samples hold ``image`` (1, H, W), in [0, 1], its ``mask`` (1, H, W) of 0 and 1, both float32, and their number.

    Args:
        data: records with ``image``, ``name`` and, where masks are known, ``label``, as a ``Budget`` gives them.
        cache_dir: folder of the prepared scans.
        seed: the run's seed.
        index_key: key of the samples' numbers, of which :class:`~medssl_monai.transforms.EpisodeViews` makes queries.
        modality: ``mr`` or ``ct``; see :func:`~medssl_monai.transforms.scan_transforms`, as the five that follow.
        image_size: pixels of a slice, both sides.
        field_of_view: mm that these span.
        slice_spacing: mm between slices; ``None`` keeps the scans' own.
        clip_percentile: of an MR scan's intensities.
        window: of CT intensities.
        method: of :class:`~medssl_monai.transforms.Superpixels`.
        settings: of the method, beside these of our own: for Felzenszwalb on [0, 1] ``scale`` 0.001 (MR) or 1/255 (CT),
            which are 1 on the scales of Ouyang et al. (2020), and ``min_size`` 400 pixels at an ``image_size`` of 256,
            as many of the slice's area at another.
        body_threshold: intensity, in [0, 1], above which a pixel may be of the body; ``None``: 0.05 (MR), 1e-4 (CT).
        min_pixels: pixels of a superpixel that may be drawn; ``None``: 100 at an ``image_size`` of 256.
        exclude: organs whose slices are left out of scans with a mask: their names, or values in the masks (thesis
            7.4.1.5, last paragraph: those to be tested). Scans without a mask are kept whole.
        organs: of the dataset, mask value to name, for names in ``exclude`` (``Datalist.organs``).
        num_workers: threads that prepare what is missing; the cutting itself runs one at a time.
        progress: show a progress bar meanwhile; ``None``: where the error stream is a terminal.

    Raises:
        ConfigError: for an unknown organ, or a setting that cannot be.
        DataError: when ``data`` is empty, or a scan cannot be prepared; the message names it.
        OutputError: when ``cache_dir`` cannot be written.
    """
    values = organ_values(exclude, organs)
    records = [_record(record, bool(values)) for record in data]
    without = sum("label" not in record for record in records)
    if values and without:
        logger.warning("%d of %d scans have no mask to exclude slices by: they are kept whole", without, len(records))
    try:
        transform = Compose(
            [
                *preparation(
                    modality=modality,
                    image_size=image_size,
                    field_of_view=field_of_view,
                    slice_spacing=slice_spacing,
                    clip_percentile=clip_percentile,
                    window=window,
                    method=method,
                    settings=settings,
                    body_threshold=body_threshold,
                    exclude=values,
                ),
                DrawEpisoded("image", min_pixels=_scaled(_MIN_DRAWN, image_size) if min_pixels is None else min_pixels),
            ]
        )
    except ValueError as error:
        raise ConfigError(str(error), where="episode_dataset") from error
    return CachedVolumeDataset(
        records, transform, cache_dir, seed=seed, index_key=index_key, num_workers=num_workers, progress=progress
    )


@dataclass(frozen=True)
class PreparedScan:
    """A scan as it lies in the folder of prepared ones.

    Attributes:
        path: its file.
        slices: slices with a superpixel.
        superpixels: of all slices.
        size: bytes on disk.
    """

    path: Path
    slices: int
    superpixels: int
    size: int


def prepare_scan(settings: Mapping[str, Any]) -> PreparedScan:
    """Prepare a scan, unless it is there already, and look at it.

    Args:
        settings: arguments of :func:`episode_dataset`, with one record in ``data``.

    Raises:
        ConfigError: see :func:`episode_dataset`, as the following.
        DataError: when the scan cannot be prepared.
        OutputError: when the folder cannot be written.
    """
    dataset = episode_dataset(**settings)
    path: Path = dataset._cache[0]
    labels = dataset._mapped(0).item["superpixels"]  # numbered without gaps: the highest of a slice is their number
    return PreparedScan(path, len(labels), int(labels.flatten(1).amax(dim=1).sum()), path.stat().st_size)


def preparation(
    modality: Modality = "mr",
    image_size: int = 256,
    field_of_view: float = 320.0,
    slice_spacing: float | None = 7.7,
    clip_percentile: float = 99.5,
    window: Sequence[float] = (-125.0, 275.0),
    method: str = "felzenszwalb",
    settings: Mapping[str, Any] | None = None,
    body_threshold: float | None = None,
    exclude: Sequence[int] = (),
) -> list[Any]:
    """What :func:`episode_dataset` does once a scan: from its file to ``image`` and ``superpixels`` (S, H, W).

    Raises:
        ValueError: for a setting that cannot be.
    """
    keys = ["image", "label"] if exclude else ["image"]
    scan = scan_transforms(
        "image",
        "label" if exclude else None,
        modality=modality,
        image_size=image_size,
        field_of_view=field_of_view,
        slice_spacing=slice_spacing,
        clip_percentile=clip_percentile,
        window=window,
        allow_missing_keys=bool(exclude),
    )
    own: dict[str, Any] = {}
    if method == "felzenszwalb":
        own = {"scale": _SCALES[modality], "min_size": _scaled(_MIN_SIZE, image_size)}
    threshold = _BODY[modality] if body_threshold is None else body_threshold
    return [
        LoadImaged(keys, reader=MedicalImageReader, allow_missing_keys=bool(exclude)),
        EnsureChannelFirstd(keys, allow_missing_keys=bool(exclude)),
        *scan,
        *([DropSlicesd("image", "label", exclude)] if exclude else []),
        Superpixelsd("image", "superpixels", method, {**own, **(settings or {})}, threshold),
        EpisodeSlicesd("image", "superpixels"),
        SelectItemsd(["image", "superpixels"]),
    ]


def _scaled(pixels: int, image_size: int) -> int:
    """As large a share of a slice of ``image_size`` as ``pixels`` are of one of 256."""
    return max(1, round(pixels * (image_size / _REFERENCE_SIZE) ** 2))


def organ_values(names: Sequence[str | int], organs: Mapping[int, str] | None = None) -> tuple[int, ...]:
    """Values in the masks of organs given by name or by value, ascending.

    Args:
        names: names or values.
        organs: value to name, of the dataset.

    Raises:
        ConfigError: for a name or value that is no organ of the dataset, or one text in place of a list.
    """
    known = {name: value for value, name in (organs or {}).items()}
    if isinstance(names, str):
        raise ConfigError("organs must be given as a list", where="exclude", found=names, expected=f"[{names}]")
    values = set()
    for name in names:
        if isinstance(name, str) and name in known:
            values.add(known[name])
        elif isinstance(name, int) and not isinstance(name, bool) and name > 0 and (not organs or name in organs):
            values.add(name)
        else:
            raise ConfigError(
                "the dataset has no such organ", where="exclude", found=name,
                advice=did_you_mean(str(name), known) or "Name organs as `labels` of its datalist.json does.",
            )  # fmt: skip
    return tuple(sorted(values))


def _record(record: Mapping[str, Any], with_label: bool) -> dict[str, Any]:
    """What a prepared scan depends on, with full paths, so that it is found again from any working folder."""
    image, label = record["image"], record.get("label")
    if isinstance(image, Mapping):
        raise DataError(
            "episodes are drawn from single scans, but this item has several images",
            where=record.get("name"),
            found=", ".join(map(str, image)),
            advice="Choose one of them: prepare a dataset of that plane or sequence.",
        )
    kept = {"image": os.path.abspath(image), "name": record.get("name", str(image))}
    if with_label and label is not None:
        kept["label"] = os.path.abspath(label)
    return kept
