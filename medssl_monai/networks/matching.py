"""Pairing the tensors of a checkpoint with the keys of a network, and saying whose they are when they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from medssl_monai.core import CheckpointError
from medssl_monai.networks.backbones import BACKBONES, Backbone
from medssl_monai.networks.key_maps import unprefixed
from medssl_monai.networks.report import LoadReport

_COUNTER = "num_batches_tracked"
_SHOWN = 3
_SHAPE = "shape"
_ALIKE = 0.8  # share of common keys (intersection over union) that makes two layouts one


def match_tensors(
    tensors: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    report: LoadReport,
    *,
    candidates: Callable[[str], Iterable[str]],
    why_unused: Callable[[str], str],
    stem: str | None = None,
) -> tuple[dict[str, Tensor], LoadReport]:
    """Pair the source's tensors with the network's keys; nothing is written.

    Args:
        tensors: the source's tensors.
        target: the network's state dict.
        report: carries the names of source and network.
        candidates: names a source key may have in the network, the first that is there counts.
        why_unused: the reason written down for a source key that has no place.
        stem: key of the first convolution, when it may be adapted to another number of input channels.

    Returns:
        Values by network key, and the report.

    Raises:
        CheckpointError: when two source keys have the same place.
    """
    values: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    adapted: dict[str, str] = {}
    skipped: dict[str, str] = {}
    for key, value in tensors.items():
        own = next((candidate for candidate in candidates(key) if candidate in target), None)
        if own is None:
            skipped[key] = why_unused(key)
            continue
        if own in origin:
            raise CheckpointError(
                f"two keys hold {own!r} of {report.network}",
                where=report.source,
                found=f"{origin[own]!r} and {key!r}",
                advice="The file holds more than one network; save the one that is meant alone.",
            )
        wanted = target[own].shape
        if own == stem and _other_channels(value, target[own]):
            adapted[own] = f"each of {wanted[1]} channels gets the sum over {value.shape[1]} channels / {wanted[1]}"
            value = value.sum(dim=1, keepdim=True).expand(wanted) / wanted[1]
        if value.shape == wanted:
            values[own], origin[own] = value, key
        else:
            skipped[key] = f"{_SHAPE} {tuple(value.shape)}, expected {tuple(wanted)}"
    missing = [key for key in target if key not in values]
    return values, LoadReport(
        source=report.source,
        network=report.network,
        matched=tuple(key for key in target if key in values),
        renamed={old: new for new, old in origin.items() if old != new},
        adapted=adapted,
        kept=tuple(key for key in missing if key.endswith(_COUNTER)),
        missing=tuple(key for key in missing if not key.endswith(_COUNTER)),
        skipped=skipped,
    )


def describe(module: nn.Module) -> str:
    """A network's name in messages: its class and its backbone, with what is not default."""
    backbone = find_backbone(module)
    if backbone is None:
        return type(module).__name__
    extra = [backbone.name]
    extra += [f"in_channels={backbone.in_channels}"] if backbone.in_channels != 3 else []
    extra += [f"width={backbone.width:g}"] if backbone.width != 1 else []
    extra += [f"stem={backbone.stem}"] if backbone.stem != "imagenet" else []
    return f"{type(module).__name__} ({', '.join(extra)})"


def find_backbone(module: nn.Module) -> Backbone | None:
    """The first backbone in a network, or the network itself when it is one."""
    return next((part for part in module.modules() if isinstance(part, Backbone)), None)


def identify(keys: Iterable[str]) -> str | None:
    """The registered backbone whose layout these keys follow, ``None`` when they are no one's."""
    names = [key for key in keys if not key.endswith(_COUNTER)]
    scores: dict[str, float] = {}
    for name in BACKBONES:
        spec = BACKBONES.get(name)
        body = {key for key in spec.body(3, 0.125)[0].state_dict() if not key.endswith(_COUNTER)}
        heads = found = 0
        for key in names:
            parts = [spec.rename(part) for part in unprefixed(key)]
            found += any(part in body for part in parts)
            heads += any(part.partition(".")[0] in spec.heads for part in parts)
        scores[name] = found / (len(body) + len(names) - heads - found) if found else 0.0
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= _ALIKE else None


def another_network(
    module: nn.Module, report: LoadReport, tensors: Mapping[str, Tensor], target: Mapping[str, Tensor], advice: str = ""
) -> CheckpointError:
    """The error that names both networks, the first keys that do not fit, and what would mend it."""
    lacking = [*report.missing, *report.kept]
    surplus = {key: why for key, why in report.skipped.items() if not why.startswith(_SHAPE)}
    shapes = {key: why for key, why in report.skipped.items() if why.startswith(_SHAPE)}
    if lacking:
        what = f"{len(lacking)} of {len(target)} keys of {report.network} are not in it"
    else:
        what = f"it has {len(surplus)} keys that {report.network} has not"
    found = [f"{key}: {why}" for key, why in {**shapes, **surplus}.items()] or list(tensors)
    return CheckpointError(
        f"checkpoint of another network: {what}",
        where=report.source,
        found=_first(found),
        expected=_first([f"{key} {tuple(target[key].shape)}" for key in lacking]) or None,
        advice=advice or _advice(module, report.network, list(tensors), list(target), bool(shapes)),
    )


def _advice(module: nn.Module, network: str, theirs: list[str], ours: list[str], shapes_differ: bool) -> str:
    backbone = find_backbone(module)
    wanted = backbone.name if backbone else None
    name = identify(theirs)
    if name and name != wanted:
        other = f"give weights of {wanted}" if wanted else "give another file"
        return f"The file's keys are those of {name}: build the network with it, or {other}."
    if shapes_differ:
        return (
            "The names fit, the shapes do not: the file's network has another width or stem, or another number of "
            "channels or classes. Build the network as the file's was, or give another file."
        )
    if prefix := _prefix(theirs, ours[0]):
        return f"The file holds this network under the prefix {prefix!r}: read it with that prefix."
    if theirs and (prefix := _prefix(ours, theirs[0])):
        return f"The file holds only the part {prefix!r} of this network: load it into that part."
    return f"Give a checkpoint of {network}."


def _prefix(keys: list[str], ending: str) -> str:
    return next((key.removesuffix(ending) for key in keys if key.endswith("." + ending)), "")


def _other_channels(value: Tensor, own: Tensor) -> bool:
    same_kernel = value.dim() == own.dim() and value.shape[0] == own.shape[0] and value.shape[2:] == own.shape[2:]
    return same_kernel and value.shape[1] != own.shape[1]


def _first(entries: list[str]) -> str:
    more = f", ... {len(entries) - _SHOWN} more" if len(entries) > _SHOWN else ""
    return ", ".join(entries[:_SHOWN]) + more
