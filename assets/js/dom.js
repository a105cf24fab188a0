// Small helpers to build the page's own elements without parsing HTML.

const SVG = "http://www.w3.org/2000/svg";

const ICON_PATHS = {
  play: "M8 5.5v13l10.5-6.5z",
  stop: "M7 7h10v10H7z",
  download: "M12 4v11m-5-5 5 5 5-5M5 20h14",
  trash: "M5 7h14M10 7V5h4v2m-7 0 1 12h8l1-12",
  again: "M5 12a7 7 0 1 0 2.2-5.1M5 4v4h4",
  undo: "M9 6 4 11l5 5M4 11h10a5 5 0 0 1 5 5v2",
  point: "M12 3v4m0 10v4M3 12h4m10 0h4M12 11.5v1",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
  sound: "M4 10v4h3l4 3.5v-11L7 10zM15 9a4 4 0 0 1 0 6m2.5-8.5a8 8 0 0 1 0 11",
  warning: "M12 4 3 19h18zM12 10v4m0 2.5v.5",
  close: "M6 6l12 12M18 6 6 18",
};

/** Build an element: h("button", {class: "x", onclick: f}, "text", child). Null children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** Build an element of a drawing. */
export function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Build a line icon that takes the colour of the text around it. */
export function icon(name) {
  const drawing = svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "la-icon" });
  drawing.append(svg("path", { d: ICON_PATHS[name] }));
  return drawing;
}

/** Change an element's text only when it differs, so that screen readers are not told the same again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Wait until Gradio has put the element with this id on the page. */
export function whenPresent(id) {
  const found = document.getElementById(id);
  if (found) return Promise.resolve(found);
  return new Promise((resolve) => {
    const observer = new MutationObserver(() => {
      const element = document.getElementById(id);
      if (element) {
        observer.disconnect();
        resolve(element);
      }
    });
    observer.observe(document.documentElement, { childList: true, subtree: true });
  });
}

/** 74.2 -> "1:14"; cut, not rounded, like the clock of the browser's own player */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 0.01));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** "720*400" -> "720×400" */
export function sizeText(size) {
  return String(size || "").replace("*", "×");
}

/** Bytes as "23.6" GB of 2**30 bytes, as in the server's sentences. */
export function gigabytes(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}

/** Short facts on one line that breaks only between them; what is not known is left out. */
export function facts(texts) {
  return texts
    .filter(Boolean)
    .map((text) => text.replaceAll(" ", "\u00a0"))
    .join(" · ");
}
