// Small repairs to Gradio's fields.

import { words } from "./strings.js";

/** Put a word beside each icon that says where a picture or a voice may come from; drawn by inputs.css. */
export function nameSources() {
  for (const [source, word] of Object.entries(words.sources)) {
    document.body.style.setProperty(`--la-source-${source}`, JSON.stringify(word));
  }
}

/** Let the arrow keys choose within a group of radios: Gradio gives each of them a name of its own, again and again. */
export function groupRadios(fields) {
  const group = () => {
    for (const radio of fields.querySelectorAll("fieldset input[type=radio]")) {
      const { id } = radio.closest("fieldset");
      if (radio.name !== id) radio.name = id;
    }
  };
  const changes = { childList: true, subtree: true, attributeFilter: ["name"] };
  new MutationObserver(group).observe(fields, changes);
  group();
}
