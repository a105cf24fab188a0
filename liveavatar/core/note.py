"""Sentences for the operator that ask for nothing: what was chosen or changed automatically."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from liveavatar.core.errors import Diagnosis


@dataclass(frozen=True, kw_only=True)
class Note:
    """One plain sentence.

    `code` and `values` let the page say it in another language; `text` is plain English with the values in it. The
    names of bytes end in `_bytes`.
    """

    code: str
    text: str
    values: Mapping[str, str | int | float] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, diagnosis: Diagnosis) -> Note:
        """Return what happened and why, where it is no failure: another way was found."""
        text = f"{diagnosis.title} {diagnosis.cause}".strip()
        return cls(code=diagnosis.code, text=text, values=diagnosis.facts)
