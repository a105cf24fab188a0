// The app's own routes. Addresses are relative to this script, so that the page works below any path.

const BASE = new URL("../../", import.meta.url);

const route = (path) => new URL(path, BASE);
const jobRoute = (id, what = "") => route(`api/jobs/${encodeURIComponent(id)}${what}`);

export const assetUrl = (path) => route(`studio/${path}`).href;
export const videoUrl = (id) => jobRoute(id, "/video").href;
export const downloadUrl = (id) => jobRoute(id, "/video?download=1").href;
export const posterUrl = (id) => jobRoute(id, "/poster").href;
export const portraitUrl = (id) => jobRoute(id, "/portrait").href;

/** The server answered, but not with what was asked for. */
export class HttpError extends Error {
  constructor(status) {
    super(`the server answered ${status}`);
    this.status = status;
  }
}

async function ask(url, options = {}) {
  const response = await fetch(url, { credentials: "same-origin", ...options });
  if (!response.ok && response.status !== 422) throw new HttpError(response.status);
  return response;
}

export async function fetchState(jobId, seen, signal) {
  const url = route("api/state");
  if (jobId) url.searchParams.set("job", jobId);
  if (seen) url.searchParams.set("seen", seen);
  return (await ask(url, { signal })).json();
}

/** Ask for the bytes of a growing video from `offset` on. Answers within about two seconds. */
export async function fetchMedia(jobId, offset, signal) {
  const response = await ask(jobRoute(jobId, `/media?offset=${offset}`), { signal });
  return {
    bytes: new Uint8Array(await response.arrayBuffer()),
    nextOffset: Number(response.headers.get("X-Next-Offset")),
    ended: response.headers.get("X-End") === "1",
  };
}

export const stopJob = (id) => ask(jobRoute(id, "/stop"), { method: "POST" });
export const deleteJob = (id) => ask(jobRoute(id), { method: "DELETE" });

async function post(url, wishes) {
  const options = {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(wishes),
  };
  return (await ask(url, options)).json();
}

/** Make a job once more from its own files. Answers the new job, or {diagnosis} when it was refused. */
export const makeAgain = (id, wishes) => post(jobRoute(id, "/again"), wishes);

/** Have the rest of a running job made with other `steps` or `size`. Answers the job, or {diagnosis}. */
export const adjustJob = (id, wishes) => post(jobRoute(id, "/adjust"), wishes);
