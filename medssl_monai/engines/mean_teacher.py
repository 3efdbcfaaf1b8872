"""Student and teacher: supervision, prediction and relation consistency, and the joint contrastive term (SRCL)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.core import ConfigError
from medssl_monai.engines.base import LabelEfficientTrainer
from medssl_monai.handlers.teacher import EMATeacher
from medssl_monai.losses import PredictionConsistencyLoss, SampleRelationLoss, SupConLoss, sigmoid_ramp_up


class MeanTeacherTrainer(LabelEfficientTrainer):
    """SRCL's fine-tuning (algorithm 2), its joint form, and their baselines, by the weights of the terms.

    Batches hold ``view1`` (student) and ``view2`` (teacher), (N, C, H, W), and ``label`` (N,), -1 where unknown. The
    network has ``features``, ``classify`` and ``project``. Terms: ``supervised`` on the labelled images,
    ``consistency`` (mean squared difference of class probabilities) and ``relation`` (SRCL eq. 1) between student and
    teacher on all images, both ramped up, and ``supcon`` (eq. 2) on two student views. Supervised training alone needs
    no teacher.

    During the first ``teacher_warmup`` of the epochs the teacher is not updated and the consistency terms are left out;
    then it starts as a copy of the student. The ramp exp(-5 (1 - t)^2) is counted from epoch 0.

    Args:
        supervised_loss: loss of (logits (N, C), labels (N,)) that leaves out label -1.
        teacher: the teacher; ``None`` when neither consistency nor relation has weight.
        teacher_warmup: share of ``max_epochs`` before the teacher starts (20 of 100 epochs in the paper).
        ramp_up: share of ``max_epochs`` over which consistency ramps up (30 of 100).
        temperature: temperature of the contrastive term.
        **kwargs: as for :class:`LabelEfficientTrainer`.

    Raises:
        ConfigError: when consistency or relation is weighted but no teacher given, when they are all that is weighted
            although the teacher has a warm-up, or a share is outside [0, 1].
    """

    terms = ("supervised", "consistency", "relation", "supcon")

    def __init__(
        self,
        *,
        supervised_loss: Callable[[Tensor, Tensor], Tensor],
        teacher: EMATeacher | None = None,
        teacher_warmup: float = 0.2,
        ramp_up: float = 0.3,
        temperature: float = 0.1,
        **kwargs: Any,
    ) -> None:
        for name, share in (("teacher_warmup", teacher_warmup), ("ramp_up", ramp_up)):
            if not 0.0 <= share <= 1.0:
                raise ConfigError("share of max_epochs", where=name, found=share, expected="a number from 0 to 1")
        self.teacher = teacher
        super().__init__(**kwargs)
        self.uses_teacher = bool({"consistency", "relation"} & self.weights.keys())
        if self.uses_teacher and teacher is None:
            raise ConfigError("consistency and relation need a teacher", where="teacher", found=None)
        if teacher is not None:
            teacher.module.to(self.state.device)
        # rounded: 0.07 * 100 is a little above 7 and would cost an epoch more
        self.warmup_epochs = round(teacher_warmup * kwargs["max_epochs"], 6)
        if self.warmup_epochs > 0 and self.weights.keys() <= {"consistency", "relation"}:
            raise ConfigError(
                "nothing is learnt while the teacher warms up", where="weights", found=", ".join(self.weights),
                advice="Give `supervised` or `supcon` a weight, or set teacher_warmup to 0.",
            )  # fmt: skip
        self.ramp_epochs = ramp_up * kwargs["max_epochs"]
        self.supervised_loss = supervised_loss
        self.consistency_loss = PredictionConsistencyLoss()
        self.relation_loss = SampleRelationLoss(gather_distributed=True)
        self.contrastive_loss = SupConLoss(temperature, gather_distributed=True)

    @property
    def teacher_started(self) -> bool:
        """Whether this epoch (1, 2, ...) lies behind the warm-up; a step that is only measured counts as behind."""
        return self._measuring or self.state.epoch - 1 >= self.warmup_epochs

    @property
    def stateful_modules(self) -> list[nn.Module]:
        """Student and teacher."""
        return [self.network] + ([self.teacher.module] if self.teacher is not None else [])

    @property
    def all_parameters_used(self) -> bool:
        """Both heads of the network, in every epoch."""
        return {"supervised", "supcon"} <= self.weights.keys()

    def loss_terms(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The weighted terms; consistency and relation carry their ramp."""
        student: Any = self.network
        terms = {}
        if "supcon" in self.weights:
            # one pass over both views gives the contrastive pair and, from its first half, the prediction
            pair = student.features(torch.cat([batch["view1"], batch["view2"]])).chunk(2)
            embeddings = torch.stack([student.project(features) for features in pair], dim=1)
            terms["supcon"] = self.contrastive_loss(embeddings, batch["label"])
            features = pair[0]
        else:
            features = student.features(batch["view1"])
        logits = student.classify(features)
        if "supervised" in self.weights:
            terms["supervised"] = self.supervised_loss(logits, batch["label"])
        if self.uses_teacher and self.teacher_started:
            terms |= self._teacher_terms(batch["view2"], features, logits)
        return terms

    def _teacher_terms(self, view: Tensor, features: Tensor, logits: Tensor) -> dict[str, Tensor]:
        assert self.teacher is not None  # noqa: S101  (held by the constructor)
        if self.teacher.updates == 0 and not self._measuring:
            self.teacher.copy_from(self.network)
        teacher: Any = self.teacher.module
        with torch.no_grad():
            teacher_features = teacher.features(view)
            teacher_logits = teacher.classify(teacher_features)
        ramp = sigmoid_ramp_up(self.state.epoch - 1, self.ramp_epochs)
        terms = {}
        if "consistency" in self.weights:
            terms["consistency"] = ramp * self.consistency_loss(logits, teacher_logits)
        if "relation" in self.weights:
            terms["relation"] = ramp * self.relation_loss(features, teacher_features)
        return terms

    def after_step(self) -> None:
        """The teacher follows after every step behind the warm-up."""
        if self.teacher is not None and self.teacher_started:
            self.teacher.update(self.network)
