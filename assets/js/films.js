// Lets a film be given as the voice: Gradio's field takes only what is called sound, the app takes the sound track.

const ACCEPTED = "audio/*,video/*";

/** Present films that are chosen for, or dropped on, the voice field as sound. The files stay as they are. */
export function acceptFilms(field) {
  const listen = (event, listener) => field.addEventListener(event, listener, { capture: true });
  listen("click", () => field.querySelectorAll("input[type=file]").forEach((input) => (input.accept = ACCEPTED)));
  listen("change", ({ target }) => {
    if (target.type === "file" && hasFilm(target.files)) target.files = asSound(target.files);
  });
  listen("drop", (event) => {
    const input = field.querySelector("input[type=file]");
    if (!input || !hasFilm(event.dataTransfer.files)) return;
    event.preventDefault();
    event.stopPropagation();
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

function hasFilm(files) {
  return [...files].some((file) => file.type.startsWith("video/"));
}

function asSound(files) {
  const transfer = new DataTransfer();
  for (const file of files) transfer.items.add(new File([file], file.name, { type: file.type.replace("video/", "audio/") }));
  return transfer.files;
}
