"""The encoder apart from its classifier: weights, a TorchScript that needs no package of ours, and what it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from medssl_monai.core import CheckpointError, ConfigError, OutputError, atomic_path, file_digest, generator, write_json
from medssl_monai.core.distributed import is_main
from medssl_monai.core.environment import versions
from medssl_monai.handlers.model_export import MODEL_FILE
from medssl_monai.handlers.provenance import PretrainRecord
from medssl_monai.handlers.storage import load_tensors, save_tensors

logger = logging.getLogger(__name__)

_LOAD = """import torch
features = torch.jit.load({script!r}).eval()(images)  # float32, axes and range as in `input`"""
#: resizes as MONAI 1.6's Resized(mode="bilinear", anti_aliasing=True): a Gaussian integrated over pixels, of deviation
#: (factor - 1) / 2, cut at four deviations, zeros outside the image; then linear interpolation. One matrix an axis
_LOAD_PICTURE = """import numpy, torch, PIL.Image
x = torch.from_numpy(numpy.atleast_3d(numpy.array(PIL.Image.open(FILE).convert({mode!r}), "float32")).T / 255)
for n, m in zip({size!r}, x.shape[1:]):  # resize x, then y: Gaussian smoothing where it shrinks, then linear
    d, s = torch.arange(m) - torch.arange(m)[:, None], max(m / n - 1, 1e-6) / 2
    g = (torch.special.ndtr((d + 0.5) / s) - torch.special.ndtr((d - 0.5) / s)) * (d.abs() <= 4 * s + 0.5)
    x = x.transpose(1, 2) @ torch.nn.functional.interpolate(g[None], n, mode="linear")[0]
features = torch.jit.load({script!r}).eval()(x[None].half().float())  # prepared images are of half precision"""
_RESIZING = (
    'As monai.transforms.Resized(mode="bilinear", anti_aliasing=True), then rounded to half precision. The lines under '
    "`load` do so for 8-bit pictures; their features are within 0.1 % (of the norm) of those of `medssl features`. "
    "Other ways of resizing give other features: Pillow's bilinear 7 to 32 % off (phantoms of 48 pixels on 32)."
)


class EncoderExport:
    """Saves the encoder apart when training has completed: ``<stem>.ts``, ``<stem>.json`` and mostly ``<stem>.pt``.

    - ``<stem>.pt``: the encoder's state dict, cut out of ``source``. Where ``source`` is the encoder's own state dict
      already (the pretrain stage's ``pretrain.pt``) it is not written a second time.
    - ``<stem>.ts``: the same as TorchScript on the CPU; plain torch loads it.
    - ``<stem>.json``: what builds the encoder, what it takes and gives, digests of both files, a few lines that load it
      (for 8-bit pictures of any size: they resize as MONAI's ``Resized``, bilinear with anti-aliasing).

    What is written is tried first: the encoder is built from ``target`` and ``arguments``, loaded strictly, and both it
    and the script read back from disk must give what the trained network's own encoder gives.

    Args:
        network: the trained network; left as it is.
        folder: where ``source`` lies and the files go.
        target: import path of what builds the encoder.
        arguments: its arguments.
        input_shape: channels and sizes (C, W, H) of the images it was trained on.
        settings: plain values to keep (bundle, stage, seed, image size, ...).
        attribute: name of the encoder within the network.
        source: file of weights in ``folder``.
        stem: first part of the files' names.
        value_range: lowest and highest intensity of the images; normalisation is inside the encoder.
        record: writes beside ``<stem>.pt`` what the encoder has seen, so that who starts from it is warned of leaks.
    """

    def __init__(
        self,
        network: nn.Module,
        folder: str | Path,
        target: str,
        arguments: Mapping[str, Any],
        input_shape: Sequence[int],
        settings: Mapping[str, Any] | None = None,
        attribute: str = "encoder",
        source: str = MODEL_FILE,
        stem: str = "encoder",
        value_range: tuple[float, float] = (0.0, 1.0),
        record: PretrainRecord | None = None,
    ) -> None:
        self.network, self.folder, self.attribute, self.stem = network, Path(folder), attribute, stem
        self.target, self.arguments, self.input_shape = target, dict(arguments), tuple(input_shape)
        self.settings, self.source, self.value_range, self.record = dict(settings or {}), source, value_range, record
        builder = locate(target)
        if not callable(builder):
            raise ConfigError("nothing of this name can be imported", where="EncoderExport target", found=target)
        self.builder = builder
        network.get_submodule(attribute)  # a misspelt name is better known before training than after

    def attach(self, engine: Engine) -> None:
        """Write when ``engine`` has completed."""
        engine.add_event_handler(Events.COMPLETED, self.write)

    def write(self, engine: Engine | None = None) -> None:
        """Write the files.

        Raises:
            CheckpointError: when ``source`` is missing or of another encoder.
            OutputError: when a file cannot be written.
            ConfigError: when the encoder cannot be scripted, or is not what ``target`` and ``arguments`` build.
        """
        if not is_main():
            return
        state, weights = self._weights()
        encoder = self._build(state)
        images = self._images()
        expected = _run(encoder, images)
        script = self.folder / f"{self.stem}.ts"
        scripted = self._script(encoder, weights)
        with atomic_path(script) as temporary:
            try:
                torch.jit.save(scripted, temporary)  # type: ignore[no-untyped-call]
            except (OSError, RuntimeError) as error:  # torch's own type where a disk is full
                raise OutputError(f"cannot be written ({' '.join(str(error).split())[:200]})", where=script) from error
            read_back = torch.jit.load(temporary, map_location="cpu")  # type: ignore[no-untyped-call]
            with torch.jit.optimized_execution(False):  # type: ignore[no-untyped-call]  # one pass does not repay it
                self._compare(expected, _run(read_back, images), "its TorchScript")
        write_json(self.folder / f"{self.stem}.json", self._description(weights, script, expected))
        if self.record is not None:
            self.record.write()
        logger.info("wrote %s and %s.json (features of %s values)", script, self.stem, _sizes(expected))

    def _weights(self) -> tuple[dict[str, Tensor], str]:
        """State dict of the encoder and the name of the file that holds it."""
        state = load_tensors(self.folder / self.source)
        prefix = f"{self.attribute}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        # an encoder may have an `encoder` itself: its own weights begin so too
        if not own or state.keys() == self.network.get_submodule(self.attribute).state_dict().keys():
            return state, self.source
        save_tensors(own, self.folder / f"{self.stem}.pt")
        return own, f"{self.stem}.pt"

    def _build(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The encoder as the description says, with these weights; equal to the network's own with the same."""
        encoder: nn.Module = self.builder(**self.arguments)
        own = self.network.get_submodule(self.attribute)
        device = next(own.parameters()).device
        kept, training = {name: value.clone() for name, value in own.state_dict().items()}, own.training
        try:
            encoder.load_state_dict(state)
            own.load_state_dict(state)
            trained = _run(own.cpu(), self._images())
        except RuntimeError as error:
            raise CheckpointError(
                f"not the weights of this encoder: {' '.join(str(error).split())[:300]}",
                where=self.folder / self.source,
            ) from error
        finally:
            own.to(device).load_state_dict(kept)
            own.train(training)
        self._compare(trained, _run(encoder, self._images()), f"what {self.target} builds of {self.arguments}")
        return encoder.eval()

    def _script(self, encoder: nn.Module, weights: str) -> Any:
        try:
            return torch.jit.script(encoder)
        except Exception as error:  # torch has a type for each thing it cannot compile
            raise ConfigError(
                f"the encoder cannot be written as TorchScript: {' '.join(str(error).split())[:300]}",
                where=self.target, advice=f"The weights are whole in {self.folder / weights}.",
            ) from error  # fmt: skip

    def _images(self) -> Tensor:
        """Two images of noise in the range of values, the same in every run."""
        low, high = self.value_range
        noise = generator("encoder export").random((2, *self.input_shape), dtype="float32")
        return torch.from_numpy(low + (high - low) * noise)

    def _compare(self, expected: Tensor, found: Tensor, what: str) -> None:
        # float32 sums in another order differ by about 1e-6 of the largest feature, another network by much more
        scale = max(float(expected.abs().max()), 1e-6) if expected.numel() else 1.0
        if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-4, atol=1e-4 * scale):
            raise ConfigError(
                f"{what} does not give what the trained encoder gives", where="EncoderExport",
                found=f"shape {tuple(found.shape)}" if expected.shape != found.shape else
                f"differences up to {float((expected - found).abs().max()):.3g}",
            )  # fmt: skip

    def _description(self, weights: str, script: Path, features: Tensor) -> dict[str, Any]:
        channels, width, height = self.input_shape
        mode = {1: "L", 3: "RGB"}.get(channels)  # Pillow's; other images are no pictures
        return {
            "format": 1,
            "bundle": self.settings.get("bundle"),
            "weights": weights,
            "weights_sha256": file_digest(self.folder / weights),
            "torchscript": script.name,
            "torchscript_sha256": file_digest(script),
            "build": {"target": self.target, "arguments": self.arguments},
            "input": {
                "shape": ["N", channels, width, height],
                "axes": ["image", "channel", "x (columns, from the left)", "y (rows, from the top)"],
                "dtype": "float32",
                "value_range": list(self.value_range),
                "normalisation": "inside the encoder",
                "resizing": _RESIZING,
                "note": "Readers of medical images put x first; pictures read as (rows, columns) are transposed. "
                "The size is that of training: others are taken, with other features.",
            },
            "output": {"shape": ["N", *features.shape[1:]], "dtype": "float32"},
            "load": (_LOAD if mode is None else _LOAD_PICTURE).format(
                mode=mode, size=(width, height), script=script.name
            ).splitlines(),
            "settings": self.settings,
            "versions": versions(),
        }  # fmt: skip


def _sizes(features: Tensor) -> str:
    return " x ".join(map(str, features.shape[1:]))


@torch.no_grad()
def _run(encoder: Any, images: Tensor) -> Tensor:
    encoder.eval()
    output: Tensor = encoder(images).float()
    return output
