// The machine: memory of each graphics card, or plain words that there is none, and the machine's own memory.

import { gigabytes, h, setText } from "./dom.js";
import { words } from "./strings.js";

const ALMOST_FULL = 0.97;
const CROWDED_FREE = 0.25; // a card with less free than this while another has twice as much is the bottleneck

export class Machine {
  constructor(host) {
    this.badge = h("span", { class: "la-tag", hidden: true });
    this.text = h("p", { class: "la-muted" });
    this.bars = h("div", { class: "bars" });
    this.warning = h("p", { class: "la-note warn", role: "status" });
    host.classList.add("la-panel");
    host.setAttribute("role", "region");
    host.setAttribute("aria-label", words.machine);
    host.append(h("header", {}, h("h2", {}, words.machine), this.badge), this.text, this.warning, this.bars);
    this.meters = new Map();
  }

  update({ hardware, engine }) {
    const { gpus } = hardware;
    this.badge.hidden = gpus.length > 0;
    setText(this.badge, words.noGpu);
    setText(this.text, gpus.length ? "" : words.noGpuText);
    const shown = new Set();
    for (const gpu of gpus) {
      shown.add(`gpu${gpu.index}`);
      const detail = [gpu.name, ...words.usage(gpu.utilisation, gpu.temperature)].filter(Boolean).join(" · ");
      this.meter(`gpu${gpu.index}`, words.gpu(gpu.index + 1), gpu.used_bytes, gpu.total_bytes, gpu.free_bytes, detail);
    }
    shown.add("host");
    const used = hardware.host_total_bytes - hardware.host_available_bytes;
    const detail = [
      `${words.processor}: ${words.cores(hardware.num_cores)}`,
      engine.rss_bytes ? words.engineUses(gigabytes(engine.rss_bytes)) : null,
    ];
    this.meter(
      "host",
      words.memory,
      used,
      hardware.host_total_bytes,
      hardware.host_available_bytes,
      detail.filter(Boolean).join(" · "),
    );
    for (const [key, meter] of this.meters) {
      if (!shown.has(key)) {
        meter.row.remove();
        this.meters.delete(key);
      }
    }
    setText(this.warning, bottleneck(gpus));
  }

  meter(key, label, used, total, free, detail) {
    let meter = this.meters.get(key);
    if (!meter) {
      meter = buildMeter(label);
      this.meters.set(key, meter);
      this.bars.append(meter.row);
    }
    const share = total ? used / total : 0;
    const text = words.gpuFree(gigabytes(free), gigabytes(total));
    meter.fill.style.width = `${100 * Math.min(1, share)}%`;
    meter.row.dataset.level = share > ALMOST_FULL ? "full" : "ok";
    meter.track.setAttribute("aria-valuenow", Math.round(100 * share));
    meter.track.setAttribute("aria-valuetext", text);
    setText(meter.value, share > ALMOST_FULL ? `${text}, ${words.almostFull}` : text);
    setText(meter.detail, detail);
  }
}

function buildMeter(label) {
  const fill = h("i", {});
  const track = h(
    "div",
    { class: "track", role: "meter", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "100" },
    fill,
  );
  const value = h("span", { class: "value" });
  const detail = h("span", { class: "detail" });
  const row = h("div", { class: "meter" }, h("span", { class: "label" }, label), value, track, detail);
  return { row, fill, track, value, detail };
}

function bottleneck(gpus) {
  if (gpus.length < 2) return "";
  const byFree = [...gpus].sort((a, b) => a.free_bytes - b.free_bytes);
  const tightest = byFree[0];
  const next = byFree[1];
  const isCrowded = tightest.free_bytes < CROWDED_FREE * tightest.total_bytes;
  if (!isCrowded || next.free_bytes < 2 * tightest.free_bytes) return "";
  return words.bottleneck(tightest.index + 1, gigabytes(tightest.free_bytes));
}
