// Sentences about the machine in the page's language. What is true of several cards is said once.

import { fill, remarkTemplate } from "./translation.js";

// English for several cards; of one card the server's own sentence is shown.
const ENGLISH_TOGETHER = {
  communication_bound:
    "{cards} mostly wait for data from each other: the connection between them (PCIe or NVLink) is nearly full. " +
    "Nothing is broken, but videos take longer than these cards need. " +
    "Check that every card sits in its fastest slot, or let fewer cards make a video.",
  memory_bound:
    "{cards} work as fast as their own memory delivers data. " +
    "8-bit weights (the app's option --precision fp8) halve what they have to read.",
  heat: "{cards} slow down because they are too hot. Check fans and air flow.",
  processor_bound: "{cards} wait for the processor, whose cores are all busy. End other work on this machine.",
};

/** Return one sentence per remark, or per code where it holds for several cards. */
export function sentences(remarks) {
  const told = new Map();
  for (const remark of remarks) {
    const key = isSameForAll(remark) ? remark.code : `${remark.code} ${remark.gpus}`;
    const known = told.get(key);
    if (known) known.gpus = [...known.gpus, ...remark.gpus];
    else told.set(key, { ...remark });
  }
  return [...told.values()].map(sentence);
}

function sentence(remark) {
  const isOfSeveral = remark.gpus.length > 1;
  const template = remarkTemplate(remark.code) ?? (isOfSeveral ? ENGLISH_TOGETHER[remark.code] : undefined);
  return template ? fill(template, { ...remark.values, cards: cardNames(remark.gpus) }) : remark.text;
}

/** Whether the sentence names the cards alone, so that one is enough for several. */
function isSameForAll({ code }) {
  const template = remarkTemplate(code) ?? ENGLISH_TOGETHER[code];
  return template !== undefined && !template.replace("{cards}", "").includes("{");
}

/** [0] -> "GPU 1", [0, 1, 3] -> "GPU 1, 2, 4", [0, 1, 2, 3] -> "GPU 1–4" */
function cardNames(gpus) {
  const numbers = gpus.map((index) => index + 1).sort((a, b) => a - b);
  const isRange = numbers.length > 2 && numbers.at(-1) - numbers[0] === numbers.length - 1;
  return `GPU ${isRange ? `${numbers[0]}–${numbers.at(-1)}` : numbers.join(", ")}`;
}
