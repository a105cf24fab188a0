"""The 14B model with random weights on one real graphics card, through the app: the gauge, and memory that runs short.

Uncompiled: what is shown does not depend on it. Needs a card of 40 GB or more, and about five minutes.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.foreign_program import foreign_program
from liveavatar.config import AppConfig
from liveavatar.core.job import Job, JobState
from liveavatar.core.memory import GIB
from liveavatar.monitoring.prometheus import metrics_text
from liveavatar.planning.model_spec import TRANSFORMER_PARAMETERS
from liveavatar.planning.s2v_request import S2vSetup
from liveavatar.service.facade import Studio
from liveavatar.service.gauge import CardGauge
from tests.conftest import wait_for_end, wait_until
from tests.gpu.inputs import request_of, tiny_checkpoint
from tests.integration.test_s2v_memory import check_file

ASKED, PICTURE, SHAPE = "720*400", (1440, 800), (704, 384)
SECONDS, NUM_PICTURES = 6.7, 168  # 14 blocks: three clips and two blocks
ONE_CLIP = 60  # pictures: the window is full, and its memory was asked for
READY_S, MADE_S = 300.0, 300.0

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_properties(0).total_memory < 40 * GIB,
        reason="needs a graphics card of 40 GB",
    ),
]


class StudioOfFullModel(Studio):
    """Plans for the published model whatever the checkpoint's headers say."""

    def _find_s2v(self) -> S2vSetup:
        return dataclasses.replace(super()._find_s2v(), num_parameters=TRANSFORMER_PARAMETERS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one_card")


@pytest.fixture(scope="module")
def studio(folder: Path) -> Iterator[Studio]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        patch.setenv("CARD_LIMIT", str(folder / "limit"))
        studio = StudioOfFullModel(
            AppConfig(
                data_dir=folder / "data",
                ckpt_dir=tiny_checkpoint(folder),
                worker_module="tests.fakes.random_s2v_worker",
                visible_cards="0",
            )
        )
        studio.start()
        yield studio
        studio.close()


@pytest.fixture
def submit(studio: Studio, folder: Path) -> Callable[..., Job]:
    def submit(**fields: object) -> Job:
        request = request_of(SECONDS, folder, *PICTURE, ASKED)
        return studio.submit(dataclasses.replace(request, **fields))  # type: ignore[arg-type]

    return submit


def wait_for_pictures(studio: Studio, job: Job, count: int) -> None:
    def arrived() -> bool:
        now = studio.job(job.id)
        assert not now.state.is_terminal, now.diagnosis
        return now.frames_done >= count

    wait_until(arrived, timeout_s=READY_S)


def gauge_of(studio: Studio) -> CardGauge:
    """Return that of the card the engine computes on."""
    (gauge,) = (gauge for gauge in studio.card_gauges() if gauge.items)
    return gauge


def shrink_card(folder: Path, num_bytes: int) -> None:
    """Let the engine hold no more than so much from now on, until the video ends."""
    (folder / "limit.new").write_text(str(num_bytes))
    (folder / "limit.new").rename(folder / "limit")


def check_whole(studio: Studio, job: Job, folder: Path) -> Job:
    """Wait for the end; the video is whole, in one file of one size, and all that was changed is in its notes."""
    ended = wait_for_end(studio, job.id, timeout_s=MADE_S)
    assert ended.state is JobState.FINISHED, ended.diagnosis
    assert all(change.note() in ended.notes for change in ended.changes)
    video = studio.video_path(job.id)
    assert video is not None
    check_file(video, folder / "unused", size=SHAPE, num_frames=NUM_PICTURES)
    log.info("what its notes say: %s", ended.notes)
    return ended


def test_the_gauge_shows_whose_memory_it_is(studio: Studio, submit: Callable[..., Job], folder: Path) -> None:
    job = submit()
    wait_for_pictures(studio, job, ONE_CLIP)
    gauge = gauge_of(studio)
    (report,) = studio.telemetry()
    gpu = gauge.gpu
    log.info("the gauge: %s", gauge)
    assert gpu.total_bytes >= torch.cuda.get_device_properties(0).total_memory
    assert gauge.own_bytes is not None
    assert report.reserved_bytes <= gauge.own_bytes <= gpu.used_bytes <= gpu.total_bytes
    assert sum(item.num_bytes for item in gauge.items) == gauge.own_bytes
    assert {"weights", "decoder weights", "speech encoder"} < {item.name for item in gauge.items}
    assert gauge.needed_bytes is not None
    assert report.peak_bytes < 1.02 * gauge.needed_bytes
    assert gauge.peak_bytes >= report.peak_bytes
    assert gpu.temperature is not None
    assert gpu.history
    wait_until(lambda: (gauge_of(studio).gpu.utilisation or 0) > 50)
    assert f'gpu="{gpu.index}"' in metrics_text(studio.hardware())

    others_before = gauge_of(studio).other_bytes
    assert others_before is not None
    with foreign_program(3 * GIB):
        wait_until(lambda: (gauge_of(studio).other_bytes or 0) >= others_before + 2.5 * GIB)
    wait_until(lambda: (gauge_of(studio).other_bytes or 0) < others_before + GIB)
    assert not check_whole(studio, job, folder).changes


def test_a_card_that_is_full_in_mid_video(studio: Studio, submit: Callable[..., Job], folder: Path) -> None:
    job = submit()
    wait_for_pictures(studio, job, ONE_CLIP)
    (report,) = studio.telemetry()
    shrink_card(folder, int(0.85 * report.reserved_bytes))
    changes = check_whole(studio, job, folder).changes
    assert changes
    assert {change.cause for change in changes} == {"memory_full"}
    assert all(change.first_frame >= ONE_CLIP for change in changes)


def test_a_pinned_size_breaks_off_with_what_was_made(
    studio: Studio, submit: Callable[..., Job], folder: Path
) -> None:
    job = submit(pin_size=True)
    wait_for_pictures(studio, job, ONE_CLIP)
    (report,) = studio.telemetry()
    weights = sum(item.num_bytes for item in report.items if item.name == "weights")
    shrink_card(folder, weights)
    broken = wait_for_end(studio, job.id, timeout_s=MADE_S)
    assert broken.state is JobState.FAILED
    assert broken.diagnosis is not None
    assert broken.diagnosis.code == "graphics_memory_full"
    kept = studio.video_path(job.id)
    assert kept is not None
    check_file(kept, folder / "unused", size=SHAPE, num_frames=broken.frames_done)


def test_another_program_has_filled_the_card(
    studio: Studio, submit: Callable[..., Job], folder: Path
) -> None:
    wait_until(lambda: not studio.num_live_jobs())
    gpu = gauge_of(studio).gpu
    with foreign_program(gpu.free_bytes - 2 * GIB):
        job = submit()
        whole = check_whole(studio, job, folder)
    assert any("GB" in note.text for note in whole.notes), "the receipt says why"
    assert not check_whole(studio, submit(), folder).changes, "the next video is as it was"
