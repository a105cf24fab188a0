// Asks the operator to point at a face that could not be found: mouth corners, chin, and eyes if there are any.

import { portraitUrl } from "./api.js";
import { h, icon, setText } from "./dom.js";
import { words } from "./strings.js";

const STEPS = ["mouth_left", "mouth_right", "chin", "eye_left", "eye_right"];
const OPTIONAL = new Set(["eye_left", "eye_right"]);
const KEY_STEP = 0.01; // of the picture
const KEY_STEP_FINE = 0.0025;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class ClickGuide {
  /**
   * @param {string} jobId  whose portrait is shown
   * @param {{done: (clicks: object) => void, cancel: () => void}} answer
   */
  constructor(jobId, answer) {
    this.answer = answer;
    this.points = []; // one entry per step taken: {name, at: [x, y] | null when skipped}
    this.cursor = [0.5, 0.55];
    this.build(jobId);
    this.update();
  }

  build(jobId) {
    this.title = h("b", {});
    this.hint = h("p", {});
    this.count = h("span", { class: "step" });
    this.skipButton = h("button", { type: "button", class: "la-button", onclick: () => this.take(null) }, words.skip);
    this.undoButton = h(
      "button",
      { type: "button", class: "la-button", onclick: () => this.undo() },
      icon("undo"),
      words.undo,
    );
    this.doneButton = h(
      "button",
      { type: "button", class: "la-button primary", onclick: () => this.answer.done(this.clicks()) },
      words.makeVideo,
    );
    const cancel = h("button", { type: "button", class: "la-button", onclick: () => this.answer.cancel() }, words.cancel);
    this.markers = h("div", { class: "markers" });
    this.cross = h("i", { class: "cross", hidden: true });
    this.picture = h(
      "div",
      { class: "picture", tabindex: "0", role: "application", "aria-label": words.portraitToClick },
      h("img", { src: portraitUrl(jobId), alt: "", draggable: "false" }),
      this.markers,
      this.cross,
    );
    this.picture.addEventListener("pointerdown", (event) => this.pointed(event));
    this.picture.addEventListener("keydown", (event) => this.keyed(event));
    this.element = h(
      "div",
      { class: "la-clicks" },
      h("div", { class: "frame" }, this.picture),
      h(
        "div",
        { class: "guide" },
        this.count,
        h("div", { role: "status", "aria-live": "polite" }, this.title, this.hint),
        h("div", { class: "buttons" }, this.doneButton, this.skipButton, this.undoButton, cancel),
        h("p", { class: "keys" }, words.clickKeys),
      ),
    );
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.answer.cancel());
  }

  focus() {
    this.picture.focus({ preventScroll: true });
  }

  get step() {
    return STEPS[this.points.length];
  }

  pointed(event) {
    if (!this.step || event.button > 0) return;
    const box = this.picture.getBoundingClientRect();
    const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    this.take(at.map((value) => Math.min(1, Math.max(0, value))));
  }

  keyed(event) {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? KEY_STEP_FINE : KEY_STEP;
      this.cursor = this.cursor.map((value, axis) => Math.min(1, Math.max(0, value + arrow[axis] * step)));
      this.cross.hidden = false;
      placeAt(this.cross, this.cursor);
    } else if (event.key === "Enter" || event.key === " ") {
      if (this.step) this.take([...this.cursor]);
      else this.doneButton.click();
    } else if (event.key === "Backspace") this.undo();
    else return;
    event.preventDefault();
  }

  take(at) {
    this.points.push({ name: this.step, at });
    this.update();
  }

  undo() {
    this.points.pop();
    this.update();
  }

  clicks() {
    const at = Object.fromEntries(this.points.map((point) => [point.name, point.at]));
    return {
      mouth_left: at.mouth_left,
      mouth_right: at.mouth_right,
      chin: at.chin,
      eyes: [at.eye_left, at.eye_right].filter(Boolean),
    };
  }

  update() {
    const step = this.step;
    const [title, hint] = words.clickSteps[step ?? "done"];
    setText(this.count, step ? words.stepOf(this.points.length + 1, STEPS.length) : "");
    setText(this.title, title);
    setText(this.hint, hint);
    this.skipButton.hidden = !OPTIONAL.has(step);
    this.undoButton.hidden = this.points.length === 0;
    this.doneButton.hidden = Boolean(step);
    this.picture.classList.toggle("complete", !step);
    const placed = this.points.filter((point) => point.at);
    this.markers.replaceChildren(
      ...placed.map((point, index) => {
        const marker = h("i", { class: "marker", dataset: { name: point.name } }, String(index + 1));
        placeAt(marker, point.at);
        return marker;
      }),
    );
  }
}

function placeAt(element, [x, y]) {
  element.style.left = `${100 * x}%`;
  element.style.top = `${100 * y}%`;
}
