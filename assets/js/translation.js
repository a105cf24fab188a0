// The server's sentences in the page's language. It sends a code, values and plain English; the Chinese is kept here.

import diagnoses from "./chinese_diagnoses.js";
import { notes, place, remarks, terms } from "./chinese_notes.js";
import { gigabytes } from "./dom.js";
import { isChinese } from "./strings.js";

const OPTIONAL = /\[([^\]]*)\]/g;
const PLACE = /\{(\w+)\}/g;

/** Return [title, cause, remedy] of a problem. One that the page found itself has no facts, and is translated already. */
export function problemText({ code, title, cause, remedy, facts }) {
  const chinese = isChinese && facts && diagnoses[code];
  if (!chinese) return [title, cause, remedy];
  const [told, why, what] = chinese.map((template) => fill(template, facts));
  const where = "num_ranks" in facts ? fill(place, { ...facts, number: facts.rank + 1 }) : "";
  return [told, why + where, what];
}

/** Return what there is of sentences as one text; Chinese ones follow each other without spaces. */
export function joined(sentences) {
  return sentences.filter(Boolean).join(isChinese ? "" : " ");
}

/** Return the sentence of a note; its code may be that of a problem for which another way was found. */
export function noteText({ code, text, values }) {
  const template = notes[code] ?? diagnoses[code]?.slice(0, 2).join("");
  return isChinese && template ? fill(template, values) : text;
}

/** Return the Chinese template of a remark about the machine, if the page speaks Chinese. */
export function remarkTemplate(code) {
  return isChinese ? remarks[code] : undefined;
}

/** Put the values in their {places}. A [part] is left out where one of its values is missing or empty. */
export function fill(template, values) {
  const isKnown = ([, name]) => (values[name] ?? "") !== "";
  return template
    .replace(OPTIONAL, (_, part) => ([...part.matchAll(PLACE)].every(isKnown) ? part : ""))
    .replace(PLACE, (_, name) => valueText(name, values[name]));
}

/** Bytes are said in GB, sizes with a cross, and terms in Chinese, one or a list of them. */
function valueText(name, value) {
  if (name.endsWith("_bytes")) return `${gigabytes(value)} GB`;
  const parts = String(value).split(", ");
  const told = parts.map((part) => termText(part) ?? part);
  return told.some((part, index) => part !== parts[index]) ? told.join("、") : String(value);
}

/** "720*400" -> "720×400", "smile" -> "微笑", "not calm" -> "不要平静", "4 steps" -> "4 步"; else undefined. */
function termText(term) {
  if (/^\d+[*x]\d+$/.test(term)) return term.replace(/[*x]/, "×");
  if (term.startsWith("not ") && terms[term.slice(4)]) return terms.not + terms[term.slice(4)];
  const number = term.match(/^\d+/)?.[0];
  return terms[term] ?? (number && terms[term.replace(number, "{n}")]?.replace("{n}", number));
}
