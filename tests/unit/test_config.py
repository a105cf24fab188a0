from __future__ import annotations

from pathlib import Path

import pytest

from liveavatar.config import AppConfig, Deadlines


def test_the_environment_is_read() -> None:
    config = AppConfig.from_environment(
        {
            "LIVEAVATAR_DATA_DIR": "/somewhere",
            "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_SERVER_PORT": "8000",
            "LIVEAVATAR_MAX_AUDIO_S": "60",
            "LIVEAVATAR_PRECISION": "bf16",
            "LIVEAVATAR_KV": "int8",
        }
    )
    assert config.data_dir == Path("/somewhere")
    assert (config.host, config.port, config.max_audio_s) == ("0.0.0.0", 8000, 60)
    assert (config.precision, config.kv) == ("bf16", "int8")


def test_defaults_are_for_one_person_on_this_machine() -> None:
    config = AppConfig.from_environment({"HOME": "/home/x"})
    assert config.host == "127.0.0.1"
    assert not config.per_visitor
    assert (config.precision, config.kv) == (None, None)
    assert config.data_dir == Path("/home/x/.local/share/liveavatar")


def test_a_space_separates_its_visitors() -> None:
    config = AppConfig.from_environment({"HOME": "/home/x", "SPACE_ID": "me/space"})
    assert config.per_visitor
    assert config.host == "0.0.0.0"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("GRADIO_SERVER_PORT", "http"),
        ("GRADIO_SERVER_PORT", "99999"),
        ("LIVEAVATAR_KEEP_DAYS", "-1"),
        ("LIVEAVATAR_PRECISION", "fp4"),
        ("LIVEAVATAR_KV", "int4"),
    ],
)
def test_settings_that_make_no_sense_are_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AppConfig.from_environment({"HOME": "/home/x", name: text})


def test_deadlines_must_be_positive() -> None:
    with pytest.raises(ValueError, match="chunk_s"):
        Deadlines(chunk_s=0)
