from __future__ import annotations

import json

import pytest

from liveavatar.core import events, wire
from liveavatar.core.errors import Diagnosis
from liveavatar.core.memory import MemoryItem
from liveavatar.core.note import Note
from liveavatar.core.plan import ExecutionPlan, PlanChange
from liveavatar.core.request import FaceClicks, ValidatedRequest

REQUEST = ValidatedRequest(
    job_id="a",
    image_path="/p.png",
    audio_path="/v.wav",
    audio_seconds=1.5,
    prompt="微笑",
    seed=3,
    face_clicks=FaceClicks(
        mouth_left=(0.1, 0.2), mouth_right=(0.3, 0.2), chin=(0.2, 0.4), eyes=((0.2, 0.1),)
    ),
    whole_picture=False,
)
NOTE = Note(code="a", text="because", values={"n": 1})
PLAN = ExecutionPlan(engine="portrait", width=720, height=400, decisions=(NOTE,))
CHANGE = PlanChange(first_frame=48, cause="memory_full", before="a", after="b", reason="c", remedy="d")
DIAGNOSIS = Diagnosis(code="c", title="t", cause="u", remedy="r", facts={"n": 1})


@pytest.mark.parametrize(
    "message",
    [
        events.Load(plan=PLAN),
        events.Generate(request=REQUEST, plan=PLAN),
        events.Stop(job_id="a"),
        events.Shutdown(),
        events.Hello(pid=1),
        events.Ready(engine="portrait", load_s=0.5),
        events.Heartbeat(rss_bytes=5),
        events.Progress(job_id="a", stage="generating", frames_done=1, num_frames=2),
        events.Chunk(job_id="a", data=b"\x00\xff", frames_done=1),
        events.Notice(job_id="a", note=NOTE),
        events.Adjust(job_id="a", num_steps=3, size="384*256"),
        events.PlanChanged(job_id="a", change=CHANGE, plan=PLAN),
        events.Telemetry(),
        events.Telemetry(
            rank=1,
            gpu="GPU-1",
            allocated_bytes=3,
            reserved_bytes=5,
            peak_bytes=4,
            items=(MemoryItem(name="weights", num_bytes=2, basis="measured"),),
            block_s=0.25,
        ),
        events.Finished(job_id="a", num_frames=2),
        events.Failed(job_id="a", diagnosis=DIAGNOSIS),
        events.Cancelled(job_id="a"),
    ],
)
def test_every_message_survives_the_wire(message: events.Command | events.WorkerEvent) -> None:
    frames = wire.encode(message)
    assert wire.decode(frames) == message
    json.loads(frames[0])  # plain JSON: any language can read it


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"\x80\x04pickle"],
        [b"[]"],
        [b"{}"],
        [b'{"v": 1, "type": "Job"}'],
        [b'{"v": 99, "type": "Shutdown"}'],
        [b'{"v": 1, "type": "Stop"}'],
        [b'{"v": 1, "type": "Stop", "job_id": "a", "more": 1}'],
    ],
)
def test_foreign_messages_are_refused(frames: list[bytes]) -> None:
    with pytest.raises(wire.WireError):
        wire.decode(frames)
