"""What may be wrong with a phantom's knee, drawn from its labels: an exam's findings are a function of (seed, exam)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from medssl_monai.core import ConfigError, generator

LABELS = ("abnormal", "acl", "meniscus")
#: labels that occur: healthy, another abnormality alone, one tear, both tears
PATTERNS: tuple[tuple[int, int, int], ...] = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 1, 1))

LigamentTear = Literal["gap", "wavy", "absent"]
MeniscusTear = Literal["oblique", "vertical", "truncated", "displaced"]
Other = Literal["effusion", "bruise", "cartilage"]
_WITH_TEARS = 0.4  # share of exams with a tear that also have another abnormality


@dataclass(frozen=True)
class Ligament:
    """A torn anterior cruciate ligament.

    Attributes:
        kind: a gap filled with fluid, a slack and wavy course, or no fibres left.
        place: where along the ligament, 0 at the femur and 1 at the tibia.
        shift: how far the tibia has slid forward, in millimetres.
        swelling: how bright the oedema about it is, 0 to 1.
    """

    kind: LigamentTear
    place: float
    shift: float
    swelling: float = 0.8


@dataclass(frozen=True)
class Meniscus:
    """A torn meniscus.

    Attributes:
        kind: a bright line (oblique or vertical) through the triangle, its tip missing, or a fragment in the notch.
        medial: which of the two.
        angle: where along the C, in radians from straight backward; positive towards the outer side.
        reach: half of the length of the tear along the C, in radians.
        tilt: tilt of an oblique line in the triangle.
    """

    kind: MeniscusTear
    medial: bool
    angle: float
    reach: float
    tilt: float


@dataclass(frozen=True)
class Findings:
    """All that is wrong with a knee.

    Attributes:
        ligament: the torn ligament, or ``None``.
        meniscus: the torn meniscus, or ``None``.
        other: fluid in the joint, a bruised bone, a hole in the cartilage.
        medial: whether the bruise or the hole lies on the inner side.
        extent: size of the other abnormalities, 0 to 1.
        severity: factor of the size of everything that is wrong; 1 is usual.
    """

    ligament: Ligament | None = None
    meniscus: Meniscus | None = None
    other: tuple[Other, ...] = ()
    medial: bool = True
    extent: float = 0.5
    severity: float = 1.0

    @property
    def label(self) -> tuple[int, int, int]:
        """The 0/1 vector of ``LABELS``."""
        acl, meniscus = int(self.ligament is not None), int(self.meniscus is not None)
        return int(bool(acl or meniscus or self.other)), acl, meniscus


def draw_findings(label: Sequence[int], seed: int, exam: int, severity: float = 1.0) -> Findings:
    """Findings that make up a label of ``PATTERNS``.

    Args:
        label: the 0/1 vector.
        seed: seed of the dataset.
        exam: number of the exam.
        severity: factor of the size of everything that is wrong.

    Raises:
        ValueError: for a label that cannot occur (a tear without ``abnormal``, for example).
    """
    if tuple(label) not in PATTERNS:
        raise ValueError(f"label is {tuple(label)}; expected one of {PATTERNS} ({', '.join(LABELS)})")
    rng = generator(seed, "knee", "findings", exam)
    abnormal, acl, meniscus = label
    kinds: tuple[LigamentTear, ...] = ("gap", "wavy", "absent")
    tears: tuple[MeniscusTear, ...] = ("oblique", "vertical", "truncated", "displaced")
    others: tuple[Other, ...] = ("effusion", "bruise", "cartilage")
    # drawn whatever the label, so that each draw stands for one thing in every exam
    ligament = Ligament(
        kinds[int(rng.integers(3))],
        float(rng.uniform(0.35, 0.65)),
        float(rng.random() < 0.5) * float(rng.uniform(3, 7)),
        float(rng.uniform(0.25, 0.85)),
    )
    tear = Meniscus(
        tears[int(rng.choice(4, p=(0.35, 0.25, 0.25, 0.15)))], bool(rng.random() < 0.6), float(rng.normal(0.1, 0.35)),
        float(rng.uniform(0.4, 0.75)), float(rng.uniform(-0.5, 0.5)),
    )  # fmt: skip
    order = [others[index] for index in rng.permutation(3)]
    two, beside = rng.random() < 0.3, rng.random() < _WITH_TEARS
    medial, extent = bool(rng.random() < 0.5), float(rng.random())
    alone = abnormal and not (acl or meniscus)
    chosen = tuple(order[: 1 + two]) if alone or (abnormal and beside) else ()
    return Findings(ligament if acl else None, tear if meniscus else None, chosen, medial, extent, severity)


@lru_cache(maxsize=8)
def label_sequence(exams: int, seed: int, abnormal: float, acl: float, meniscus: float) -> tuple[tuple[int, ...], ...]:
    """The label of every exam; a longer sequence begins with the shorter one.

    Each exam gets the pattern that is furthest behind its share, with a seeded phase a pattern, so that even a dozen
    exams hold about the shares asked for. Among abnormal exams the two tears are independent of one another.

    Args:
        exams: length of the sequence.
        seed: seed of the phases.
        abnormal: share of exams with any finding.
        acl: share of exams with a torn ligament.
        meniscus: share of exams with a torn meniscus.

    Raises:
        ConfigError: when a tear is to be more frequent than abnormality.
    """
    if max(acl, meniscus) > abnormal:
        raise ConfigError(
            "a tear cannot be more frequent than abnormality, which it is a part of", where="phantom knee",
            found=f"abnormal {abnormal:g}, acl {acl:g}, meniscus {meniscus:g}", advice="Raise abnormal.",
        )  # fmt: skip
    p, q = (acl / abnormal, meniscus / abnormal) if abnormal else (0.0, 0.0)
    shares = np.array(
        [1 - abnormal, abnormal * (1 - p) * (1 - q), abnormal * p * (1 - q), abnormal * (1 - p) * q, abnormal * p * q]
    )
    phase = generator(seed, "knee", "labels").random(len(PATTERNS))
    counts = np.zeros(len(PATTERNS))
    sequence = []
    for number in range(1, exams + 1):
        behind = np.where(shares > 1e-12, shares * number + 0.9 * phase - counts, -np.inf)
        chosen = int(np.argmax(behind))
        counts[chosen] += 1
        sequence.append(PATTERNS[chosen])
    return tuple(sequence)
