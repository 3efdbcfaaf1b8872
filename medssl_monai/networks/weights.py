"""Loading weights with a report of every key, and errors that name the other network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from medssl_monai.core import CheckpointError
from medssl_monai.networks.backbones import BACKBONES, Backbone, BackboneSpec
from medssl_monai.networks.key_maps import unprefixed
from medssl_monai.networks.matching import another_network, describe, match_tensors
from medssl_monai.networks.report import LoadReport
from medssl_monai.networks.sources import PACKAGE, read_tensors

PUBLISHED = "published"
_DEEPER = "a layer this network does not have"


def load_backbone_weights(backbone: Backbone, source: str | Path, *, name: str | None = None) -> LoadReport:
    """Load published weights into a backbone.

    Names of the published layouts are turned into MONAI's (torchvision's DenseNet, also that of old files, and ResNet;
    EfficientNet-Lite), the prefixes of wrappers (``module.``, ``pre.``, ``features.``, ``backbone.``, ``encoder.``,
    ``body.``, ``model.``, ``net.``) are taken off, classification heads are ignored. A stem for S input channels is
    adapted to C others: each of the C gets the sum over the S divided by C, so that an image of C equal channels gives
    what one of S such channels gave (for one grey channel: the sum over RGB).

    Args:
        backbone: the network; changed only when everything fits.
        source: path of a file, ``package:NAME`` of an installed package that holds one weights file, a URL, or
            ``published`` for the backbone's published weights.
        name: the registered backbone whose published names the source follows; the backbone's own by default.

    Returns:
        The report; its network keys are those of ``backbone.body``.

    Raises:
        CheckpointError: when the source cannot be had or is damaged, or when the backbone's keys are not all in it
            (the batch counters that older files leave out may be).
        ConfigError: for an unknown ``name``.
    """
    spec = BACKBONES.get(name or backbone.name)
    where = spec.published if str(source) == PUBLISHED else str(source)
    tensors = _read_published(where, name or backbone.name) if str(source) == PUBLISHED else read_tensors(source)
    target = backbone.body.state_dict()
    values, report = match_tensors(
        tensors,
        target,
        LoadReport(where, describe(backbone)),
        candidates=lambda key: _names_in(key, spec),
        why_unused=lambda key: _why_unused(key, spec, {key.partition(".")[0] for key in target}),
        stem=next(iter(target)),
    )
    if not report.complete or _DEEPER in report.skipped.values():
        raise another_network(backbone, report, tensors, target)
    backbone.body.load_state_dict(values, strict=False)
    return report


def load_state(
    module: nn.Module, source: str | Path | Mapping[str, Tensor], *, prefix: str = "", strict: bool = True
) -> LoadReport:
    """Load one of our own state dicts: ``pretrain.pt`` into an encoder, ``model.pt`` into the served network.

    Args:
        module: the network; changed only when the loading succeeds.
        source: a file (also ``package:NAME`` or a URL), or a state dict.
        prefix: take the source's keys with this prefix, without it: ``"encoder."`` reads the encoder out of a whole
            network's ``model.pt``. ``module.``, which DistributedDataParallel adds, is taken off anyway.
        strict: every key of the network must be there in its shape, and (of those with the prefix) none beyond.
            Otherwise whatever fits is loaded, and only nothing at all is an error.

    Raises:
        CheckpointError: when the source cannot be had or is damaged, or is a checkpoint of another network.
    """
    given = source if isinstance(source, Mapping) else read_tensors(source)
    state_like = getattr(module, "state_like", None)  # of a network whose buffers take any size
    target = module.state_dict() if state_like is None else state_like(given)

    def names(key: str) -> Iterator[str]:
        for candidate in (key, key.removeprefix("module.")):
            if candidate.startswith(prefix):
                yield candidate.removeprefix(prefix)

    outside = f"outside the prefix {prefix!r}"
    values, report = match_tensors(
        given,
        target,
        LoadReport("state dict" if isinstance(source, Mapping) else str(source), describe(module)),
        candidates=names,
        why_unused=lambda key: "no such key in this network" if any(names(key)) else outside,
    )
    surplus = [key for key, why in report.skipped.items() if why != outside]
    incomplete = bool(report.missing or report.kept or surplus) if strict else not report.matched
    if incomplete:
        unprefixed_only = prefix and not any(any(names(key)) for key in given)
        inside = replace(report, skipped={key: report.skipped[key] for key in surplus})
        raise another_network(
            module, inside, given, target, f"No key of it begins with {prefix!r}." if unprefixed_only else ""
        )
    module.load_state_dict(values, strict=False)
    return report


def _read_published(where: str, name: str) -> dict[str, Tensor]:
    try:
        return read_tensors(where)
    except CheckpointError as error:
        if where.startswith(PACKAGE):
            raise
        raise CheckpointError(
            f"the published weights of {name} cannot be had: {error.what}", where=where, advice=error.advice
        ) from error


def _names_in(key: str, spec: BackboneSpec) -> Iterator[str]:
    return (spec.rename(name) for name in unprefixed(key))


def _why_unused(key: str, spec: BackboneSpec, body_parts: set[str]) -> str:
    parts = {name.partition(".")[0] for name in _names_in(key, spec)}
    if parts & set(spec.heads):
        return "classification head"
    return _DEEPER if parts & body_parts else "no such key in this network"
