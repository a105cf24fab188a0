// What can be changed of a video while the s2v engine makes it: steps from the next block on, size from the next clip.

import { adjustJob } from "./api.js";
import { h, sizeText } from "./dom.js";
import { words } from "./strings.js";
import { joined, problemText } from "./translation.js";

const STEPS = [4, 3, 2];
const SIZES = ["384*256", "576*320", "688*368", "720*400", "1280*720"]; // in the portrait's shape, whatever that is

export class Knobs {
  constructor() {
    this.jobId = null;
    this.steps = this.select(words.changeSteps, STEPS.map((n) => [String(n), words.steps(n)]), (value) => ({ steps: Number(value) }));
    this.size = this.select(words.changeSize, SIZES.map((name) => [name, sizeText(name)]), (value) => ({ size: value }));
    this.answer = h("span", { class: "answer", role: "status" });
    this.element = h("div", { class: "knobs" }, this.steps, this.size, this.answer);
    this.element.hidden = true;
  }

  /** Show the knobs where they work: while the s2v engine makes the job. */
  update(job) {
    this.element.hidden = job.engine !== "s2v" || job.state !== "running" || job.stop_requested;
    if (job.id === this.jobId) return;
    this.jobId = job.id;
    this.steps.value = this.size.value = "";
    this.answer.textContent = "";
  }

  select(label, choices, wishOf) {
    const options = [["", label], ...choices].map(([value, text]) => h("option", { value }, text));
    const onchange = (event) => event.target.value && this.wish(wishOf(event.target.value));
    return h("select", { "aria-label": label, onchange }, ...options);
  }

  async wish(wish) {
    const id = this.jobId;
    let text;
    try {
      const { diagnosis } = await adjustJob(id, wish);
      text = diagnosis ? joined(problemText(diagnosis)) : words.changesSoon;
    } catch {
      text = words.lost;
    }
    if (id === this.jobId) this.answer.textContent = text;
  }
}
