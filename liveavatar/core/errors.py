"""What an operator is told when something goes wrong.

LiveAvatarError          carries a Diagnosis: the operator's input or machine is the cause
├── InputRejected        the request cannot be made into a video; nothing was started
└── EngineFailed         the engine could not finish; partial video, if any, is kept

A caller's mistake is a plain ValueError; an impossible state is an assertion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One problem in an operator's words: what happened, why, and what to do about it."""

    code: str  # stable, for machines: "no_face"
    title: str  # what happened, one short sentence
    cause: str  # why
    remedy: str  # what to do
    facts: Mapping[str, str | int | float] = field(default_factory=dict)

    def sentence(self) -> str:
        """Return the three parts as one line of text."""
        return " ".join(part for part in (self.title, self.cause, self.remedy) if part)


class LiveAvatarError(Exception):
    """Base of every error whose text is written for the operator."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(diagnosis.sentence())
        self.diagnosis = diagnosis


class InputRejected(LiveAvatarError):
    """The portrait, voice, prompt or size cannot be used."""


class EngineFailed(LiveAvatarError):
    """The engine could not start or could not finish a job."""
