"""The engine over several ranks makes the file that one rank makes, byte for byte."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from liveavatar.core.events import Adjust
from liveavatar.core.parallel import ParallelPlan
from liveavatar.core.plan import ExecutionPlan, ModelFiles
from liveavatar.core.request import GenerationRequest, ValidatedRequest
from liveavatar.intake.validate import validate
from tests.fakes.limited_s2v_worker import MIB
from tests.parallel.engine_run import VideoJob, make_videos
from tests.parallel.rank_pool import RankPool
from tests.tiny_checkpoint import write_tiny_checkpoint

ONE = ParallelPlan(step_split=(4,))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> ExecutionPlan:
    checkpoint = write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"))
    files = ModelFiles(
        checkpoint=str(checkpoint),
        lora=str(checkpoint.parent / "LiveAvatar" / "liveavatar.safetensors"),
        cache=str(tmp_path_factory.mktemp("cache")),
    )
    return ExecutionPlan(engine="s2v", width=64, height=64, model=files, parallel=ONE)


def with_parallel(plan: ExecutionPlan, parallel: ParallelPlan) -> ExecutionPlan:
    return dataclasses.replace(plan, parallel=parallel)


@pytest.fixture
def request_of(tmp_path: Path, make_voice: Callable[[float], Path]) -> Callable[[float], ValidatedRequest]:
    picture = tmp_path / "picture.png"
    Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8)[:, None, None], (1, 128, 3))).save(
        picture
    )

    def make(seconds: float) -> ValidatedRequest:
        raw = GenerationRequest(
            image_path=str(picture), audio_path=str(make_voice(seconds)), prompt="she smiles"
        )
        return validate(raw, job_id="a", job_dir=tmp_path, max_audio_s=600).request

    return make


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the ranks: the number of threads may decide a last bit."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_pipeline_with_a_decoder_of_its_own(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    """2.2 s are 5 blocks: the cache rolls and the sink is refreshed. A video before it is stopped after 2."""
    request = request_of(2.2)
    spread = with_parallel(plan, ParallelPlan(step_split=(1, 1), decoder_has_own_rank=True))
    jobs = [VideoJob(request=request, plan=spread, stop_after=2), VideoJob(request=request, plan=spread)]
    *silent, speaking = pool.call(make_videos, 3, plan=spread, jobs=jobs)
    assert silent == [[(b"", 2 * ["Telemetry"]), (b"", 5 * ["Telemetry"])]] * 2, "a report with every block"
    (stopped, stopped_events), (whole, whole_events) = speaking
    alone = with_parallel(plan, ParallelPlan(step_split=(2,)))
    assert whole == make_videos(alone, [VideoJob(request=request, plan=alone)])[0][0]
    assert whole_events[-1] == "Finished"
    assert whole_events.count("Finished") == 1
    assert stopped_events[-1] == "Cancelled"
    assert sizes_of(stopped) == [(64, 64)] * 24


def test_layers_and_another_number_of_steps(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    """Ranks that were loaded for four steps make a video in two."""
    request = request_of(0.9)
    spread = with_parallel(plan, ParallelPlan(step_split=(4,), layer_parts=2))
    quick = with_parallel(plan, ParallelPlan(step_split=(2,), layer_parts=2))
    silent, speaking = pool.call(make_videos, 2, plan=spread, jobs=[VideoJob(request=request, plan=quick)])
    assert silent == [(b"", 2 * ["Telemetry"])], "a block comes by once for each step, and is done once"
    alone = with_parallel(plan, ParallelPlan(step_split=(2,)))
    assert speaking[0][0] == make_videos(alone, [VideoJob(request=request, plan=alone)])[0][0]


@pytest.mark.parametrize(
    "layout",
    [
        ParallelPlan(step_split=(2, 2)),
        ParallelPlan(step_split=(4,), layer_parts=2, decoder_has_own_rank=True),
    ],
    ids=ParallelPlan.describe,
)
def test_wishes_change_the_video_of_several_ranks_as_that_of_one(
    pool: RankPool,
    plan: ExecutionPlan,
    request_of: Callable[[float], ValidatedRequest],
    layout: ParallelPlan,
) -> None:
    """Steps change with the second block, the size after the first clip; another video follows in the old form."""
    request, spread = request_of(2.8), with_parallel(plan, layout)
    wishes = {1: Adjust(job_id="a", num_steps=2, size="384*256")}
    jobs = [
        VideoJob(request=request, plan=plan, wishes=wishes),
        VideoJob(request=request, plan=plan, stop_after=1),
    ]
    on_ranks = [dataclasses.replace(job, plan=spread) for job in jobs]
    *_, speaking = pool.call(make_videos, layout.world_size, plan=spread, jobs=on_ranks)
    alone = make_videos(plan, jobs)
    (changed, events), (unchanged, _) = speaking
    assert [video for video, _ in speaking] == [video for video, _ in alone]
    assert [event for event in events if "You asked" in event] == [
        "From 0.5 s on: 2 steps instead of 4 steps. You asked for it.",
        "From 1.9 s on: 128x64 instead of 64x64. You asked for it.",
    ]
    assert events[-1] == "Finished"
    assert sizes_of(changed) == [(64, 64)] * 70
    assert len(sizes_of(unchanged)) == 12


def test_shared_weights_change_steps_after_a_clip_and_say_what_they_cannot(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    layout = ParallelPlan(step_split=(2, 2), weights_sharded=True)
    spread, request = with_parallel(plan, layout), request_of(2.2)
    wishes = {0: Adjust(job_id="a", num_steps=3), 1: Adjust(job_id="a", num_steps=2)}
    job = VideoJob(request=request, plan=spread, wishes=wishes)
    _, [(video, events)] = pool.call(make_videos, 2, plan=spread, jobs=[job])
    assert [event for event in events if " " in event] == [
        "The number of steps stays: 2 graphics cards that share their weights make equally many of them, and 3 cannot"
        " be shared out like that. Choose a multiple of 2.",
        "From 1.9 s on: 2 steps instead of 4 steps. You asked for it.",
    ]
    assert sizes_of(video) == [(64, 64)] * 55


def test_ranks_agree_on_what_the_poorest_has_room_for(
    pool: RankPool, plan: ExecutionPlan, request_of: Callable[[float], ValidatedRequest]
) -> None:
    spread = dataclasses.replace(with_parallel(plan, ParallelPlan(step_split=(2, 2))), width=128)
    request = request_of(0.5)
    pinned = dataclasses.replace(request, pin_size=True)
    jobs = [
        VideoJob(request=each, plan=spread, available_bytes={rank: 50 * MIB})
        for each, rank in ((request, 0), (request, 1), (pinned, 1))
    ]
    _, speaking = pool.call(make_videos, 2, plan=spread, jobs=jobs)
    for video, events in speaking[:2]:
        assert set(sizes_of(video)) == {(64, 64)}
        (change,) = [event for event in events if " " in event]
        assert change.startswith("From the start: 64x64 instead of 128x64. 0.0 GB of memory")
    video, events = speaking[2]
    assert set(sizes_of(video)) == {(128, 64)}
    (remark,) = [event for event in events if " " in event]
    assert remark.endswith("The video goes on as it is and may break off.")


def sizes_of(video: bytes) -> list[tuple[int, int]]:
    """Return the size of every picture of a file."""
    with av.open(io.BytesIO(video)) as container:
        return [(frame.width, frame.height) for frame in container.decode(video=0)]
