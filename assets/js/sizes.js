// The cards of "Picture size" name pixels; once there is a portrait, in its shape. Where graphics cards make the
// videos, they say whether a size fits now, what would be made instead, and how fast.

import { h, setText } from "./dom.js";
import { words } from "./strings.js";

const PLAY_FPS = 25; // as in liveavatar/core/plan.py
const SQUARE_BAND = 1.2; // as in liveavatar/core/sizes.py

/** Keep the pixels on the cards in step with the portrait. */
export function followPortraitShape(tiers) {
  const field = document.getElementById("studio-portrait");
  const draw = () => drawCards(tiers, shapeOf(field.querySelector(".image-frame img")));
  field.addEventListener("load", draw, true); // load does not bubble
  new MutationObserver(draw).observe(field, { childList: true, subtree: true });
}

/** Mark each card with whether it fits now. `forecasts` by name; empty where that is no question. */
export function drawForecasts(forecasts) {
  const shape = shapeOf(document.querySelector("#studio-portrait .image-frame img"));
  for (const label of document.querySelectorAll("#studio-size label")) {
    const forecast = forecasts[label.querySelector("input").value];
    let mark = label.querySelector(".fit");
    if (!forecast) {
      mark?.remove();
      continue;
    }
    mark ??= label.appendChild(h("em", { class: "fit" }));
    const [kind, text, title] = wordsFor(forecast, shape);
    mark.dataset.kind = kind;
    mark.title = title;
    setText(mark, text);
  }
}

function wordsFor({ fits, made, fps }, shape) {
  if (!made) return ["none", words.noRoom, words.noRoomNow];
  const speed = fps ? words.speed(fps / PLAY_FPS) : "";
  const title = [fits ? words.fitsNow : words.smallerNow, fps && words.speedNow(fps)].filter(Boolean).join(". ");
  if (fits) return ["fits", speed || words.fits, title];
  const pixels = shape === "upright" ? [...made].reverse() : made;
  const text = shape === "square" ? words.smaller : pixels.join("×");
  return ["smaller", [`→ ${text}`, speed].filter(Boolean).join(", "), title];
}

function shapeOf(image) {
  if (!image?.naturalWidth) return "landscape";
  const ratio = image.naturalWidth / image.naturalHeight;
  if (ratio > SQUARE_BAND) return "landscape";
  return ratio < 1 / SQUARE_BAND ? "upright" : "square";
}

function drawCards(tiers, shape) {
  for (const label of document.querySelectorAll("#studio-size label")) {
    const tier = tiers[label.querySelector("input").value];
    const text = label.querySelector("span")?.firstChild;
    if (!tier || !text) continue;
    const drawn = text.data.replace(/\d+×\d+/, tier[shape].join("×"));
    if (text.data !== drawn) text.data = drawn;
  }
}
