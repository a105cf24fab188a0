// Sample portraits and voices: a row under the portrait field, chips under the voice field, cards on the empty stage.

import { assetUrl } from "./api.js";
import { h, icon } from "./dom.js";
import { isChinese, words } from "./strings.js";

const MAX_STAGE_CARDS = 5;

/** Read what came with the page: samples, sizes and limits. */
export function readSamples(data) {
  return JSON.parse(data.textContent);
}

/** Draw the row of portraits; each fills the portrait and its voice in. */
export function portraitRow(samples, fill) {
  const buttons = samples.portraits.map((portrait, index) =>
    h(
      "button",
      { type: "button", class: "face", title: portrait.title, onclick: () => fill(`portrait:${index}`) },
      h("img", { src: assetUrl(portrait.file), alt: words.useSample(portrait.title), loading: "lazy" }),
    ),
  );
  return h("div", { class: "la-faces", role: "group", "aria-label": words.samples }, ...buttons);
}

/** Draw one chip per voice. */
export function voiceChips(samples, fill) {
  const buttons = samples.voices.map((voice, index) => {
    const { title, language } = isChinese ? { ...voice, ...voice.chinese } : voice;
    const seconds = Math.round(voice.seconds);
    return h(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-label": words.useVoice(title, language, seconds),
        title: words.voiceFacts(language, seconds),
        onclick: () => fill(`voice:${index}`),
      },
      title,
    );
  });
  return h("div", { class: "la-chips", role: "group", "aria-label": words.sampleVoices }, ...buttons);
}

/** Draw large cards that make a video at one click. */
export function stageCards(samples, tryIt) {
  const cards = samples.portraits.slice(0, MAX_STAGE_CARDS).map((portrait, index) =>
    h(
      "button",
      { type: "button", class: "try", "aria-label": words.tryTitle(portrait.title), onclick: () => tryIt(`portrait:${index}`) },
      h("img", { src: assetUrl(portrait.file), alt: "" }),
      h("span", {}, icon("play"), words.tryIt),
    ),
  );
  return h("div", { class: "la-tries" }, ...cards);
}
