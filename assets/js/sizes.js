// The cards of "Picture size" name pixels; once there is a portrait, in its shape.

const SQUARE_BAND = 1.2; // as in liveavatar/core/sizes.py

/** Keep the pixels on the cards in step with the portrait. */
export function followPortraitShape(tiers) {
  const field = document.getElementById("studio-portrait");
  const draw = () => drawCards(tiers, shapeOf(field.querySelector(".image-frame img")));
  field.addEventListener("load", draw, true); // load does not bubble
  new MutationObserver(draw).observe(field, { childList: true, subtree: true });
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
