"""Mixed precision: which type on which device, outputs of evaluators, the gradient scaler in checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer
from tiny_training import EpochLoader, batch, tiny_net

from medssl_monai.core import ConfigError
from medssl_monai.engines import ClassificationEvaluator, MeanTeacherTrainer, autocast_dtype, suitable_amp_dtype
from medssl_monai.handlers import RunCheckpoint
from medssl_monai.losses import ProbabilityMSELoss


def test_type_of_the_forward_pass() -> None:
    assert autocast_dtype(False) is None
    assert autocast_dtype(True) == torch.bfloat16
    assert autocast_dtype(True, "float16") == torch.float16
    for amp in (False, True):
        with pytest.raises(
            ConfigError, match=r"^amp_dtype: unknown precision \(found float8, expected bfloat16 or float16\)\.$"
        ):
            autocast_dtype(amp, "float8")


def test_the_type_that_suits_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert suitable_amp_dtype("cpu") == suitable_amp_dtype(torch.device("cpu")) == "bfloat16"
    assert suitable_amp_dtype("mps") == "bfloat16"
    asked: list[Any] = []

    class OnDevice:
        def __init__(self, device: Any) -> None:
            self.device = device

        def __enter__(self) -> None:
            asked.append(self.device)

        def __exit__(self, *_: Any) -> None:
            asked.append(None)

    for native, expected in ((True, "bfloat16"), (False, "float16")):
        # an older GPU says yes where emulation counts, and is slow at it
        fake = SimpleNamespace(
            is_available=lambda: True, device=OnDevice,
            is_bf16_supported=lambda including_emulation=True, native=native: including_emulation or native,
        )  # fmt: skip
        monkeypatch.setattr("medssl_monai.engines.precision.torch.cuda", fake)
        assert suitable_amp_dtype("cuda:1") == expected
        assert asked[-2:] == [torch.device("cuda:1"), None]


def images(n: int = 12) -> list[dict[str, Any]]:
    found = batch(3, tuple(i % 3 for i in range(n)), torch.float32)
    return [{"image": found["view1"], "label": found["label"], "name": found["name"]}]


def evaluated(**kwargs: Any) -> tuple[list[torch.Tensor], list[torch.dtype], ClassificationEvaluator]:
    network = tiny_net(dtype=torch.float32).eval()
    layers: list[torch.dtype] = []
    network.classifier.register_forward_hook(lambda module, args, output: layers.append(output.dtype))
    seen: list[torch.Tensor] = []

    def postprocessing(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(data["pred"])
        return data

    engine = ClassificationEvaluator(
        device=torch.device("cpu"), val_data_loader=images(), network=network, inferer=SimpleInferer(),
        postprocessing=postprocessing, decollate=True, with_metrics=False, **kwargs,
    )  # fmt: skip
    engine.run()
    return seen, layers, engine


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_an_evaluator_gives_float32_from_a_network_in_half_precision(name: str) -> None:
    dtype = getattr(torch, name)
    exact, layers, _ = evaluated()
    assert set(layers) == {torch.float32}
    mixed, layers, _ = evaluated(amp=True, amp_dtype=name)
    assert set(layers) == {dtype}
    assert {tensor.dtype for tensor in mixed} == {torch.float32}
    assert len(mixed) == 12
    for a, b in zip(exact, mixed):
        assert torch.equal(b.to(dtype).float(), b)  # the network's own output, not computed again
        assert b.tolist() == pytest.approx(a.tolist(), abs=0.02)
    assert any(not torch.equal(a, b) for a, b in zip(exact, mixed))


def test_an_evaluator_refuses_an_unknown_precision() -> None:
    with pytest.raises(ConfigError, match=r"^amp_dtype: unknown precision \(found half"):
        evaluated(amp=True, amp_dtype="half")


def trainer(folder: Path, amp_dtype: str, resume: bool = False, **kwargs: Any) -> MeanTeacherTrainer:
    network = tiny_net(dtype=torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return MeanTeacherTrainer(
        device="cpu", max_epochs=2, train_data_loader=EpochLoader(dtype=torch.float32), network=network,
        optimizer=optimizer, supervised_loss=ProbabilityMSELoss(), weights={"supervised": 1.0}, amp=True,
        amp_dtype=amp_dtype, **kwargs,
        train_handlers=[
            RunCheckpoint(folder, {"network": network, "optimizer": optimizer}, {"seed": 0}, resume=resume)
        ],
    )  # fmt: skip


def test_the_scale_of_the_gradient_goes_on_with_the_run(tmp_path: Path) -> None:
    engine = trainer(tmp_path, "float16")
    assert engine.grad_scaler.is_enabled()
    engine.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=4)
    # the checkpoint took the scaler when it was attached
    engine.handlers[0].objects["grad_scaler"] = engine.grad_scaler
    engine.run()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    saved = state["objects"]["grad_scaler"]
    assert (saved["scale"], saved["_growth_tracker"]) == (2048.0, 2)  # six steps: doubled behind the fourth
    assert json.loads(state["settings"]) == {"seed": 0}
    again = trainer(tmp_path, "float16", resume=True)
    assert again.grad_scaler.get_scale() == 65536.0
    again.run()
    assert again.grad_scaler.state_dict() == saved


def test_bfloat16_needs_no_scale(tmp_path: Path) -> None:
    engine = trainer(tmp_path, "bfloat16")
    assert not engine.grad_scaler.is_enabled()
    engine.run()
    assert "grad_scaler" not in torch.load(tmp_path / "checkpoint.pt", weights_only=True)["objects"]
