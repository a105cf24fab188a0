// The machine: a gauge per graphics card, or plain words that there is none, and the machine's own memory.

import { facts, gigabytes, h, setText } from "./dom.js";
import { CardGauge } from "./gauge.js";
import { sentences } from "./remarks.js";
import { words } from "./strings.js";

const ALMOST_FULL = 0.97;

export class Machine {
  constructor(host) {
    this.badge = h("span", { class: "la-tag", hidden: true });
    this.text = h("p", { class: "la-muted" });
    this.warnings = h("div", { class: "warnings", role: "status" });
    this.cards = h("div", { class: "cards" });
    this.host = hostMeter();
    this.unknowns = h("div", { class: "unknowns" });
    host.classList.add("la-panel");
    host.setAttribute("role", "region");
    host.setAttribute("aria-label", words.machine);
    host.append(
      h("header", {}, h("h2", {}, words.machine), this.badge),
      this.text,
      this.warnings,
      this.cards,
      this.host.row,
      this.unknowns,
    );
    this.gauges = new Map();
  }

  update({ hardware, engine, sizes }) {
    const { gpus, warnings, unknowns } = hardware;
    const driverIsSilent = warnings.some(({ code }) => code === "driver_silent");
    const hasNone = !gpus.length && !unknowns.length && !driverIsSilent;
    const badge = hasNone ? words.noGpu : roomFor(sizes);
    this.badge.hidden = !badge;
    setText(this.badge, badge);
    setText(this.text, hasNone ? words.noGpuText : "");
    this.drawCards(gpus, engine.state === "busy");
    this.drawHost(hardware, engine);
    drawLines(this.warnings, sentences(warnings), "la-note warn");
    drawLines(this.unknowns, sentences(unknowns), "la-muted");
  }

  drawCards(gpus, isWorking) {
    for (const [index, gauge] of this.gauges) {
      if (gpus.some((gpu) => gpu.index === index)) continue;
      gauge.row.remove(); // unplugged, or the driver is gone
      this.gauges.delete(index);
    }
    gpus.forEach((gpu, position) => {
      let gauge = this.gauges.get(gpu.index);
      if (!gauge) {
        gauge = new CardGauge(gpu);
        this.gauges.set(gpu.index, gauge);
        this.cards.insertBefore(gauge.row, this.cards.children[position] ?? null);
      }
      gauge.update(gpu, isWorking);
    });
  }

  drawHost(hardware, engine) {
    const share = 1 - hardware.host_available_bytes / hardware.host_total_bytes;
    const isFull = share > ALMOST_FULL;
    const free = words.gpuFree(gigabytes(hardware.host_available_bytes), gigabytes(hardware.host_total_bytes));
    const { row, fill, bar, value, detail } = this.host;
    fill.style.width = `${100 * share}%`;
    row.dataset.level = isFull ? "full" : "ok";
    bar.setAttribute("aria-valuenow", Math.round(100 * share));
    bar.setAttribute("aria-valuetext", free);
    setText(value, isFull ? `${free}, ${words.almostFull}` : free);
    const details = [
      words.processor(hardware.num_cores),
      hardware.cpu_percent == null ? null : words.busy(Math.round(hardware.cpu_percent)),
      engine.rss_bytes ? words.engineUses(gigabytes(engine.rss_bytes)) : null,
      engine.state === "busy" && engine.block_s ? words.blockTime(engine.block_s, engine.block_target_s) : null,
    ];
    setText(detail, facts(details));
  }
}

/** Name the largest size that fits now; nothing where the built-in engine makes all videos. */
function roomFor(sizes) {
  const fitting = Object.values(sizes).filter(({ fits }) => fits);
  if (!fitting.length) return "";
  const area = ([width, height]) => width * height;
  const largest = fitting.reduce((best, each) => (area(each.made) > area(best.made) ? each : best));
  return words.roomFor(largest.made.join("×"));
}

function hostMeter() {
  const fill = h("i", { "data-kind": "host" });
  const bar = h(
    "div",
    { class: "bar", role: "meter", "aria-label": words.memory, "aria-valuemin": "0", "aria-valuemax": "100" },
    h("div", { class: "track" }, fill),
  );
  const value = h("span", { class: "value" });
  const detail = h("span", { class: "detail" });
  const label = h("span", { class: "label" }, h("b", {}, words.memory));
  return { row: h("div", { class: "meter" }, label, value, bar, detail), fill, bar, value, detail };
}

/** Keep one paragraph per line; those that stay are not touched, so that screen readers are not told them again. */
function drawLines(host, lines, kind) {
  while (host.children.length > lines.length) host.lastChild.remove();
  lines.forEach((line, index) => {
    const paragraph = host.children[index] ?? host.appendChild(h("p", { class: kind }));
    setText(paragraph, line);
  });
}
