"""What the app plans for one request to the s2v engine, within what the engine can carry out."""

from __future__ import annotations

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from liveavatar.core.errors import InputRejected
from liveavatar.core.hardware import GpuSpec, Machine
from liveavatar.core.memory import GIB
from liveavatar.core.parallel import KvPrecision, ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.planning import s2v_request
from liveavatar.planning.candidates import candidates
from liveavatar.planning.choice import auto_sizes, choose, execution_plan, text_rank
from liveavatar.planning.ladder import Ladder
from liveavatar.planning.machine_text import parse_machine
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS, VideoSize
from liveavatar.planning.placement import place_ranks
from liveavatar.planning.planner import plan_request
from liveavatar.planning.s2v_request import S2vSetup, plan_s2v, size_for_free_memory
from liveavatar.planning.wishes import ENGINE, EVERYTHING, Abilities, Wishes
from tests.planning.test_choice import gpus

FILES = ModelFiles(checkpoint="/model", lora="/lora", cache="/cache")
PICTURE = (1920, 1080)


def setup(*cards: GpuSpec, host_free_gib: float = 64) -> S2vSetup:
    return S2vSetup(
        files=FILES,
        num_parameters=TRANSFORMER_PARAMETERS if cards else 1_000_000,
        gpus=cards,
        host_bytes=256 * GIB,
        host_free_bytes=int(host_free_gib * GIB),
    )


def card(name: str, *, taken_gib: float = 0) -> GpuSpec:
    return dataclasses.replace(parse_machine(f"1x{name}").gpus[0], other_programs_bytes=int(taken_gib * GIB))


def test_one_card_is_planned_as_the_plan_command_would() -> None:
    plan = plan_s2v(setup(card("H200")), size="720*400", picture=PICTURE)
    assert (plan.width, plan.height, plan.num_steps, plan.model) == (704, 384, 4, FILES)
    assert plan.budgets[0].fits
    assert any("704x384" in note.text for note in plan.decisions)


def test_only_what_the_engine_can_carry_out_is_planned() -> None:
    machine, size = parse_machine("5x24"), VideoSize(704, 384)

    def shares_on_host(abilities: Abilities) -> bool:
        found = candidates(machine, size, Wishes(abilities=abilities))
        return any(each.configuration.offload.sharded_weights for each in found)

    assert shares_on_host(EVERYTHING)
    assert not shares_on_host(ENGINE)


@pytest.mark.parametrize(
    ("name", "wished", "precision", "sentence"),
    [
        ("H100", "int8", "int8", "Attention works in 8 bits"),
        ("H100", None, "bf16", None),
        ("B200", "int8", "bf16", "8-bit attention is made for Hopper cards"),
    ],
)
def test_8_bit_attention_where_it_is_wished_for_and_possible(
    name: str, wished: KvPrecision | None, precision: str, sentence: str | None
) -> None:
    cards = dataclasses.replace(setup(card(name)), kv_precision=wished)
    plan = plan_s2v(cards, size="384*256", picture=PICTURE)
    assert plan.kv_precision == precision
    texts = [note.text for note in plan.decisions]
    told = [text for text in texts if "8-bit attention" in text or "in 8 bits" in text]
    assert (sentence in told[0] and len(told) == 1) if sentence else not told


def test_what_the_operator_fixed_is_kept_whatever_it_costs() -> None:
    free = plan_s2v(setup(card("H100")), size="720*400", picture=PICTURE)
    assert free.precision == "fp8"
    exact = dataclasses.replace(setup(card("H100")), precision="bf16", kv_precision="bf16")
    plan = plan_s2v(exact, size="720*400", picture=PICTURE)
    assert (plan.precision, plan.kv_precision) == ("bf16", "bf16")
    assert plan.block_s is not None
    assert free.block_s is not None
    assert plan.block_s > free.block_s
    way = Ladder(plan, PICTURE)
    while way.climb_down():
        assert (way.plan.precision, way.plan.kv_precision) == ("bf16", "bf16")


def test_weights_in_8_bits_only_where_cards_multiply_in_them() -> None:
    wish = dataclasses.replace(setup(card("A100-80G")), precision="fp8")
    plan = plan_s2v(wish, size="384*256", picture=PICTURE)
    assert (plan.precision, plan.fixes_precision) == ("bf16", False)
    assert any("8-bit weights need cards" in note.text for note in plan.decisions)
    tiny = dataclasses.replace(setup(), kv_precision="fp8")
    assert plan_s2v(tiny, size="384*256", picture=PICTURE).kv_precision == "fp8"


def test_a_fixed_precision_that_leaves_no_room_is_named() -> None:
    narrow = dataclasses.replace(
        setup(card("16")), precision="bf16", kv_precision="bf16", host_bytes=32 * GIB
    )
    with pytest.raises(InputRejected, match=r"does not fit.*Leave the precision of weights and caches open"):
        plan_s2v(narrow, size="384*256", picture=PICTURE)


def test_a_size_that_does_not_fit_shrinks_with_a_reason_and_pinned_is_refused() -> None:
    taken = setup(card("H100", taken_gib=62))
    plan = plan_s2v(taken, size="1280*720", picture=PICTURE)
    assert plan.width * plan.height < 1280 * 704
    assert plan.budgets[0].fits
    receipt = "\n".join(note.text for note in plan.decisions)
    assert "1280x704 does not fit on 1 x H100 SXM" in receipt
    assert re.search(r"needs [\d.]+ GB .* and has 15\.5 GB to give: [\d.]+ GB too few", receipt)
    assert "1280x704 would fit if other programs gave back their 62.0 GB." in receipt
    with pytest.raises(InputRejected, match=r"does not fit.*Choose the size \d+\*\d+") as caught:
        plan_s2v(taken, size="1280*720", picture=PICTURE, pin_size=True)
    named = caught.value.diagnosis.remedy.split("size ")[1].split(",")[0]
    assert plan_s2v(taken, size=named, picture=PICTURE, pin_size=True).budgets[0].fits


def test_what_would_have_to_change_is_true() -> None:
    plan = plan_s2v(setup(card("16")), size="1280*720", picture=PICTURE)
    (change,) = [note.text for note in plan.decisions if note.code == "would_take"]
    assert change.startswith("1280x704 would take ")
    enough = re.search(r"(\d+) x ([\w ]+?)(,|\.)", change)
    assert enough is not None
    cards = [card(enough[2])] * int(enough[1])
    assert plan_s2v(setup(*cards), size="1280*720", picture=PICTURE).width == 1280


def test_nothing_fits_and_no_size_is_promised() -> None:
    with pytest.raises(InputRejected, match=r"does not fit.*Choose the engine portrait\."):
        plan_s2v(setup(card("4090", taken_gib=18)), size="720*400", picture=PICTURE)


def test_steps_are_planned_for_and_cost_caches() -> None:
    four, two = (plan_s2v(setup(card("H200")), size="720*400", picture=PICTURE, num_steps=n) for n in (4, 2))
    assert (four.num_steps, two.num_steps) == (4, 2)
    assert two.budgets[0].item_bytes("key-value caches") * 2 == four.budgets[0].item_bytes("key-value caches")
    portrait = plan_request(engine="portrait", size="auto", picture_width=64, picture_height=64, num_steps=2)
    assert any("no denoising steps" in note.text for note in portrait.decisions)


@pytest.mark.parametrize(
    ("free_gib", "expected"),
    [(7.9, VideoSize(384, 256)), (8.1, VideoSize(640, 384)), (11.9, VideoSize(640, 384)), (12.1, VideoSize(704, 384))],
)  # fmt: skip
def test_without_a_forecast_free_memory_limits_the_size(free_gib: float, expected: VideoSize) -> None:
    asked = VideoSize(704, 384)
    assert size_for_free_memory(int(free_gib * GIB), asked, PICTURE) == expected
    plan = plan_s2v(setup(host_free_gib=free_gib), size="720*400", picture=PICTURE)
    assert (plan.width, plan.height) == (expected.width, expected.height)
    told = [note.text for note in plan.decisions if note.code == "smaller_for_memory"]
    assert bool(told) == (expected != asked)
    assert all("it would take 12.0 GB" in sentence for sentence in told)
    pinned = plan_s2v(setup(host_free_gib=free_gib), size="720*400", picture=PICTURE, pin_size=True)
    assert (pinned.width, pinned.height) == (704, 384)


def test_a_large_model_is_not_tried_on_a_processor() -> None:
    large = dataclasses.replace(setup(), num_parameters=s2v_request.LARGEST_FOR_PROCESSOR + 1)
    with pytest.raises(InputRejected, match="needs a graphics card"):
        plan_s2v(large, size="auto", picture=PICTURE)


requests = st.tuples(
    st.sampled_from(["auto", "1280*720", "720*400", "576*320", "384*256", "544*544"]),
    st.sampled_from([(1920, 1080), (1080, 1920), (1000, 1000), (300, 500)]),
    st.integers(1, 4),
)


def answer(setup: S2vSetup, request: tuple[str, tuple[int, int], int]) -> ExecutionPlan | None:
    """Return the plan, None where the answer is that nothing fits; every other outcome is an error."""
    size, picture, num_steps = request
    try:
        return plan_s2v(setup, size=size, picture=picture, num_steps=num_steps)
    except InputRejected as rejection:
        if rejection.diagnosis.code != "nothing_fits":
            raise
        return None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(gpu=gpus(), count=st.integers(1, 4), more=st.floats(1.0, 4.0), request=requests)
def test_any_machine_is_answered_and_more_memory_never_makes_less(
    gpu: GpuSpec, count: int, more: float, request: tuple[str, tuple[int, int], int]
) -> None:
    larger = dataclasses.replace(gpu, total_bytes=int(gpu.total_bytes * more))
    before, after = (answer(setup(*[each] * count), request) for each in (gpu, larger))
    for plan in (before, after):
        if plan is not None:
            assert all(budget.fits for budget in plan.budgets)
            assert len(plan.budgets) <= min(count, ENGINE.max_ranks)
    if before is not None:
        assert after is not None
        assert after.width * after.height >= before.width * before.height
        if request[0] == "auto":
            assert VideoSize(after.width, after.height) in auto_sizes(request[1])


def test_layout_that_keeps_failing_makes_way_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s2v_request, "ENGINE", EVERYTHING)
    machine = setup(*[card("H800")] * 3)
    avoided: frozenset[ParallelPlan] = frozenset()
    num_cards = []
    for _ in range(3):
        plan = plan_s2v(dataclasses.replace(machine, avoided=avoided), size="720*400", picture=PICTURE)
        assert plan.parallel is not None
        assert all(any(layout.describe() in note.text for note in plan.decisions) for layout in avoided)
        num_cards.append(plan.parallel.world_size)
        avoided |= {plan.parallel}
    assert num_cards == [3, 2, 1]


def test_when_every_layout_failed_the_best_is_tried_again() -> None:
    one_card = setup(card("H200"))
    best = plan_s2v(one_card, size="720*400", picture=PICTURE)
    assert best.parallel is not None
    again = dataclasses.replace(one_card, avoided=frozenset({best.parallel}))
    assert plan_s2v(again, size="720*400", picture=PICTURE).parallel == best.parallel


def test_stages_are_planned_within_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four small cards would share every layer; in two machines of two they cannot."""
    monkeypatch.setattr(s2v_request, "ENGINE", EVERYTHING)
    together = setup(*[card("4090")] * 4)
    there = [dataclasses.replace(card("4090"), machine="other")] * 2
    apart = dataclasses.replace(setup(*[card("4090")] * 2, *there), slots=(("", 2), ("other", 2)))
    one_each = dataclasses.replace(apart, slots=(("", 1), ("other", 1)))
    plans = [plan_s2v(machines, size="384*256", picture=PICTURE) for machines in (together, apart, one_each)]
    assert [len(plan.budgets) for plan in plans] == [4, 4, 2]
    for plan in plans[1:]:
        assert plan.parallel is not None
        assert plan.parallel.ranks_per_stage <= 2
        counts = place_ranks(plan.parallel, (2, 2) if plan is plans[1] else (1, 1))
        assert counts is not None
        assert [budget.machine for budget in plan.budgets] == [""] * counts[0] + ["other"] * counts[1]


def test_every_rank_has_a_card_of_its_own_and_the_neediest_the_emptiest() -> None:
    """The cards that are used need not be the first ones."""
    slow = [dataclasses.replace(card("4090"), uuid=f"GPU-slow-{number}") for number in range(2)]
    fast = [
        dataclasses.replace(card("H100", taken_gib=10 * number), uuid=f"GPU-fast-{number}")
        for number in (3, 0, 1)
    ]
    machine = Machine(gpus=(*slow, *fast), host_bytes=256 * GIB)
    plan = execution_plan(choose(machine, size="720*400", picture=PICTURE))
    assert {budget.card for budget in plan.budgets} == {gpu.uuid for gpu in fast}
    by_need = sorted(
        plan.budgets,
        key=lambda budget: budget.needed_bytes - budget.item_bytes("text encoder"),
        reverse=True,
    )
    assert [budget.card for budget in by_need] == ["GPU-fast-0", "GPU-fast-1", "GPU-fast-3"]
    assert all(budget.fits for budget in plan.budgets)


def test_ranks_take_cards_that_are_alike_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbours that exchange tokens then are neighbours in the machine, whoever needs most."""
    monkeypatch.setattr(s2v_request, "ENGINE", EVERYTHING)
    cards = [dataclasses.replace(card("4090"), uuid=f"GPU-{number}") for number in range(8)]
    plan = plan_s2v(setup(*cards), size="720*400", picture=PICTURE)
    assert len(plan.budgets) == 8
    assert [budget.card for budget in plan.budgets] == [gpu.uuid for gpu in cards]


def test_a_loaded_layout_is_kept_where_it_is_nearly_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s2v_request, "ENGINE", EVERYTHING)
    two = setup(*[card("L40S")] * 2)
    small = plan_s2v(two, size="384*256", picture=PICTURE)
    best = plan_s2v(two, size="720*400", picture=PICTURE)
    assert not best.same_engine(small), "another layout is a little faster at the other size"
    kept = plan_s2v(dataclasses.replace(two, loaded=small), size="720*400", picture=PICTURE)
    assert kept.same_engine(small)
    assert kept.size == best.size
    assert all(budget.fits for budget in kept.budgets)
    assert best.block_s is not None
    assert kept.block_s is not None
    assert best.block_s < kept.block_s <= best.block_s / 0.8
    assert any("stays loaded" in note.text for note in kept.decisions)


def test_a_loaded_layout_makes_way_for_a_much_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = plan_s2v(setup(card("H100")), size="720*400", picture=PICTURE)
    monkeypatch.setattr(s2v_request, "ENGINE", EVERYTHING)
    more = dataclasses.replace(setup(*[card("H100")] * 3), loaded=one)
    assert len(plan_s2v(more, size="720*400", picture=PICTURE).budgets) == 3


def test_one_rank_takes_the_card_that_others_leave_empty() -> None:
    cards = [dataclasses.replace(card("H100", taken_gib=taken), uuid=f"GPU-{taken}") for taken in (70, 2, 30)]
    plan = plan_s2v(setup(*cards), size="720*400", picture=PICTURE)
    assert plan.budgets[0].card == "GPU-2"


@pytest.mark.parametrize("machine", ["2xH200", "3xH100", "5xH800", "4x4090"])
def test_the_text_encoder_is_planned_where_prompts_are_encoded(machine: str) -> None:
    for candidate in choose(parse_machine(machine), size="720*400", picture=PICTURE).candidates:
        if candidate.fits:
            assert text_rank(candidate) in (None, candidate.configuration.parallel.source_rank)
