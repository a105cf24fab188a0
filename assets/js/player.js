// Plays a video while it is being made: bytes come by long poll and go into a MediaSource.
//
// Playback starts when so much is there that it will not catch up with the engine (`neededAhead`); if the estimate
// was too good and the buffer runs dry, it waits in the same way once more.

import { fetchMedia, HttpError } from "./api.js";

const START_AHEAD_S = 0.45; // enough when the engine is faster than playback
const RATE_MARGIN = 1.08; // the engine's speed varies
const EXTRA_AHEAD_S = 0.6;
const DRY_S = 0.1;
const KEEP_BEHIND_S = 20;
const RETRY_FIRST_MS = 300;
const RETRY_MAX_MS = 4000;

const SourceClass = window.ManagedMediaSource || window.MediaSource;

/** Return the MIME type that the first bytes of an MP4 declare: the AVC profile stands after the "avcC" tag. */
export function mimeType(bytes) {
  const tag = [0x61, 0x76, 0x63, 0x43];
  const at = bytes.findIndex((_, i) => tag.every((value, k) => bytes[i + k] === value));
  const profile = at < 0 ? [0x4d, 0x40, 0x1f] : bytes.slice(at + 5, at + 8);
  const codec = Array.from(profile, (value) => value.toString(16).padStart(2, "0")).join("");
  return `video/mp4; codecs="avc1.${codec}, mp4a.40.2"`;
}

export class Player extends EventTarget {
  constructor(video) {
    super();
    this.video = video;
    this.phase = "empty"; // empty | buffering | playing | file
    this.run = null;
    this.isMuted = false; // by the viewer
    this.isSoundRefused = false; // by the browser
    this.estimate = { numFrames: 0, fps: 0, playFps: 25 };
    this.stats = { openedAt: 0, firstFrameMs: null, stalls: 0, retries: 0 };
    video.addEventListener("waiting", () => this.ranDry());
    video.addEventListener("ended", () => this.dispatchEvent(new Event("ended")));
  }

  get isLive() {
    return this.phase === "buffering" || this.phase === "playing";
  }

  /** Show nothing. */
  close() {
    this.run?.abort.abort();
    this.run = null;
    this.isSoundRefused = false;
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
    this.setPhase("empty");
  }

  /** Play a whole file, or only show it ready to play. */
  async openFile(url, { play }) {
    this.close();
    this.setPhase("file");
    this.video.src = url;
    if (play) await this.startPlaying();
  }

  /** Play a growing video from its beginning. Resolves when all of it has been received, or it cannot go on. */
  async openLive(jobId) {
    this.close();
    if (!SourceClass) return;
    const run = { jobId, abort: new AbortController(), complete: false, force: false };
    this.run = run;
    this.stats = { openedAt: performance.now(), firstFrameMs: null, stalls: 0, retries: 0 };
    this.noteFirstFrame(run);
    this.setPhase("buffering");
    try {
      await this.receive(run);
    } catch (error) {
      if (this.run !== run) return;
      this.close();
      this.dispatchEvent(new CustomEvent("unplayable", { detail: error }));
    }
  }

  async receive(run) {
    const source = new SourceClass();
    this.video.disableRemotePlayback = true;
    this.video.src = URL.createObjectURL(source);
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    URL.revokeObjectURL(this.video.src);
    let buffer = null;
    let offset = 0;
    while (this.run === run && !run.complete) {
      const piece = await this.nextPiece(run, offset);
      if (this.run !== run) return;
      if (piece.bytes.length) {
        buffer ??= source.addSourceBuffer(mimeType(piece.bytes));
        await this.append(buffer, piece.bytes);
      }
      offset = piece.nextOffset;
      run.complete = piece.ended;
      this.tick();
    }
    if (this.run === run && source.readyState === "open") source.endOfStream();
  }

  /**
   * Fetch with patience: a broken connection resumes at the same offset. When the growing video is no longer kept
   * (its finished file has taken its place), what came so far is played to its end.
   */
  async nextPiece(run, offset) {
    let pause = RETRY_FIRST_MS;
    while (this.run === run) {
      try {
        return await fetchMedia(run.jobId, offset, run.abort.signal);
      } catch (error) {
        if (run.abort.signal.aborted) break;
        if (error instanceof HttpError && error.status < 500) {
          if (offset === 0) throw error;
          break;
        }
        this.stats.retries += 1;
        await new Promise((resolve) => setTimeout(resolve, pause));
        pause = Math.min(RETRY_MAX_MS, pause * 2);
      }
    }
    return { bytes: new Uint8Array(), nextOffset: offset, ended: true };
  }

  async append(buffer, bytes) {
    const settled = () => new Promise((resolve) => buffer.addEventListener("updateend", resolve, { once: true }));
    try {
      buffer.appendBuffer(bytes);
    } catch (error) {
      const behind = this.video.currentTime - KEEP_BEHIND_S;
      if (error.name !== "QuotaExceededError" || behind <= 0) throw error;
      buffer.remove(0, behind);
      await settled();
      buffer.appendBuffer(bytes);
    }
    await settled();
  }

  /** Take note of how fast the engine works: as measured, else as predicted; `fps` is 0 while neither is known. */
  setEstimate(numFrames, fps, playFps) {
    this.estimate = { numFrames, fps, playFps };
    this.tick();
  }

  /** Seconds of video that lie ahead of the playhead. */
  ahead() {
    const ranges = this.video.buffered;
    return ranges.length ? ranges.end(ranges.length - 1) - this.video.currentTime : 0;
  }

  /** Seconds that must lie ahead so that playback never overtakes the engine. */
  neededAhead() {
    const { numFrames, fps, playFps } = this.estimate;
    if (!this.run || this.run.complete || this.run.force) return 0;
    const rate = fps > 0 ? fps / playFps : 1;
    const remaining = Math.max(0, numFrames / playFps - this.video.currentTime);
    if (rate >= 1) return Math.min(remaining, START_AHEAD_S);
    return Math.min(remaining, remaining * (1 - rate) * RATE_MARGIN + EXTRA_AHEAD_S);
  }

  /** Seconds until playback starts, or null when nothing has come yet. */
  secondsUntilPlay() {
    if (!this.video.buffered.length) return null;
    const { fps, playFps } = this.estimate;
    const rate = fps > 0 ? fps / playFps : 1;
    return Math.max(0, (this.neededAhead() - this.ahead()) / Math.max(0.1, rate));
  }

  /** Start with what there is, even if it will pause later. */
  playNow() {
    if (this.run) this.run.force = true;
    this.tick();
  }

  tick() {
    if (this.phase !== "buffering" || !this.video.buffered.length) return;
    if (this.ahead() < this.neededAhead()) return;
    this.setPhase("playing");
    this.startPlaying();
  }

  ranDry() {
    if (this.phase !== "playing" || this.run?.complete || this.ahead() > DRY_S) return;
    this.stats.stalls += 1;
    this.run.force = false;
    this.video.pause();
    this.setPhase("buffering");
  }

  /** Browsers refuse sound before the first click on a page; the picture then plays without it. */
  async startPlaying() {
    this.video.muted = this.isMuted;
    try {
      await this.video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      this.isSoundRefused = true;
      this.video.muted = true;
      await this.video.play().catch(() => {});
    }
  }

  /** Turn the sound off or on, of this video and of later ones. */
  setMuted(isMuted) {
    this.isMuted = isMuted;
    this.isSoundRefused = false;
    this.video.muted = isMuted;
  }

  noteFirstFrame(run) {
    this.video.requestVideoFrameCallback?.(() => {
      if (this.run === run) this.stats.firstFrameMs = performance.now() - this.stats.openedAt;
    });
  }

  setPhase(phase) {
    if (this.phase === phase) return;
    this.phase = phase;
    this.dispatchEvent(new Event("phase"));
  }
}
