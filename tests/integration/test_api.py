"""The app as a program sees it: named endpoints through gradio_client, and the raw routes."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file  # type: ignore[import-untyped]
from PIL import Image

from liveavatar.config import AppConfig
from liveavatar.service.facade import Studio
from ui.page import build_page, launch_options
from ui.samples import load_samples

_DEADLINE_S = 120.0

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning"
    ),  # Gradio leaves its server's event loop and sockets open
    pytest.mark.filterwarnings("ignore:.*(no_silent_downcasting|copy keyword).*"),  # pandas, within Gradio
]


class Server:
    """The page and the paced engine in this process's own server."""

    def __init__(self, data_dir: Path, *, per_visitor: bool = False, **launch: Any) -> None:
        config = AppConfig(
            data_dir=data_dir, worker_module="tests.fakes.paced_engine", per_visitor=per_visitor
        )
        self.studio = Studio(config)
        self._page = build_page(self.studio)
        _, url, _ = self._page.launch(
            server_name="127.0.0.1",
            prevent_thread_lock=True,
            quiet=True,
            **launch_options(self.studio),
            **launch,
        )
        self.url = url.rstrip("/")
        self.studio.start()

    def close(self) -> None:
        """End both."""
        self._page.close()
        self.studio.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("api"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def visitors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("visitors"), per_visitor=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("guarded"), auth=("ann", "secret"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(server.url, verbose=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The portrait and the voice of a submission."""
    folder = tmp_path_factory.mktemp("inputs")
    Image.new("RGB", (480, 640), (150, 120, 100)).save(folder / "portrait.png")
    tone = 0.3 * np.sin(2 * np.pi * 150 * np.arange(2 * 16_000) / 16_000)
    soundfile.write(folder / "voice.wav", tone, 16_000)
    return {"portrait": handle_file(folder / "portrait.png"), "voice": handle_file(folder / "voice.wav")}


def _finish(client: Client, job_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        job: dict[str, Any] = client.predict(job_id, api_name="/job_status")
        if not job["active"]:
            return job
        assert time.monotonic() < deadline, f"the job is still {job['state']}"
        time.sleep(0.1)


def test_submit_finish_download(server: Server, client: Client, files: dict[str, Any]) -> None:
    job = client.predict(**files, prompt="pace=300", size="compact", api_name="/submit")
    assert job["state"] in ("queued", "planning", "loading", "running")
    done = _finish(client, job["id"])
    assert done["state"] == "finished"
    assert done["frames_done"] == done["num_frames"] == 50
    assert done["size"] == "320*576", "compact, in the portrait's shape"
    video = httpx.get(server.url + done["video_url"])
    assert video.content[4:8] == b"ftyp"
    part = httpx.get(server.url + done["video_url"], headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert httpx.get(server.url + done["poster_url"]).content[:2] == b"\xff\xd8"
    assert job["id"] in {each["id"] for each in client.predict(api_name="/list_jobs")}


def test_live_media_is_the_whole_video(server: Server, client: Client, files: dict[str, Any]) -> None:
    job = client.predict(**files, prompt="pace=100", api_name="/submit")
    data, offset, ended = b"", 0, False
    while not ended:
        answer = httpx.get(f"{server.url}{job['media_url']}", params={"offset": offset}, timeout=30)
        assert answer.status_code == 200
        data += answer.content
        offset = int(answer.headers["x-next-offset"])
        ended = answer.headers["x-end"] == "1"
    assert offset == len(data)
    assert data[4:8] == b"ftyp"
    assert data.count(b"moof") > 3


def test_cancel(client: Client, files: dict[str, Any]) -> None:
    job = client.predict(**files, prompt="pace=4", api_name="/submit")
    client.predict(job["id"], api_name="/cancel_job")
    assert _finish(client, job["id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size": "123*456"}, "picture size “123*456” is not offered"),
        ({"engine": "s2v"}, "s2v engine is not set up"),
        ({"engine": "other"}, "There is no engine “other”"),
        ({"seed": -1}, "seed -1 cannot be used"),
        ({"steps": 5}, "5 denoising steps cannot be run"),
        ({"clicks": "{"}, "clicks: "),
        ({"clicks": '{"mouth_left": [0.4, 0.5]}'}, "clicks lack mouth_right and chin"),
        ({"clicks": '{"mouth_left": [4, 5], "mouth_right": [0, 0], "chin": [0, 0]}'}, "mouth_left must be"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(
    client: Client, files: dict[str, Any], wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Exception, match=re.escape(sentence)):
        client.predict(**files, **wrong, api_name="/submit")


def test_a_file_that_is_no_picture(client: Client, files: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(Exception, match="cannot be read"):
        client.predict(portrait=handle_file(tmp_path / "text.png"), voice=files["voice"], api_name="/submit")


def test_an_unknown_job(server: Server, client: Client) -> None:
    with pytest.raises(Exception, match="no job with this id"):
        client.predict("nothing", api_name="/job_status")
    for what in ("media", "video", "poster", "portrait"):
        assert httpx.get(f"{server.url}/api/jobs/nothing/{what}").status_code == 404
    assert httpx.delete(f"{server.url}/api/jobs/..%2f..%2fetc").status_code == 404


def test_hardware_and_health(server: Server, client: Client) -> None:
    hardware = client.predict(api_name="/hardware")
    assert hardware["host_total_bytes"] > hardware["host_available_bytes"] > 0
    assert hardware["num_cores"] >= 1
    assert httpx.get(server.url + "/healthz").json()["ok"] is True
    metrics = httpx.get(server.url + "/metrics")
    assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert f'liveavatar_host_memory_bytes{{kind="total"}} {hardware["host_total_bytes"]}\n' in metrics.text


def test_clicks_and_making_again(server: Server, client: Client, files: dict[str, Any]) -> None:
    failed = client.predict(**files, prompt="[no face]", api_name="/submit")
    assert _finish(client, failed["id"])["diagnosis"]["code"] == "no_face"
    again = f"{server.url}/api/jobs/{failed['id']}/again"
    assert httpx.post(again, json={"clicks": {"chin": [0.5, 0.7]}}).status_code == 400
    assert httpx.post(again, json=[]).status_code == 400
    clicks = {"mouth_left": [0.4, 0.6], "mouth_right": [0.6, 0.6], "chin": [0.5, 0.7], "eyes": []}
    job = httpx.post(again, json={"clicks": clicks}).json()
    assert _finish(client, job["id"])["state"] == "finished"
    assert httpx.get(f"{server.url}/api/jobs/{failed['id']}/portrait").status_code == 404, "replaced"


def test_only_running_videos_of_the_large_engine_are_adjusted(
    server: Server, client: Client, files: dict[str, Any]
) -> None:
    job = client.predict(**files, prompt="pace=300", steps=2, pin_size=True, api_name="/submit")
    adjust = f"{server.url}/api/jobs/{job['id']}/adjust"
    refused = httpx.post(adjust, json={"steps": 3})
    assert refused.status_code == 422
    assert refused.json()["diagnosis"]["code"] == "not_adjustable"
    assert httpx.post(adjust, json={"size": "3*3"}).json()["diagnosis"]["code"] == "unknown_size"
    assert httpx.post(adjust, json={"steps": 9}).json()["diagnosis"]["code"] == "bad_steps"
    for nonsense in ({}, [], {"steps": "many"}, {"size": 5}, {"speed": 2}):
        assert httpx.post(adjust, json=nonsense).status_code == 400
    assert httpx.post(f"{server.url}/api/jobs/nothing/adjust", json={"steps": 3}).status_code == 404
    done = _finish(client, job["id"])
    assert any("no denoising steps" in note["text"] for note in done["notes"])
    assert (done["size_asked"], done["changes"]) == ("auto", [])


def test_state_leaves_out_a_list_that_has_not_changed(server: Server) -> None:
    first = httpx.get(server.url + "/api/state").json()
    assert first["engine"]["name"] == "portrait"
    assert len(first["jobs"]) == min(60, first["num_jobs"])
    second = httpx.get(server.url + "/api/state", params={"seen": first["jobs_tag"]}).json()
    assert second["jobs"] is None


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://elsewhere.example"},
    ],
)
def test_other_sites_cannot_stop_or_delete(server: Server, headers: dict[str, str]) -> None:
    assert httpx.delete(f"{server.url}/api/jobs/any", headers=headers).status_code == 403
    assert httpx.post(f"{server.url}/api/jobs/any/stop", headers=headers).status_code == 403
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert httpx.delete(f"{server.url}/api/jobs/any", headers=own).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/studio/samples/samples.json",
        "/studio/../app.py",
        "/studio/..%2fapp.py",
        "/gradio_api/file=/etc/passwd",
    ],
)
def test_files_that_are_not_the_page_are_not_served(server: Server, path: str) -> None:
    assert httpx.get(server.url + path).status_code in (403, 404)


def test_a_bad_offset(server: Server, client: Client, files: dict[str, Any]) -> None:
    job = client.predict(**files, prompt="pace=300", api_name="/submit")
    for offset in ("x", "-1"):
        assert httpx.get(server.url + job["media_url"], params={"offset": offset}).status_code == 400


def test_visitors_see_only_their_own(visitors: Server, files: dict[str, Any]) -> None:
    ann, bob = (Client(visitors.url, verbose=False, headers=_cookie(name)) for name in "ab")
    job = ann.predict(**files, prompt="pace=300", api_name="/submit")
    assert _finish(ann, job["id"])["state"] == "finished"
    assert bob.predict(api_name="/list_jobs") == []
    with pytest.raises(Exception, match="no job with this id"):
        bob.predict(job["id"], api_name="/job_status")
    for what in ("media", "video", "poster", "portrait"):
        url = f"{visitors.url}/api/jobs/{job['id']}/{what}"
        assert httpx.get(url, headers=_cookie("a")).status_code == 200
        assert httpx.get(url, headers=_cookie("b")).status_code == 404
        assert httpx.get(url).status_code == 404
    assert httpx.delete(f"{visitors.url}/api/jobs/{job['id']}", headers=_cookie("b")).status_code == 404
    assert httpx.get(visitors.url + "/api/state", headers=_cookie("b")).json()["jobs"] == []
    assert len(httpx.get(visitors.url + "/api/state", headers=_cookie("a")).json()["jobs"]) == 1


def test_a_new_visitor_gets_a_cookie_that_scripts_cannot_read(visitors: Server) -> None:
    cookie = httpx.get(visitors.url + "/api/state").headers["set-cookie"]
    assert re.match(r"liveavatar_visitor=[0-9a-f]{32}; ", cookie)
    assert "HttpOnly" in cookie
    behind_https = httpx.get(visitors.url + "/api/state", headers={"x-forwarded-proto": "https"})
    assert "SameSite=None; Secure; Partitioned" in behind_https.headers["set-cookie"]


def test_a_login_protects_the_own_routes_too(guarded: Server) -> None:
    job_paths = ["/api/jobs/any/media", "/api/jobs/any/video", "/api/jobs/any/poster"]
    paths = ["/api/state", "/metrics", *job_paths, "/config"]
    with httpx.Client(base_url=guarded.url) as browser:
        assert {path: browser.get(path).status_code for path in paths} == dict.fromkeys(paths, 401)
        assert browser.delete("/api/jobs/any").status_code == 401
        browser.post("/login", data={"username": "ann", "password": "secret"}).raise_for_status()
        assert browser.get("/api/state").status_code == 200
        assert browser.get("/metrics").status_code == 200
        assert browser.get("/api/jobs/any/video").status_code == 404


def test_many_viewers_at_once(server: Server, client: Client, files: dict[str, Any]) -> None:
    job = client.predict(**files, prompt="pace=10", api_name="/submit")
    answers: list[int] = []

    def watch() -> None:
        answers.append(httpx.get(server.url + job["media_url"], timeout=120).status_code)

    viewers = [threading.Thread(target=watch) for _ in range(50)]
    for viewer in viewers:
        viewer.start()
    assert httpx.get(server.url + "/api/state", timeout=60).status_code == 200
    for viewer in viewers:
        viewer.join(120)
    assert answers == [200] * 50
    client.predict(job["id"], api_name="/cancel_job")


@pytest.mark.skipif(not load_samples().portraits, reason="there are no sample portraits in assets/samples")
def test_the_examples_of_the_documentation_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).resolve().parents[2]
    examples = re.findall(
        r"```python\n(.*?)```", (root / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL
    )
    code = (
        "\n".join(examples).replace("http://127.0.0.1:7860", server.url).replace("assets/", f"{root}/assets/")
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/api.md", "exec"), {})
    for name in ("avatar.mp4", "live.mp4"):
        assert (tmp_path / name).read_bytes()[4:8] == b"ftyp"


def _cookie(letter: str) -> dict[str, str]:
    return {"cookie": f"liveavatar_visitor={letter * 32}"}
