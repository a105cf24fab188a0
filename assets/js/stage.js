// The stage: the video while it is made and after, what is going on, and what to do when it failed.

import { downloadUrl, makeAgain, posterUrl, stopJob, videoUrl } from "./api.js";
import { ClickGuide } from "./clicks.js";
import { clock, h, icon, setText, sizeText } from "./dom.js";
import { Knobs } from "./knobs.js";
import { Player } from "./player.js";
import { words } from "./strings.js";
import { joined, noteText, problemText } from "./translation.js";

const REDRAW_MS = 250; // the countdown before playback
const NEEDS_CLICKS = new Set(["no_face", "bad_clicks"]);

export class Stage {
  /**
   * @param {{attach: (id: string) => void, detach: () => void, changed: () => void, idleCards: Element}} actions
   */
  constructor(host, actions) {
    this.actions = actions;
    this.host = host;
    this.jobId = null;
    this.job = null;
    this.isSending = false; // a video was asked for, and the app has not answered yet
    this.opened = null; // "live" or "file": what the player was last told to open for this job
    this.playWhenReady = false;
    this.guide = null;
    this.build();
    this.player = new Player(this.video);
    this.player.addEventListener("phase", () => this.draw());
    this.player.addEventListener("ended", () => this.draw());
    this.video.addEventListener("volumechange", () => this.draw());
    this.player.addEventListener("unplayable", () => this.actions.changed());
    this.video.addEventListener("resize", () => this.setShape(this.video.videoWidth, this.video.videoHeight));
    this.video.addEventListener("timeupdate", () => this.movePlayhead());
    setInterval(() => this.view === "waiting" && this.draw(), REDRAW_MS);
    this.draw();
  }

  build() {
    const button = (className, label, iconName, onclick) =>
      h("button", { type: "button", class: `la-button ${className}`, onclick }, iconName && icon(iconName), label);
    this.video = h("video", { playsinline: true, "aria-label": words.video });
    this.backdrop = h("div", { class: "backdrop" });
    this.live = h("span", { class: "live" }, words.live);
    this.soundLabel = h("span", {});
    this.soundButton = button("sound", this.soundLabel, "sound", () => this.player.setMuted(!this.video.muted));
    this.overlay = h("div", { class: "overlay" });
    this.screen = h("div", { class: "screen" }, this.backdrop, this.video, this.live, this.overlay, this.soundButton);

    this.stateText = h("b", { class: "state" });
    this.facts = h("span", { class: "facts" });
    this.stopButton = button("stop", words.stop, "stop", () => this.stop());
    this.againButton = button("again", words.again, "again", () => this.playAgain());
    this.downloadLink = h("a", { class: "la-button primary download", download: true }, icon("download"), words.download);
    this.fill = h("i", {});
    this.playhead = h("em", {});
    this.bar = h(
      "div",
      { class: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": words.running },
      this.fill,
      this.playhead,
    );
    this.knobs = new Knobs();
    this.notes = h("div", { class: "notes" });
    this.strip = h(
      "div",
      { class: "strip" },
      h(
        "div",
        { class: "line" },
        h("div", { class: "status" }, this.stateText, this.facts),
        h("div", { class: "buttons" }, this.stopButton, this.againButton, this.downloadLink),
      ),
      this.bar,
      this.knobs.element,
      this.notes,
    );
    this.announcer = h("div", { class: "la-hidden", role: "status", "aria-live": "polite" });
    this.host.setAttribute("role", "region");
    this.host.setAttribute("aria-label", words.stage);
    this.host.append(this.screen, this.strip, this.announcer);
    this.buildOverlays(button);
  }

  buildOverlays(button) {
    this.waitTitle = h("b", {});
    this.waitText = h("p", {});
    this.playNowButton = button("ghost", words.playNow, "play", () => this.player.playNow());
    this.cards = {
      idle: h("div", { class: "card idle" }, h("b", {}, words.idleTitle), h("p", {}, words.idleText), this.actions.idleCards),
      waiting: h("div", { class: "card waiting" }, h("i", { class: "spinner" }), this.waitTitle, this.waitText, this.playNowButton),
    };
    this.failure = null;
  }

  /** Follow a job; its first state decides whether it is played live or from its file. */
  show(jobId, { play }) {
    this.closeGuide();
    this.jobId = jobId;
    this.job = null;
    this.opened = null;
    this.playWhenReady = play;
    this.failure = null;
    this.player.close();
    this.draw();
  }

  /** Return to the empty stage. */
  clear() {
    this.show(null, { play: false });
  }

  /** Say at once, where nothing else is shown, that a click was heard. */
  setSending(isSending) {
    this.isSending = isSending;
    this.draw();
  }

  /** Draw the job; `loading` is what the engine does before it can begin, or null. */
  update(job, loading = null) {
    if (!this.jobId || (job && job.id !== this.jobId)) return;
    if (!job) {
      this.actions.detach();
      return;
    }
    if (this.job?.state !== job.state) setText(this.announcer, stateWord(job));
    this.job = job;
    this.loading = loading;
    this.openWhatThereIs();
    this.player.setEstimate(job.num_frames, job.fps || job.predicted_fps || 0, job.play_fps);
    this.draw();
  }

  openWhatThereIs() {
    const { job } = this;
    if (job.active && !this.opened) {
      this.opened = "live";
      this.player.openLive(job.id);
    } else if (!job.active && job.has_video && this.opened !== "file" && !this.player.isLive) {
      const play = this.playWhenReady || this.opened === "live";
      this.opened = "file";
      this.player.openFile(videoUrl(job.id), { play });
    }
  }

  get view() {
    const { job, player } = this;
    if (this.guide) return "clicks";
    if (!this.jobId) return this.isSending ? "waiting" : "idle";
    if (!job) return "waiting";
    if (!job.active && !job.has_video) return job.state === "failed" ? "failed" : "nothing";
    if (player.phase === "buffering" || player.phase === "empty") return "waiting";
    return "video";
  }

  draw() {
    const { job, view, player } = this;
    this.host.dataset.view = view;
    this.host.classList.toggle("is-live", Boolean(job?.active && player.phase === "playing"));
    this.drawOverlay(view);
    this.drawControls(view);
    this.strip.hidden = !job || view === "clicks" || view === "failed";
    if (!job) {
      this.backdrop.style.backgroundImage = "";
      if (!this.jobId) this.setShape(16, 9);
      return;
    }
    if (!this.backdrop.style.backgroundImage) this.backdrop.style.backgroundImage = `url("${posterUrl(job.id)}")`;
    if (!this.video.videoWidth && job.size.includes("*")) this.setShape(...job.size.split("*"));
    this.drawStrip(job);
  }

  drawOverlay(view) {
    let content = null;
    if (view === "idle") content = this.cards.idle;
    else if (view === "waiting") content = this.drawWaiting();
    else if (view === "clicks") content = this.guide.element;
    else if (view === "failed") content = this.failure ??= this.failureCard();
    else if (view === "nothing") content = h("div", { class: "card" }, h("p", {}, words.nothingKept));
    if (this.overlay.firstChild !== content) this.overlay.replaceChildren(...(content ? [content] : []));
    this.overlay.hidden = !content;
  }

  /** A video that is still being made has no controls but for its sound; a browser may refuse sound before a click. */
  drawControls(view) {
    const { video, player } = this;
    video.controls = player.phase === "file" || (!this.job?.active && video.ended);
    this.soundButton.hidden = view !== "video" || (video.controls && !player.isSoundRefused);
    this.soundButton.classList.toggle("primary", player.isSoundRefused);
    setText(this.soundLabel, video.muted ? words.soundOn : words.soundOff);
  }

  drawWaiting() {
    const seconds = this.player.secondsUntilPlay();
    const [title, text] = this.job ? waitingWords(this.job, this.loading, seconds) : [this.isSending ? words.sending : "", ""];
    setText(this.waitTitle, title);
    setText(this.waitText, text);
    this.playNowButton.hidden = !(this.job && seconds > 1);
    return this.cards.waiting;
  }

  drawStrip(job) {
    const share = job.num_frames ? job.frames_done / job.num_frames : 0;
    setText(this.stateText, stateWord(job));
    this.drawFacts(job, share);
    this.fill.style.width = `${100 * (job.state === "finished" ? 1 : share)}%`;
    this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
    this.bar.hidden = job.state === "finished";
    this.bar.classList.toggle("unknown", job.active && job.state !== "queued" && job.frames_done === 0);
    this.stopButton.hidden = !job.active;
    this.stopButton.disabled = job.stop_requested;
    this.againButton.hidden = this.downloadLink.hidden = job.active || !job.has_video;
    this.downloadLink.href = downloadUrl(job.id);
    this.knobs.update(job);
    this.drawNotes(job);
  }

  drawFacts(job, share) {
    const facts = [];
    if (job.state === "running") {
      facts.push(`${Math.round(100 * share)} %`);
      if (job.seconds_left != null) facts.push(words.left(clock(job.seconds_left)));
      facts.push([words.frames(job.frames_done, job.num_frames), "detail"]);
    } else if (!job.active) facts.push(clock(job.frames_done / job.play_fps));
    if (job.size.includes("*")) facts.push([sizeText(job.size), job.active ? "detail" : ""]);
    // Beside a finished video's length and size, a bare rate would read as the rate it plays at.
    if (job.fps) facts.push([(job.active ? words.fps : words.madeAt)(Math.round(job.fps)), "detail"]);
    const shown = facts.map((fact) => (Array.isArray(fact) ? fact : [fact, ""]));
    if (this.facts.dataset.shown === JSON.stringify(shown)) return;
    this.facts.dataset.shown = JSON.stringify(shown);
    this.facts.replaceChildren(...shown.map(([text, className]) => h("span", { class: className }, text)));
  }

  drawNotes(job) {
    const notes = job.notes.map((note) => ["info", noteText(note)]);
    if (job.state === "cancelled" && job.has_video) notes.push(["info", words.partKept]);
    if (job.state === "failed" && job.diagnosis) notes.push(["error", joined(problemText(job.diagnosis))]);
    const key = JSON.stringify(notes);
    if (this.notes.dataset.key === key) return;
    this.notes.dataset.key = key;
    this.notes.replaceChildren(...notes.map(([kind, text]) => h("p", { class: `la-note ${kind}` }, text)));
    if (job.state === "failed") this.notes.append(this.actionButtons(job));
  }

  failureCard() {
    const { job } = this;
    const [title, cause, remedy] = job.diagnosis ? problemText(job.diagnosis) : [words.failed, "", ""];
    return h(
      "div",
      { class: "card failure", role: "alert" },
      h("span", { class: "sign" }, icon("warning")),
      h("b", {}, title),
      cause && h("p", {}, cause),
      remedy && h("p", {}, remedy),
      this.actionButtons(job),
      h(
        "button",
        { type: "button", class: "la-icon-button dismiss", "aria-label": words.dismiss, onclick: () => this.actions.detach() },
        icon("close"),
      ),
    );
  }

  actionButtons(job) {
    const button = (className, label, onclick) => h("button", { type: "button", class: `la-button ${className}`, onclick }, label);
    const buttons = [];
    if (NEEDS_CLICKS.has(job.diagnosis?.code)) {
      buttons.push(button("primary show-face", words.showFace, () => this.openGuide()));
      buttons.push(button("whole-picture", words.wholePicture, () => this.retry({ whole_picture: true })));
    } else buttons.push(button("primary try-again", words.tryAgain, () => this.retry({})));
    return h("div", { class: "buttons" }, ...buttons);
  }

  openGuide() {
    this.guide = new ClickGuide(this.jobId, {
      done: (clicks) => this.retry({ clicks }),
      cancel: () => {
        this.closeGuide();
        this.draw();
        this.overlay.querySelector(".show-face")?.focus();
      },
    });
    this.draw();
    this.guide.focus();
  }

  closeGuide() {
    this.guide = null;
  }

  async retry(wishes) {
    const answer = await makeAgain(this.jobId, wishes).catch(() => null);
    if (answer?.id) this.actions.attach(answer.id);
    else this.actions.problem(answer?.diagnosis ?? null);
  }

  async stop() {
    this.stopButton.disabled = true;
    try {
      await stopJob(this.jobId);
    } catch {
      this.stopButton.disabled = false;
      this.actions.problem(null);
    }
    this.actions.changed();
  }

  playAgain() {
    this.opened = "file";
    this.player.openFile(videoUrl(this.jobId), { play: true });
  }

  setShape(width, height) {
    if (width && height) this.screen.style.setProperty("--shape", `${width} / ${height}`);
  }

  movePlayhead() {
    const { job } = this;
    if (!job) return;
    const share = (this.video.currentTime * job.play_fps) / Math.max(1, job.num_frames);
    this.playhead.style.left = `${100 * Math.min(1, share)}%`;
  }
}

function stateWord(job) {
  return job.active && job.stop_requested ? words.stopping : words[job.state];
}

/** Return what to say of a video that does not play yet: [title, text]. */
function waitingWords(job, loading, secondsUntilPlay) {
  if (job.state === "queued") return [stateWord(job), job.queue_position <= 1 ? words.youAreNext : words.aheadOfYou(job.queue_position)];
  if (job.state === "running") {
    const playsIn = secondsUntilPlay == null ? words.firstFrames : words.playsIn(Math.max(1, Math.ceil(secondsUntilPlay)));
    return [stateWord(job), playsIn];
  }
  return [words.loadStages[loading] ?? stateWord(job), loading === "compiling" ? words.compilingTakes : ""];
}
