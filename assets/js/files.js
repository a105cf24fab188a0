// What may be given as portrait and voice. Gradio's fields name media types when they refuse a file; here it is
// refused in words, and a film may be given as the voice: the app takes its sound track.

import { words } from "./strings.js";

const SOUND = "audio/*,video/*";

/** Look at every file before Gradio's field does. `tell` is given the problem, or null; `maxBytes` is the largest upload. */
export function checkFiles({ portrait, voice, maxBytes, tell }) {
  const watch = (field, check, present) => {
    const listen = (event, listener) => field.addEventListener(event, listener, { capture: true });
    const isRefused = (files) => {
      const problem = [...files].map((file) => tooLarge(file, maxBytes) || check(file)).find(Boolean);
      tell(problem ?? null);
      return Boolean(problem);
    };
    listen("change", (event) => {
      const { target } = event;
      if (target.type !== "file") return;
      if (isRefused(target.files)) {
        event.stopPropagation();
        target.value = ""; // so that the same file can be chosen again, mended
      } else if (present) target.files = present(target.files);
    });
    listen("drop", (event) => {
      const input = field.querySelector("input[type=file]");
      if (!input || !event.dataTransfer.files.length) return;
      event.preventDefault();
      event.stopPropagation();
      input.files = event.dataTransfer.files;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });
  };
  watch(portrait, notPicture);
  watch(voice, notSound, asSound);
  voice.addEventListener("click", () => voice.querySelectorAll("input[type=file]").forEach((input) => (input.accept = SOUND)), {
    capture: true,
  });
}

function tooLarge(file, maxBytes) {
  return file.size > maxBytes && { code: "file_too_large", ...words.tooLarge(file.name, Math.round(maxBytes / 1e6)) };
}

function notPicture(file) {
  return !file.type.startsWith("image/") && { code: "unreadable_picture", ...words.notPicture(file.name) };
}

/** A type that the browser does not know is left to the app. */
function notSound(file) {
  return !/^(audio\/|video\/|$)/.test(file.type) && { code: "unreadable_voice", ...words.notSound(file.name) };
}

/** Present films, and what the browser does not know, as sound. The files stay as they are. */
function asSound(files) {
  const transfer = new DataTransfer();
  for (const file of files) {
    const type = file.type.startsWith("audio/") ? file.type : `audio/${file.type.split("/")[1] ?? "basic"}`;
    transfer.items.add(new File([file], file.name, { type }));
  }
  return transfer.files;
}
