"""Read from a prompt how the person should behave: a few plain words, in English and Chinese.

The portrait engine moves the face it is given; it cannot add objects, change clothes or invent a scene. So
the prompt is read for manner only, and the caller tells the operator which words were understood.
"""

from __future__ import annotations

import re

from liveavatar.engines.portrait.motion import Style

# Canonical cue -> pattern. English patterns match whole words, in lower case.
_LIVELINESS_CUES: dict[str, tuple[str, float]] = {
    "calm": (
        r"\b(?:calm(?:ly)?|relaxed|gentle|gently|quietly|composed)\b|平静|冷静|安静|沉稳|沉着|温和|镇定",
        0.5,
    ),
    "lively": (
        r"\b(?:lively|animated(?:ly)?|expressive(?:ly)?|playful(?:ly)?|vivid(?:ly)?)\b|活泼|生动|活跃",
        1.35,
    ),
    "energetic": (
        r"\b(?:energetic(?:ally)?|enthusiastic(?:ally)?|enthusiasm|excited(?:ly)?|passionate(?:ly)?|dynamic)\b"
        r"|充满活力|激动|兴奋|热情洋溢|激情",
        1.6,
    ),
}
_SMILE_CUES: dict[str, tuple[str, float]] = {
    "smile": (
        r"\b(?:smil(?:e|es|ed|ing|ingly)|grin(?:s|ning)?|beam(?:s|ing)|cheerful(?:ly)?|happy|happily"
        r"|joyful(?:ly)?)\b|微笑|笑容|含笑|开心|高兴|快乐|[😀😃😄😁😊🙂☺😆]",
        0.7,
    ),
    "warm": (
        r"\b(?:warmly|warm[- ]hearted|friendly|kindly|warm (?:and \w+ )?(?:smile|expression|look|manner"
        r"|voice|presenter|host|teacher|person|personality))\b|温暖|亲切|友好|和蔼|热情",
        0.4,
    ),
    "serious": (
        r"\b(?:serious(?:ly)?|stern(?:ly)?|solemn(?:ly)?|grave(?:ly)?|unsmiling)\b|严肃|庄重|认真|[😐]",
        0.0,
    ),
}
_LOOK = (
    r"\b(?:look(?:s|ed|ing)?|gaz(?:e|es|ing)|glanc(?:e|es|ing)|star(?:e|es|ing)|eyes|turn(?:s|ed|ing)?|fac(?:es|ing))\b"
    r"(?: \w+){0,3}? ?"
)
_GAZE_CUES: dict[str, tuple[str, tuple[float, float]]] = {
    "look left": (
        _LOOK + r"\b(?<!her )(?<!his )(?<!their )(?<!own )left(?:ward|wards)?\b|(?:看|望|朝)向?左",
        (-1.0, 0.0),
    ),
    "look right": (
        _LOOK + r"\b(?<!her )(?<!his )(?<!their )(?<!own )right(?:ward|wards)?\b|(?:看|望|朝)向?右",
        (1.0, 0.0),
    ),
    "look to the person's left": (_LOOK + r"\b(?:her|his|their)(?: own)? left\b", (1.0, 0.0)),
    "look to the person's right": (_LOOK + r"\b(?:her|his|their)(?: own)? right\b", (-1.0, 0.0)),
    "look up": (
        r"\b(?:look|gaz|glanc|star)\w* (?:\w+ )?(?:up(?!on)|upward|upwards)\b|(?:看|望)向?上|抬头",
        (0.0, -1.0),
    ),
    "look down": (
        r"\b(?:look|gaz|glanc|star)\w* (?:\w+ )?(?:down|downward|downwards)\b|(?:看|望)向?下|低头",
        (0.0, 1.0),
    ),
    "look at the camera": (
        r"\b(?:at|to|into|towards?|facing|faces) (?:the )?(?:camera|lens|viewer|audience)\b|eye contact"
        r"|(?:看|望|面)[着向对]?(?:镜头|观众)",
        (0.0, 0.0),
    ),
}
_NEGATION = re.compile(
    r"(?:\b(?:not|no|never|without|neither|nor|hardly|stop(?:s|ped)?|avoid(?:s|ing)?|cannot)\b|n['’]t\b)"
    r"(?:[ ,]+(?!but\b)[\w'’-]+){0,3}[ ]*$"
)
_NEGATION_CHINESE = re.compile(r"(?:不要|没有|并不|[不没别无勿])[^，。！？,.!?；]{0,2}$")
_CLAUSE_END = re.compile(r"[.!?;。！？；，]|\bbut\b|\binstead\b|但")
_OPPOSITE_LIVELINESS = {"calm": ("lively", 1.35), "lively": ("calm", 0.5), "energetic": ("calm", 0.5)}


def style_from_prompt(prompt: str) -> tuple[Style, tuple[str, ...]]:
    """Turn a prompt into a manner, with the cues that were understood, in canonical English words.

    Left and right are those of the picture unless the prompt says "her", "his" or "their". Everything else in
    the prompt has no effect here, and an empty tuple says that nothing of it had.
    """
    text = re.sub(r"[\s_]+", " ", prompt.lower())
    understood: list[str] = []
    liveliness = _read_liveliness(text, understood)
    smile = _read_smile(text, understood)
    gaze_x, gaze_y = _read_gaze(text, understood)
    style = Style(liveliness=liveliness, smile=smile, gaze_x=gaze_x, gaze_y=gaze_y)
    return style, tuple(dict.fromkeys(understood))


def _read_liveliness(text: str, understood: list[str]) -> float:
    """The mean of all levels that the prompt names; the default without any."""
    levels = []
    for cue, (pattern, level) in _LIVELINESS_CUES.items():
        negated = _mentions(pattern, text)
        if negated is None:
            continue
        name, value = _OPPOSITE_LIVELINESS[cue] if negated else (cue, level)
        understood.append(f"not {cue}" if negated else name)
        levels.append(value)
    return sum(levels) / len(levels) if levels else Style().liveliness


def _read_smile(text: str, understood: list[str]) -> float:
    """The widest smile asked for; none when a smile is denied."""
    asked, denied = [0.0], False
    for cue, (pattern, level) in _SMILE_CUES.items():
        negated = _mentions(pattern, text)
        if negated is None:
            continue
        understood.append(f"not {cue}" if negated else cue)
        if negated:
            denied = denied or cue != "serious"
        else:
            asked.append(level)
    return 0.0 if denied else max(asked)


def _read_gaze(text: str, understood: list[str]) -> tuple[float, float]:
    """The sum of the directions named, each axis within -1 .. 1; a denied direction is no direction."""
    x = y = 0.0
    for cue, (pattern, (cue_x, cue_y)) in _GAZE_CUES.items():
        negated = _mentions(pattern, text)
        if negated is None:
            continue
        understood.append(f"not {cue}" if negated else cue)
        if not negated:
            x, y = x + cue_x, y + cue_y
    return min(max(x, -1.0), 1.0), min(max(y, -1.0), 1.0)


def _mentions(pattern: str, text: str) -> bool | None:
    """None when the cue is absent, else whether every mention of it is negated."""
    all_negated: bool | None = None
    for match in re.finditer(pattern, text):
        negated = _is_negated(text[: match.start()])
        all_negated = negated if all_negated is None else all_negated and negated
    return all_negated


def _is_negated(before: str) -> bool:
    """Whether the clause that leads up to a cue negates it."""
    clause = _CLAUSE_END.split(before)[-1]
    return bool(_NEGATION.search(clause) or _NEGATION_CHINESE.search(clause))
