// Puts the page's own parts in their places and connects them with Gradio's fields.

import { h, icon, setText, whenPresent } from "./dom.js";
import { checkFiles } from "./files.js";
import { groupRadios, nameSources } from "./inputs.js";
import { Machine } from "./machine.js";
import { Poller } from "./poller.js";
import { portraitRow, readSamples, stageCards, voiceChips } from "./samples.js";
import { drawForecasts, followPortraitShape } from "./sizes.js";
import { Stage } from "./stage.js";
import { locale, words } from "./strings.js";
import { joined, problemText } from "./translation.js";
import { Videos } from "./videos.js";

const JOB_KEY = "liveavatar-job";
const STACKED_WIDTH = 960; // pixels; below, as in the style sheets, the columns lie above each other
const LOST_AFTER = 2; // failures in a row before the page says so

let samples;
let stage;
let machine;
let videos;
let pill;
let banner;
let lastState = null;

const poller = new Poller(
  (state) => {
    lastState = state;
    stage.update(state.job, state.engine.loading);
    machine.update(state);
    drawForecasts(state.sizes);
    videos.update(state.jobs, state.num_jobs, poller.jobId);
    drawPill(state, 0);
  },
  (failures) => drawPill(lastState, failures),
);

function drawPill(state, failures) {
  let [kind, text] = ["busy", words.starting];
  if (failures >= LOST_AFTER) [kind, text] = ["error", words.lost];
  else if (state) [kind, text] = engineWords(state);
  const isTold = stage.view === "failed"; // the stage says the same, larger
  const broken = state?.engine.state === "failed" && !isTold ? state.engine.diagnosis : null;
  setText(banner, broken ? joined(problemText(broken)) : "");
  pill.dataset.kind = kind;
  setText(pill.lastChild, text);
  document.body.classList.toggle("la-offline", failures >= LOST_AFTER);
}

function engineWords({ engine, num_active, num_waiting }) {
  if (engine.state === "failed") return ["error", words.engineFailed];
  if (engine.state === "restarting") return ["busy", words.restarting];
  if (num_active && !engine.loading) return ["busy", num_waiting ? `${words.working} · ${words.inLine(num_waiting)}` : words.working];
  return engine.state === "starting" || engine.loading ? ["busy", loadingWords(engine)] : ["ok", words.ready];
}

function loadingWords({ loading }) {
  return words.loadStages[loading] ?? words.starting;
}

/** Follow a job on the stage; remembered in the address and in this tab, so that a reload finds it again. */
function attach(jobId, { play = true, scroll = false } = {}) {
  sessionStorage.setItem(JOB_KEY, jobId);
  setAddress(jobId);
  stage.show(jobId, { play });
  if (scroll) bringIntoView();
  return poller.watch(jobId);
}

function detach() {
  sessionStorage.removeItem(JOB_KEY);
  setAddress(null);
  stage.clear();
  return poller.watch(null);
}

function setAddress(jobId) {
  const address = new URL(location);
  if (jobId) address.searchParams.set("job", jobId);
  else address.searchParams.delete("job");
  history.replaceState(history.state, "", address);
}

function isStacked() {
  return innerWidth <= STACKED_WIDTH;
}

function bringIntoView() {
  const box = stage.host.getBoundingClientRect();
  if (!isStacked() && box.top >= 0 && box.top < innerHeight / 2) return;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  stage.host.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

/** Show above the Generate button what has to be mended, and mark the field. */
function showProblem(diagnosis) {
  const host = document.getElementById("studio-problem");
  document.querySelectorAll(".la-wrong").forEach((element) => element.classList.remove("la-wrong"));
  if (!diagnosis) {
    host.replaceChildren();
    return;
  }
  const [title, cause, remedy] = problemText(diagnosis);
  const close = h(
    "button",
    { type: "button", class: "la-icon-button", "aria-label": words.dismiss, onclick: () => showProblem(null) },
    icon("close"),
  );
  const text = h("div", {}, h("b", {}, title), " ", joined([cause, remedy]));
  host.replaceChildren(h("div", { class: "la-note error problem", role: "alert" }, text, close));
  const field = fieldOf(diagnosis.code);
  field?.classList.add("la-wrong");
  if (!isStacked()) field?.scrollIntoView({ block: "nearest" }); // else the sentence itself must stay in view
}

function fieldOf(code) {
  const fields = [
    [/picture/, "studio-portrait"],
    [/voice|sound/, "studio-voice"],
    [/prompt/, "studio-prompt"],
    [/size/, "studio-size"],
    [/engine_unavailable|no_graphics_card|unknown_engine|seed/, "studio-more"],
  ];
  const found = fields.find(([pattern]) => pattern.test(code));
  return found ? document.getElementById(found[1]) : null;
}

/** Show at once that a click was heard. */
function setSending(sending) {
  stage?.setSending(sending);
  const button = document.getElementById("studio-generate");
  button.setAttribute("aria-busy", sending);
  button.classList.toggle("la-busy", sending);
}

/** What Gradio's events call; see ui/page.py. */
window.studio = {
  choice: "",
  submitting() {
    showProblem(null);
    setSending(true);
    this.clickedAt = performance.now();
  },
  submitted(ticket) {
    const job = ticket?.job;
    if (job) {
      attach(job.id, { scroll: true });
      stage.update(job);
    } else showProblem(ticket?.problem ?? { code: "network", title: words.networkProblem, cause: "", remedy: "" });
    setSending(false);
  },
  modelChecked({ problem, is_named }) {
    const done = is_named ? words.modelIsUsed : words.noModelIsUsed;
    const host = document.getElementById("studio-model-answer");
    host.replaceChildren(h("p", { role: "status" }, problem ? joined(problemText(problem)) : done));
  },
};

function press(elementId, choice) {
  window.studio.choice = choice;
  document.getElementById(elementId).click();
}

function fillSample(choice) {
  showProblem(null);
  press("studio-fill", choice);
}

function trySample(choice) {
  window.studio.submitting();
  press("studio-try", choice);
}

function drawTop(host) {
  pill = h("div", { class: "pill", role: "status", "aria-live": "polite" }, h("i", {}), h("span", {}, words.starting));
  host.append(h("div", { class: "brand" }, h("span", { class: "logo", "aria-hidden": "true" }), h("h1", {}, "LiveAvatar Studio")), pill);
}

async function drawInputs(voices) {
  if (samples.portraits.length) (await whenPresent("studio-samples")).append(portraitRow(samples, fillSample));
  if (samples.voices.length) voices.append(voiceChips(samples, fillSample));
  followPortraitShape(samples.tiers);
  nameSources();
  groupRadios(await whenPresent("studio-fields"));
  checkFiles({
    portrait: await whenPresent("studio-portrait"),
    voice: await whenPresent("studio-voice"),
    maxBytes: samples.maxUploadBytes,
    tell: showProblem,
  });
  if (!navigator.mediaDevices) voices.append(h("p", { class: "la-muted" }, words.microphoneHint));
}

const PLACES = [
  "studio-data",
  "studio-top",
  "studio-stage",
  "studio-machine",
  "studio-videos",
  "studio-portrait",
  "studio-voices",
  "studio-size",
  "studio-problem",
  "studio-generate",
];

async function start() {
  const found = await Promise.all(PLACES.map(whenPresent)); // Gradio draws its parts in no certain order
  const hosts = Object.fromEntries(PLACES.map((id, index) => [id, found[index]]));
  document.documentElement.lang = locale ?? "en"; // which glyphs are drawn, and how it is read aloud
  samples = readSamples(hosts["studio-data"]);
  drawTop(hosts["studio-top"]);
  await drawInputs(hosts["studio-voices"]);
  banner = h("p", { class: "la-note error banner", role: "alert" });
  hosts["studio-stage"].before(banner);
  stage = new Stage(hosts["studio-stage"], {
    attach: (id) => attach(id),
    detach,
    changed: () => poller.pollNow(),
    problem: (diagnosis) => window.studio.submitted({ problem: diagnosis ?? undefined }),
    idleCards: idleCards(),
  });
  machine = new Machine(hosts["studio-machine"]);
  videos = new Videos(hosts["studio-videos"], samples.keepDays, {
    open: (id) => attach(id, { scroll: true }),
    deleted: (id) => (id === poller.jobId ? detach() : poller.pollNow()),
  });
  Object.assign(window.studio, { stage, poller });
  const remembered = new URLSearchParams(location.search).get("job") ?? sessionStorage.getItem(JOB_KEY);
  if (remembered) attach(remembered, { play: false });
  await poller.start();
  document.body.classList.add("la-started");
}

function idleCards() {
  if (!samples.portraits.length) return null;
  return h("div", {}, h("p", { class: "or" }, words.idleSamples), stageCards(samples, trySample));
}

start();
