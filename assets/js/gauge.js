// One graphics card: a bar of whose memory it is, its last two minutes, and how hard it works.

import { facts, gigabytes, h, setText, svg } from "./dom.js";
import { words } from "./strings.js";

const ALMOST_FULL = 0.97;
const VISIBLE_PEAK = 0.01; // of the card, above what is in use now
const HISTORY_POINTS = 60;
const SMALLEST_PART = 2 ** 26; // bytes; less is not worth a word

// Items of the engine, by the names of the forecast, in the groups that an operator is told of.
const GROUPS = {
  weights: "model",
  "gathered blocks": "model",
  "arriving blocks": "model",
  "key-value caches": "frames",
  "sink keys": "frames",
  "prompt keys": "frames",
  "decoder weights": "decoder",
  "decoder cache": "decoder",
  "speech encoder": "encoders",
  "text encoder": "encoders",
};

const OWN_KINDS = ["model", "frames", "decoder", "encoders", "working"];

export class CardGauge {
  constructor(gpu) {
    this.name = h("span", { class: "label" }, h("b", {}, words.gpu(gpu.index + 1)), ` ${gpu.name}`);
    this.value = h("span", { class: "value" });
    this.track = h("div", { class: "track" });
    this.peak = h("i", { class: "peak", hidden: true });
    this.need = h("i", { class: "need", hidden: true });
    this.bar = h(
      "div",
      {
        class: "bar",
        role: "meter",
        "aria-label": words.gpu(gpu.index + 1),
        "aria-valuemin": "0",
        "aria-valuemax": "100",
      },
      this.track,
      this.peak,
      this.need,
    );
    this.line = svg("path", {});
    const spark = svg("svg", {
      class: "spark",
      viewBox: `0 0 ${HISTORY_POINTS - 1} 100`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    spark.append(this.line);
    this.detail = h("span", { class: "detail" });
    this.parts = h("ul", { class: "parts" });
    this.needs = h("p", { class: "needs" });
    this.row = h(
      "div",
      { class: "meter card-gauge" },
      this.name,
      this.value,
      this.bar,
      this.parts,
      h("div", { class: "below" }, spark, this.detail),
      this.needs,
    );
  }

  update(gpu, isWorking) {
    const share = gpu.used_bytes / gpu.total_bytes;
    const isFull = share > ALMOST_FULL;
    const free = words.gpuFree(gigabytes(gpu.free_bytes), gigabytes(gpu.total_bytes));
    setText(this.value, isFull ? `${free}, ${words.almostFull}` : free);
    this.row.dataset.level = isFull ? "full" : "ok";
    this.bar.setAttribute("aria-valuenow", Math.round(100 * share));
    this.bar.setAttribute("aria-valuetext", free);
    const parts = partsOf(gpu);
    drawSegments(this.track, parts, gpu.total_bytes);
    drawParts(this.parts, parts);
    this.drawMarkers(gpu, isWorking);
    this.line.setAttribute("d", historyPath(gpu.history));
    const busiest = busiestLink(gpu);
    setText(this.detail, facts(words.usage(gpu.utilisation, gpu.temperature, gpu.power_w, busiest)));
  }

  drawMarkers(gpu, isWorking) {
    const hasPeak = gpu.peak_bytes > gpu.used_bytes + VISIBLE_PEAK * gpu.total_bytes;
    place(this.peak, hasPeak ? gpu.peak_bytes / gpu.total_bytes : null);
    this.peak.title = words.peak(gigabytes(gpu.peak_bytes));
    const others = gpu.other_bytes ?? 0;
    const isPlanned = gpu.needed_bytes != null;
    place(this.need, isPlanned ? (others + gpu.needed_bytes) / gpu.total_bytes : null);
    const isShort = isPlanned && others + gpu.needed_bytes > gpu.total_bytes;
    this.needs.classList.toggle("short", isShort);
    const notes = [
      isPlanned && (isWorking ? words.videoNeeds : words.nextVideoNeeds)(gigabytes(gpu.needed_bytes)),
      hasPeak && words.peak(gigabytes(gpu.peak_bytes)),
    ];
    setText(this.needs, facts(notes));
    this.needs.classList.toggle("planned", isPlanned);
    this.need.title = this.needs.textContent;
  }
}

/** Return what the bar is made of from left to right: others' memory, then ours. */
function partsOf(gpu) {
  if (gpu.own_bytes == null) return [{ kind: "unknown", name: words.inUse, bytes: gpu.used_bytes }];
  const parts = [];
  let unnamed = gpu.other_bytes;
  for (const program of gpu.programs) {
    parts.push({ kind: "others", name: program.name, bytes: program.bytes });
    unnamed -= program.bytes;
  }
  if (unnamed > 0) parts.push({ kind: "system", name: words.parts.system, bytes: unnamed });
  const groups = new Map(OWN_KINDS.map((kind) => [kind, 0]));
  for (const item of gpu.items) {
    const kind = GROUPS[item.name] ?? "working";
    groups.set(kind, groups.get(kind) + item.bytes);
  }
  if (!gpu.items.length) groups.set("ours", gpu.own_bytes);
  for (const [kind, bytes] of groups) if (bytes) parts.push({ kind, name: words.parts[kind], bytes });
  return parts;
}

function drawSegments(track, parts, total) {
  while (track.children.length > parts.length) track.lastChild.remove();
  while (track.children.length < parts.length) track.append(h("i", {}));
  parts.forEach((part, index) => {
    const segment = track.children[index];
    segment.dataset.kind = part.kind;
    segment.style.width = `${(100 * part.bytes) / total}%`;
    segment.title = words.part(part.name, gigabytes(part.bytes));
  });
}

function drawParts(list, parts) {
  const told = parts.filter((part) => part.bytes >= SMALLEST_PART);
  while (list.children.length > told.length) list.lastChild.remove();
  while (list.children.length < told.length) list.append(h("li", {}));
  told.forEach((part, index) => {
    const entry = list.children[index];
    entry.dataset.kind = part.kind;
    setText(entry, words.part(part.name, gigabytes(part.bytes)));
  });
}

function place(marker, share) {
  marker.hidden = share == null;
  if (share != null) marker.style.left = `${100 * Math.min(1, share)}%`;
}

/** Return the outline of the area below the curve; where nothing was read there is a gap. */
function historyPath(history) {
  const first = HISTORY_POINTS - history.length;
  const runs = [];
  history.forEach((percent, index) => {
    if (percent == null) return;
    const isFirst = index === 0 || history[index - 1] == null;
    if (isFirst) runs.push([]);
    runs.at(-1).push([first + index, 100 - percent]);
  });
  return runs
    .map((points) => {
      const line = points.map(([x, y]) => `L${x} ${y}`).join("");
      return `M${points[0][0]} 100${line}L${points.at(-1)[0]} 100Z`;
    })
    .join("");
}

function busiestLink(gpu) {
  const shares = [gpu.pcie, gpu.nvlink]
    .filter((link) => link?.limit)
    .map((link) => Math.max(link.sent, link.received) / link.limit);
  return shares.length ? Math.min(100, Math.round(100 * Math.max(...shares))) : null;
}
