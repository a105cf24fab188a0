"""Bring a prompt into the form the text encoder was trained with.

Text that people paste carries traces of where it came from: HTML entities, curly quotes, full-width letters,
UTF-8 that was once read as Windows-1252. The same sentence must give the same tokens in each of these dresses.
"""

from __future__ import annotations

import html
import re
import unicodedata

# UTF-8 read as Windows-1252 shows as one of these letters followed by another character above U+007F.
_MOJIBAKE = re.compile(r"[ÂÃâãäåæçèéêëìíîïðÎÏÐÑ][\u0080-\uffff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ufff9-\ufffc\u206a-\u206f]")
_TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FULL_WIDTH = re.compile(r"[\uff01-\uffef\u3000]+")
_REPLACEMENTS = str.maketrans(
    {
        **dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **dict.fromkeys("\u2028\u2029\u0085", "\n"),
        **{
            chr(code): unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)
        },  # ff, fi, fl ...
    }
)


def clean_prompt(text: str) -> str:
    """Return the prompt repaired, unescaped and with every run of white space as one space."""
    text = html.unescape(html.unescape(_repair(text)))
    return re.sub(r"\s+", " ", text).strip()


def _repair(text: str) -> str:
    text = _TERMINAL_ESCAPE.sub("", html.unescape(text))
    text = _undo_wrong_decoding(text)
    text = text.translate(_REPLACEMENTS)
    text = _FULL_WIDTH.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", _CONTROL.sub("", text))


def _undo_wrong_decoding(text: str) -> str:
    """Decode text again that was UTF-8 read as Windows-1252; leave everything else alone."""
    if not _MOJIBAKE.search(text):
        return text
    try:
        raw = b"".join(_byte_of(character) for character in text)
        return raw.decode("utf-8")
    except UnicodeError:
        return text


def _byte_of(character: str) -> bytes:
    """Return the byte that Windows-1252 shows as `character`; its five gaps stand for themselves."""
    try:
        return character.encode("windows-1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")
