"""Prompt cleaning, the cache of embeddings, and the encoder that is only loaded when needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from liveavatar.conditioning import text as text_module
from liveavatar.conditioning.prompt_cache import PromptCache
from liveavatar.conditioning.prompt_text import clean_prompt
from liveavatar.conditioning.text import PromptEncoder, convert_umt5_keys
from liveavatar.loading.checkpoint import CheckpointLayout
from tests.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> CheckpointLayout:
    return CheckpointLayout.find(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.mark.parametrize(
    ("typed", "cleaned"),
    [
        ("  calm,\n\tsmiling  ", "calm, smiling"),
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("she\u2019s \u201chappy\u201d", 'she\'s "happy"'),
        ("a cafÃ©, â€œcosyâ€\x9d", 'a café, "cosy"'),
        ("ＡＢＣ，full\u3000width", "ABC,full width"),
        ("a \ufb01ne day", "a fine day"),
        ("cafe\u0301", "café"),
        ("naïve señor Ångström", "naïve señor Ångström"),
        ("微笑、平静", "微笑、平静"),
        ("\x1b[31mred\x07\ufeff", "red"),
        ("", ""),
    ],
)
def test_cleaning(typed: str, cleaned: str) -> None:
    assert clean_prompt(typed) == cleaned
    assert clean_prompt(cleaned) == cleaned


def test_unknown_tensors_are_refused() -> None:
    with pytest.raises(KeyError):
        convert_umt5_keys({"decoder.weight": torch.zeros(1)})


def test_only_real_tokens_and_their_end(layout: CheckpointLayout) -> None:
    encoder = PromptEncoder(layout, dtype=torch.float32, max_tokens=24)
    assert encoder.encode("abc").shape == (5, 40)  # the word's start, three letters, the end
    assert encoder.encode("").shape == (1, 40)
    assert encoder.encode("abc " * 40).shape == (24, 40)


def test_a_known_prompt_needs_no_encoder(
    layout: CheckpointLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = PromptEncoder(layout, cache=PromptCache(tmp_path), max_tokens=24).encode("a  calm\nvoice")
    monkeypatch.delattr(text_module, "load_text_encoder")
    again = PromptEncoder(layout, cache=PromptCache(tmp_path), max_tokens=24).encode("a calm voice ")
    assert again.dtype == torch.bfloat16
    assert torch.equal(first, again)
    assert not any("calm" in path.name for path in tmp_path.iterdir())


def test_another_encoder_or_prompt_is_another_entry(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path)
    cache.store("hello", "encoder A", torch.ones(2, 3))
    assert cache.load("hello", "encoder B") is None
    assert cache.load("hello!", "encoder A") is None


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path)
    cache.store("hello", "encoder", torch.ones(2, 3))
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:20])
    assert cache.load("hello", "encoder") is None
    assert list(tmp_path.iterdir()) == []


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    cache = PromptCache(tmp_path, max_bytes=3600)
    for age, prompt in enumerate(["old but used", "old", "new"]):
        cache.store(prompt, "encoder", torch.zeros(256))
        newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (1000 + age, 1000 + age))
    assert cache.load("old but used", "encoder") is not None
    cache.store("newer", "encoder", torch.zeros(256))
    assert cache.load("old", "encoder") is None
    assert cache.load("old but used", "encoder") is not None
