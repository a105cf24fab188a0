"""What the page is told: jobs, engine and machine as plain JSON values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from liveavatar.core.errors import Diagnosis
from liveavatar.core.job import Job, JobState
from liveavatar.core.plan import FPS
from liveavatar.monitoring.hardware import HardwareSnapshot
from liveavatar.monitoring.readings import LinkLoad
from liveavatar.planning.model_spec import PICTURES_PER_BLOCK
from liveavatar.service.gauge import CardGauge, fit_warnings

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio

MAX_LISTED_JOBS = 60

Json = dict[str, Any]


def diagnosis_json(diagnosis: Diagnosis | None) -> Json | None:
    """Return the parts that an operator reads; from code and facts the page says them in another language."""
    if diagnosis is None:
        return None
    return {
        "code": diagnosis.code,
        "title": diagnosis.title,
        "cause": diagnosis.cause,
        "remedy": diagnosis.remedy,
        "facts": dict(diagnosis.facts),
    }


def job_json(job: Job, *, queue_position: int, predicted_fps: float | None) -> Json:
    """Return one job. Times in seconds; `seconds_left` is None until the speed is known.

    `fps` is measured, 0 before the first pictures; `predicted_fps` is the plan's, None without a forecast.
    """
    frames_left = job.num_frames - job.frames_done
    seconds_left = frames_left / job.fps if job.state is JobState.RUNNING and job.fps > 0 else None
    return {
        "id": job.id,
        "state": job.state.value,
        "active": not job.state.is_terminal,
        "queue_position": queue_position,
        "frames_done": job.frames_done,
        "num_frames": job.num_frames,
        "fps": round(job.fps, 1),
        "predicted_fps": _rounded(predicted_fps),
        "play_fps": FPS,
        "seconds_left": None if seconds_left is None else round(seconds_left, 1),
        "audio_seconds": round(job.audio_seconds, 2),
        "size": job.size_made or job.size_asked,
        "size_asked": job.size_asked,
        "changes": [dataclasses.asdict(change) for change in job.changes],
        "engine": job.engine,
        "prompt": job.prompt,
        "created_at": job.created_at,
        "stop_requested": job.stop_requested,
        "notes": [dataclasses.asdict(note) for note in job.notes],
        "diagnosis": diagnosis_json(job.diagnosis),
        "has_video": job.has_video,
    }


def _rounded(fps: float | None) -> float | None:
    return None if fps is None else round(fps, 2)


def hardware_json(studio: Studio) -> Json:
    """Return this machine: bytes, percent of time, Celsius, watts. None stands for what the driver does not say."""
    return machine_json(studio.hardware(), studio.card_gauges())


def machine_json(hardware: HardwareSnapshot, gauges: Sequence[CardGauge]) -> Json:
    """Return a machine as the page draws it."""
    warnings = [*fit_warnings(gauges), *hardware.warnings]
    return {
        "gpus": [_gpu_json(gauge) for gauge in gauges],
        "host_total_bytes": hardware.host_total_bytes,
        "host_available_bytes": hardware.host_available_bytes,
        "host_own_bytes": hardware.own_bytes,
        "cpu_percent": hardware.cpu_percent,
        "num_cores": hardware.num_cores,
        "problem": hardware.problem,
        "warnings": [dataclasses.asdict(remark) for remark in warnings],
        "unknowns": [dataclasses.asdict(remark) for remark in hardware.unknowns],
    }


def _gpu_json(gauge: CardGauge) -> Json:
    gpu = gauge.gpu
    return {
        "index": gpu.index,
        "name": gpu.name,
        "total_bytes": gpu.total_bytes,
        "used_bytes": gpu.used_bytes,
        "free_bytes": gpu.free_bytes,
        "own_bytes": gauge.own_bytes,
        "items": [{"name": item.name, "bytes": item.num_bytes} for item in gauge.items],
        "programs": [{"name": name, "bytes": num_bytes} for name, num_bytes in gpu.programs],
        "other_bytes": gauge.other_bytes,
        "needed_bytes": gauge.needed_bytes,
        "peak_bytes": gauge.peak_bytes,
        # Percent of the card, every two seconds, the newest last.
        "history": [None if used is None else round(100 * used / gpu.total_bytes, 1) for used in gpu.history],
        "utilisation": gpu.utilisation,
        "temperature": gpu.temperature,
        "power_w": None if gpu.power_w is None else round(gpu.power_w),
        "pcie": _link_json(gpu.pcie),
        "nvlink": _link_json(gpu.nvlink),
    }


def _link_json(link: LinkLoad | None) -> Json | None:
    if link is None:
        return None
    return {"sent": round(link.sent), "received": round(link.received), "limit": link.limit}


def engine_json(studio: Studio) -> Json:
    """Return how the engine is. `block_s`: what the slowest rank took last; `block_target_s` would be real time."""
    status = studio.engine_status()
    blocks = [report.block_s for report in studio.telemetry() if report.block_s is not None]
    return {
        "state": status.state,
        "name": status.engine,
        "rss_bytes": status.rss_bytes,
        "loading": status.loading,
        "block_s": max(blocks, default=None),
        "block_target_s": PICTURES_PER_BLOCK / FPS,
        "diagnosis": diagnosis_json(status.diagnosis),
    }


def sizes_json(studio: Studio) -> Json:
    """Return for each level of detail whether it fits now, and what would be made of it, in landscape, how fast."""
    return {
        name: {"fits": forecast.fits, "made": forecast.made, "fps": _rounded(forecast.fps)}
        for name, forecast in studio.size_forecasts().items()
    }


def describe(studio: Studio, job: Job) -> Json:
    """Return one job together with its place in the queue."""
    is_waiting = job.state is JobState.QUEUED
    return job_json(
        job,
        queue_position=studio.queue_position(job.id) if is_waiting else 0,
        predicted_fps=studio.predicted_fps(job),
    )


def page_state(studio: Studio, *, job: Job | None, owner: str | None, seen: str) -> Json:
    """Return everything the page shows.

    Parameters:
        job: the one on the stage.
        owner: whose videos are listed; None lists all.
        seen: the `jobs_tag` of the caller's list. The list, which may be long, is left out (None) when it has
            not changed since.
    """
    all_jobs = studio.jobs(owner)
    listed = [describe(studio, each) for each in all_jobs[:MAX_LISTED_JOBS]]
    tag = hashlib.sha256(json.dumps([_identity(each) for each in listed]).encode()).hexdigest()[:16]
    everyone = all_jobs if owner is None else studio.jobs(None)
    return {
        "engine": engine_json(studio),
        "hardware": hardware_json(studio),
        "sizes": sizes_json(studio),
        "num_waiting": sum(each.state is JobState.QUEUED for each in everyone),
        "num_active": sum(not each.state.is_terminal for each in everyone),
        "job": None if job is None else describe(studio, job),
        "jobs": None if tag == seen else listed,
        "jobs_tag": tag,
        "num_jobs": len(all_jobs),
    }


def _identity(job: Json) -> tuple[Any, ...]:
    """Return what the list shows of a job, without the numbers that change with every frame."""
    return job["id"], job["state"], job["queue_position"], job["has_video"], job["size"]
