"""The page's own routes: state, live media, videos, posters, and what a person does to a job."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from liveavatar.core.errors import LiveAvatarError
from liveavatar.core.job import Job
from liveavatar.monitoring.prometheus import CONTENT_TYPE
from ui import access, resubmit
from ui.metrics import studio_metrics
from ui.state import Json, describe, diagnosis_json, engine_json, page_state

if TYPE_CHECKING:
    from starlette.types import Scope

    from liveavatar.service.facade import Studio

ASSETS = Path(__file__).resolve().parent.parent / "assets"

_MEDIA_WAIT_S = 2.0
_MAX_LIVE_VIEWERS = 200  # each waits in a thread of its own, apart from the pool that Gradio's calls use
_PORTRAIT_SIDE = 1280  # pixels; enough to point at a mouth corner
_MAX_BODY_BYTES = 4096

Result = TypeVar("Result")
Handler = Callable[[Request, str], Awaitable[Response]]


class RevalidatedFiles(StaticFiles):
    """Scripts and styles that the browser keeps but asks about each time, so that an update shows at once."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response

    async def get_response(self, path: str, scope: Scope) -> Response:
        if Path(path).suffix not in {".js", ".css", ".svg", ".jpg", ".png"}:
            raise HTTPException(404)
        return await super().get_response(path, scope)


class StudioRoutes:
    """The handlers. Every one answers 404 for a job that does not exist or belongs to somebody else."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._viewers = anyio.CapacityLimiter(_MAX_LIVE_VIEWERS)

    def routes(self) -> list[BaseRoute]:
        """Return the routes for `launch(app_kwargs={"routes": ...})`."""
        safe, unsafe = self._guard, self._guard_against_other_sites
        return [
            Route("/healthz", self.healthz),
            Mount("/studio", RevalidatedFiles(directory=ASSETS)),
            Route("/metrics", safe(self.metrics)),
            Route("/api/state", safe(self.state)),
            Route("/api/jobs/{job_id}", unsafe(self.delete), methods=["DELETE"]),
            Route("/api/jobs/{job_id}/stop", unsafe(self.stop), methods=["POST"]),
            Route("/api/jobs/{job_id}/adjust", unsafe(self.adjust), methods=["POST"]),
            Route("/api/jobs/{job_id}/again", unsafe(self.again), methods=["POST"]),
            Route("/api/jobs/{job_id}/media", safe(self.media)),
            Route("/api/jobs/{job_id}/video", safe(self.video)),
            Route("/api/jobs/{job_id}/poster", safe(self.poster)),
            Route("/api/jobs/{job_id}/portrait", safe(self.portrait)),
        ]

    async def healthz(self, request: Request) -> Response:
        """Say that the page is served, and how the engine is. Open to everybody: it names no job."""
        engine = engine_json(self._studio)
        return JSONResponse({"ok": engine["state"] != "failed", "engine": engine["state"]})

    async def metrics(self, request: Request, owner: str) -> Response:
        """Answer a Prometheus server."""
        text = await anyio.to_thread.run_sync(studio_metrics, self._studio)
        return Response(text, headers={"content-type": CONTENT_TYPE})

    async def state(self, request: Request, owner: str) -> Response:
        """Answer the page's one poll."""

        def collect() -> Json:
            wanted = request.query_params.get("job", "")
            try:
                job = self._job(wanted, owner) if wanted else None
            except HTTPException:
                job = None
            seen = request.query_params.get("seen", "")
            return page_state(self._studio, job=job, owner=self._listed(owner), seen=seen)

        return JSONResponse(await anyio.to_thread.run_sync(collect), headers={"cache-control": "no-store"})

    async def media(self, request: Request, owner: str) -> Response:
        """Answer the next bytes of a growing video, after at most two seconds."""
        job_id = self._job(request.path_params["job_id"], owner).id
        try:
            offset = int(request.query_params.get("offset", "0"))
            piece = await self._in_viewer_thread(
                lambda: self._studio.read_media(job_id, offset, wait_s=_MEDIA_WAIT_S)
            )
        except ValueError as error:
            raise HTTPException(400, "offset must be a byte position within the video") from error
        except KeyError as error:
            raise HTTPException(404) from error
        headers = {
            "x-next-offset": str(piece.next_offset),
            "x-end": "1" if piece.ended else "0",
            "cache-control": "no-store",
        }
        return Response(piece.data, media_type="video/mp4", headers=headers)

    async def video(self, request: Request, owner: str) -> Response:
        """Serve the finished or partial file, with ranges, so that a player can seek in it."""
        job = self._job(request.path_params["job_id"], owner)
        path = self._studio.video_path(job.id)
        if path is None:
            raise HTTPException(404)
        name = time.strftime("liveavatar-%Y%m%d-%H%M%S.mp4", time.localtime(job.created_at))
        disposition = "attachment" if request.query_params.get("download") else "inline"
        return FileResponse(
            path,
            media_type="video/mp4",
            filename=name,
            content_disposition_type=disposition,
            headers={"cache-control": "private, no-cache"},
        )

    async def poster(self, request: Request, owner: str) -> Response:
        """Serve the small still picture of a job."""
        path = self._studio.poster_path(self._job(request.path_params["job_id"], owner).id)
        if path is None:
            raise HTTPException(404)
        return FileResponse(path, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def portrait(self, request: Request, owner: str) -> Response:
        """Serve the job's portrait, large enough to point at its features."""
        job = self._job(request.path_params["job_id"], owner)
        path = self._studio.portrait_path(job.id)
        if path is None:
            raise HTTPException(404)
        data = await anyio.to_thread.run_sync(_portrait_jpeg, path)
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    async def stop(self, request: Request, owner: str) -> Response:
        """End a job; what was made of it stays."""
        job = self._job(request.path_params["job_id"], owner)
        await anyio.to_thread.run_sync(self._studio.stop, job.id)
        return JSONResponse(describe(self._studio, self._studio.job(job.id)))

    async def delete(self, request: Request, owner: str) -> Response:
        """Remove a job and its files for good."""
        job = self._job(request.path_params["job_id"], owner)
        await anyio.to_thread.run_sync(self._studio.delete, job.id)
        return JSONResponse({"deleted": job.id})

    async def adjust(self, request: Request, owner: str) -> Response:
        """Have the rest of a running video made with other steps or another size."""
        job = self._job(request.path_params["job_id"], owner)
        try:
            wish = resubmit.parse_adjustment(await self._json_body(request))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        try:
            await anyio.to_thread.run_sync(lambda: self._studio.adjust(job.id, **wish))
        except LiveAvatarError as error:
            return JSONResponse({"diagnosis": diagnosis_json(error.diagnosis)}, status_code=422)
        return JSONResponse(describe(self._studio, self._studio.job(job.id)))

    async def again(self, request: Request, owner: str) -> Response:
        """Make a job once more from its own files, with what the operator pointed out meanwhile."""
        job = self._job(request.path_params["job_id"], owner)
        try:
            wishes = resubmit.parse_wishes(await self._json_body(request))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        try:
            new_job = await anyio.to_thread.run_sync(lambda: resubmit.submit_again(self._studio, job, wishes))
        except LiveAvatarError as error:
            return JSONResponse({"diagnosis": diagnosis_json(error.diagnosis)}, status_code=422)
        return JSONResponse(describe(self._studio, new_job))

    async def _json_body(self, request: Request) -> Any:
        """Return the parsed body, an empty one as {}. ValueError when it is not JSON."""
        body = await request.body()
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413)
        return json.loads(body or b"{}")

    def _listed(self, owner: str) -> str | None:
        return owner if self._studio.config.per_visitor else None

    def _job(self, job_id: str, owner: str) -> Job:
        try:
            job = self._studio.job(job_id)
        except KeyError as error:
            raise HTTPException(404) from error
        if self._studio.config.per_visitor and job.owner != owner:
            raise HTTPException(404)
        return job

    async def _in_viewer_thread(self, call: Callable[[], Result]) -> Result:
        return await anyio.to_thread.run_sync(call, limiter=self._viewers)

    def _guard(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: logged in, and, where visitors are kept apart, with the visitor's name."""

        async def endpoint(request: Request) -> Response:
            if not await access.is_logged_in(request):
                raise HTTPException(401)
            if not self._studio.config.per_visitor:
                return await handler(request, "")
            known = access.visitor_of(request.cookies)
            visitor = known or access.new_visitor()
            response = await handler(request, visitor)
            if not known:
                access.set_visitor_cookie(request, response, visitor)
            return response

        return endpoint

    def _guard_against_other_sites(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        guarded = self._guard(handler)

        async def endpoint(request: Request) -> Response:
            if access.is_from_another_site(request):
                raise HTTPException(403, "requests from other sites are refused")
            return await guarded(request)

        return endpoint


def _portrait_jpeg(path: Path) -> bytes:
    with Image.open(path) as picture:
        picture.thumbnail((_PORTRAIT_SIDE, _PORTRAIT_SIDE))
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
