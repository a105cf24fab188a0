from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveavatar.core.errors import InputRejected
from liveavatar.core.memory import GIB
from liveavatar.planning.hardware_table import CARDS, card_of_size, find_card
from liveavatar.planning.machine_text import assumption, parse_machine, spec_of_installed


@pytest.mark.parametrize(
    ("text", "described"),
    [
        ("4x4090", "4 x RTX 4090"),
        ("4 × RTX 4090", "4 x RTX 4090"),
        ("2x RTX 6000 Ada", "2 x RTX 6000 Ada"),
        ("2xRTX6000Ada", "2 x RTX 6000 Ada"),
        ("1xH100-80G", "1 x H100 SXM"),
        ("1xH100 (80 GB)", "1 x H100 SXM"),
        ("8xh100 pcie", "8 x H100 PCIe"),
        ("1xA100-40G", "1 x A100 40 GB"),
        ("1xA100 40GB PCIe", "1 x A100 40 GB PCIe"),
        ("1xA100-80G SXM", "1 x A100 80 GB"),
        ("2xH100-80GB-SXM", "2 x H100 SXM"),
        ("1xGH200 480GB", "1 x GH200"),
        (" 5 x 24 GiB ", "5 x 24 GB card"),
        ("5x24", "5 x 24 GB card"),
        ("3x 48 GB", "3 x 48 GB card"),
        ("2 x 16 GB card", "2 x 16 GB card"),
        ("2x4090 + 1xA100", "2 x RTX 4090 + 1 x A100 80 GB"),
        ("1xH200-144G", "1 x H200"),
    ],
)
def test_machines_as_people_write_them(text: str, described: str) -> None:
    assert parse_machine(text).describe() == described


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("5x", "No card is named after the x."),
        ("0x24", "0 cards cannot be planned for; 1 to 64 can."),
        ("-2x24", "-2 cards cannot be planned for"),
        ("65x4090", "65 cards cannot be planned for"),
        ("40x4090+40x4090", "80 cards are more than the 64"),
        ("1xA10+1xL40+1xL40S+1xH100+1xH200", "More than 4 kinds of cards"),
        ("banana", "It is not a count, an x and a card."),
        ("", "It is not a count, an x and a card."),
        ("2x4090+", "It is not a count, an x and a card."),
        ("4090", "It does not say how many: write 1x4090."),
        ("3x-4", "No card has -4 GB; 4 to 512 are taken."),
        ("1x9999", "No card has 9999 GB"),
        ("2xGTX 1080", "“GTX 1080” is not a card in the table."),
        ("1xH100-900G", "The H100 SXM has 80 GB, not 900."),
        ("1xBanana-24G", "is not a card in the table"),
        ("1xGH200 144G", "The GH200 has 96 GB, not 144."),
        ("5x24TB", "is not a card in the table"),
        ("5x24; reboot", "is not a card in the table"),
        ("1xnan", "is not a card in the table"),
        ("9" * 5000 + "x24", "It is longer than 200 characters."),
    ],
)
def test_nonsense_gets_a_sentence_of_its_own(text: str, sentence: str) -> None:
    with pytest.raises(InputRejected) as caught:
        parse_machine(text)
    assert caught.value.diagnosis.code == "unknown_gpus"
    assert sentence in caught.value.diagnosis.cause
    assert "5x24" in caught.value.diagnosis.remedy


def test_a_memory_size_stands_for_the_typical_card() -> None:
    assert card_of_size(24).bf16_flops == find_card("4090").spec.bf16_flops  # type: ignore[union-attr]
    assert card_of_size(30).total_bytes > card_of_size(24).total_bytes
    assert "24 GB as RTX 4090" in assumption("5x24")
    assert assumption("5x4090") == ""


def test_every_card_is_found_by_its_own_name_and_by_the_drivers() -> None:
    for row in CARDS:
        assert find_card(row.spec.name) is row
        assert find_card(f"NVIDIA {row.spec.name}") is row
    drivers = {
        "NVIDIA GeForce RTX 4090 D": "RTX 4090D",
        "NVIDIA H100 80GB HBM3": "H100 SXM",
        "NVIDIA A100-SXM4-80GB": "A100 80 GB",
        "NVIDIA A100 80GB PCIe": "A100 80 GB PCIe",
        "NVIDIA A100-PCIE-40GB": "A100 40 GB PCIe",
        "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
        "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000",
        "NVIDIA GH200 480GB": "GH200",
        "NVIDIA L40S": "L40S",
    }
    for name, card in drivers.items():
        row = find_card(name)
        assert row is not None
        assert row.spec.name == card


def test_memory_seen_is_less_than_printed_and_sources_are_given() -> None:
    for row in CARDS:
        assert 0.9 * row.printed_gb * 1e9 < row.spec.total_bytes < 1.07 * row.printed_gb * 1e9
        assert row.memory_source in ("assumed", "measured") or row.memory_source.startswith("https://")
        assert row.rates_source.startswith("https://")
        assert row.spec.fp8_flops is None or row.spec.compute_capability >= (8, 9)


def test_the_page_about_planning_lists_every_card_with_its_sources() -> None:
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    for row in CARDS:
        line = lines[row.spec.name]
        assert row.rates_source in line
        assert row.memory_source in line
        assert f"| {row.printed_gb} | {row.spec.total_bytes / GIB:.1f}," in line


@given(text=st.text(alphabet="0123456789xX*-+. GgBbHhAaRTX\t", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_machine_or_gets_a_sentence(text: str) -> None:
    try:
        cause, num_gpus = "", len(parse_machine(text).gpus)
    except InputRejected as rejection:
        cause, num_gpus = rejection.diagnosis.cause, 0
    assert cause.endswith(".") or 1 <= num_gpus <= 64


def test_installed_cards() -> None:
    known, sentence = spec_of_installed(
        name="NVIDIA H200", total_bytes=140 * GIB, used_bytes=40 * GIB, driver="580.159.04"
    )
    assert (known.name, known.free_bytes, known.driver, sentence) == ("H200", 100 * GIB, "580.159.04", "")
    unknown, sentence = spec_of_installed(name="Tesla Z1", total_bytes=16 * GIB, used_bytes=0)
    assert unknown.name == "Tesla Z1"
    assert "not in the table" in sentence
