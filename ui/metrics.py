"""The app in Prometheus' text format: machine, jobs and engine. Names no job, no visitor and no program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from liveavatar.core.job import JobState
from liveavatar.monitoring.prometheus import Family, metrics_text

if TYPE_CHECKING:
    from liveavatar.service.facade import Studio


def studio_metrics(studio: Studio) -> str:
    """Return everything that is measured, in the format of `prometheus.CONTENT_TYPE`."""
    return metrics_text(studio.hardware(), [*_job_families(studio), *_engine_families(studio)])


def _job_families(studio: Studio) -> list[Family]:
    jobs = studio.jobs()
    running = [job for job in jobs if job.state is JobState.RUNNING]
    counts = [({"state": state.value}, sum(job.state is state for job in jobs)) for state in JobState]
    return [
        ("jobs", "Videos that are kept, by state; queued ones wait", counts),
        ("job_fps", "Pictures per second of the video at work", [({}, job.fps) for job in running]),
        (
            "job_progress_ratio",
            "Share of the video at work that is made",
            [({}, job.frames_done / job.num_frames) for job in running],
        ),
    ]


def _engine_families(studio: Studio) -> list[Family]:
    status, reports = studio.engine_status(), studio.telemetry()
    ranks = [({"rank": str(report.rank)}, report) for report in reports]
    return [
        ("engine_state", "1 for the state the engine is in", [({"state": status.state}, 1)]),
        ("engine_host_memory_bytes", "Resident memory of the engine's processes", [({}, status.rss_bytes)]),
        (
            "engine_block_seconds",
            "Time the last block took; 0.48 s is real time",
            [(at, report.block_s) for at, report in ranks],
        ),
        (
            "engine_memory_bytes",
            "Graphics memory of the engine's allocator: in use, kept, highest since the report before",
            [
                ({**at, "kind": kind}, num_bytes)
                for at, report in ranks
                for kind, num_bytes in (
                    ("allocated", report.allocated_bytes),
                    ("reserved", report.reserved_bytes),
                    ("peak", report.peak_bytes),
                )
            ],
        ),
        (
            "engine_item_bytes",
            "Graphics memory by item",
            [({**at, "item": item.name}, item.num_bytes) for at, report in ranks for item in report.items],
        ),
        (
            "needed_bytes",
            "Graphics memory that the plan in use needs on a card",
            [({"gpu": str(gauge.gpu.index)}, gauge.needed_bytes) for gauge in studio.card_gauges()],
        ),
    ]
