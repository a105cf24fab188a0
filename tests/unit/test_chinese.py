"""Everything the server may say has a Chinese text, filled with values that are there. Read from the sources."""

from __future__ import annotations

import ast
import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from liveavatar.core.parallel import Offload, ParallelPlan
from liveavatar.core.plan import ChangeCause, ExecutionPlan
from liveavatar.engines.portrait import prompt_style
from liveavatar.planning.ladder import describe

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "assets" / "js"
_COMMAND_LINE = ROOT / "liveavatar" / "cli"  # speaks English, as terminals do


@dataclass(frozen=True)
class Said:
    """One place where the server says something."""

    place: str
    code: str
    values: frozenset[str]  # names of what a translation can use


def said(class_name: str, values_argument: str) -> list[Said]:
    """Return every construction of the class in the app's sources."""
    paths = [path for folder in ("liveavatar", "ui") for path in sorted((ROOT / folder).rglob("*.py"))]
    return [
        each
        for path in paths
        if not path.is_relative_to(_COMMAND_LINE)
        for each in _constructions(path, class_name, values_argument)
    ]


def _constructions(path: Path, class_name: str, values_argument: str) -> Iterator[Said]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == class_name:
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            code, values = given.get("code"), given.get(values_argument, ast.Dict([], []))
            assert isinstance(code, ast.Constant), f"{place}: write the code itself, so that it can be found"
            assert isinstance(values, ast.Dict), f"{place}: write the {values_argument} as a dictionary"
            names = [key.value for key in values.keys if isinstance(key, ast.Constant)]
            assert len(names) == len(values.keys), f"{place}: write the names of the {values_argument}"
            yield Said(place, str(code.value), frozenset(map(str, names)))


def chinese(script: str, name: str) -> dict[str, list[str]]:
    """Return one object of a script: code -> templates."""
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    found = re.search(rf"^export {name} (\{{.*?^\}});$", text, re.DOTALL | re.MULTILINE)
    assert found, f"{script} has no {name}"
    texts: dict[str, str | list[str]] = json.loads(found[1])
    return {code: [text] if isinstance(text, str) else text for code, text in texts.items()}


def places(templates: list[str]) -> set[str]:
    """Return the names in {braces}."""
    return {name for text in templates for _, name, _, _ in string.Formatter().parse(text) if name}


DIAGNOSES = (said("Diagnosis", "facts"), chinese("chinese_diagnoses.js", "default"), set[str]())
NOTES = (said("Note", "values"), chinese("chinese_notes.js", "const notes ="), set[str]())
REMARKS = (said("Remark", "values"), chinese("chinese_notes.js", "const remarks ="), {"cards"})
ALL = pytest.mark.parametrize(
    ("constructions", "texts", "always"), [DIAGNOSES, NOTES, REMARKS], ids=["diagnoses", "notes", "remarks"]
)
TERMS = chinese("chinese_notes.js", "const terms =")
Texts = dict[str, list[str]]


@ALL
def test_every_code_has_a_chinese_text_and_no_text_is_left_over(
    constructions: list[Said], texts: Texts, always: set[str]
) -> None:
    assert {each.code for each in constructions} == texts.keys()


@ALL
def test_what_a_chinese_text_names_is_given_wherever_its_code_is_used(
    constructions: list[Said], texts: Texts, always: set[str]
) -> None:
    wanting = {
        each.place: missing
        for each in constructions
        if (missing := places(texts.get(each.code, [])) - each.values - always)
    }
    assert not wanting


@ALL
def test_chinese_texts_are_whole(constructions: list[Said], texts: Texts, always: set[str]) -> None:
    for code, parts in texts.items():
        assert parts[0], code
        assert all(re.search("[\u4e00-\u9fff]", part) for part in parts if part), code
        assert len(parts) == (3 if constructions is DIAGNOSES[0] else 1), code


def test_what_is_said_is_found_in_the_sources() -> None:
    assert {"no_face", "picture_too_small", "internal"} <= {each.code for each in DIAGNOSES[0]}
    assert {"several_faces", "changed", "pace"} <= {each.code for each in NOTES[0]}
    assert {"heat", "will_not_fit", "lost"} <= {each.code for each in REMARKS[0]}


def test_no_note_is_mistaken_for_a_problem() -> None:
    assert not NOTES[1].keys() & DIAGNOSES[1].keys()


def test_the_causes_of_changes_and_what_changes_are_known_terms() -> None:
    plan = ExecutionPlan(
        engine="s2v",
        width=704,
        height=384,
        parallel=ParallelPlan(step_split=(4,)),
        precision="fp8",
        kv_precision="fp8",
        offload=Offload(resident_blocks=1, caches=True, text_encoder=True),
        latents_per_decode=1,
        tiled_vae=True,
    )
    told = [re.sub(r"^\d+ ", "{n} ", part) for part in describe(plan).split(", ")[1:]]
    assert len(told) == 8, "everything that can be told of a plan"
    assert {*told, "{n} step", *get_args(ChangeCause)} <= TERMS.keys()


def test_what_is_understood_of_prompts_are_known_terms() -> None:
    cues = {*prompt_style._LIVELINESS_CUES, *prompt_style._SMILE_CUES, *prompt_style._GAZE_CUES}
    assert cues <= TERMS.keys()
