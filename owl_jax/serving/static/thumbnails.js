// Small pictures of media, and the large one.

import { byId, element, icon } from "./dom.js";
import { previewOf } from "./media.js";

const urls = new WeakMap(); // blob: its object URL

function urlOf(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

/** A button with a medium's picture that shows it large. */
export function thumbnail(medium) {
  const isVideo = medium.kind === "video";
  const label = `${isVideo ? "Video" : "Picture"} ${medium.name}`;
  const preview = previewOf(medium);
  const button = element("button", {
    type: "button",
    class: "thumbnail",
    "aria-label": `${label}, show large`,
    title: medium.name,
    onclick: () => preview && showLarge(medium, label),
  });
  if (preview) button.append(element("img", { src: urlOf(preview), alt: "" }));
  if (isVideo) {
    const length = medium.seconds ? `${Math.max(1, Math.round(medium.seconds))} s` : "video";
    button.append(element("span", { class: "badge" }, icon("film"), length));
  }
  return button;
}

function showLarge(medium, label) {
  const dialog = byId("viewer");
  dialog.setAttribute("aria-label", label);
  const pictures = medium.kind === "video" ? medium.frames : [medium.blob];
  dialog
    .querySelector(".pictures")
    .replaceChildren(...pictures.map((blob) => element("img", { src: urlOf(blob), alt: label })));
  dialog.querySelector("p").textContent =
    medium.kind === "video" ? `${medium.name}: the frames from which the server chooses` : medium.name;
  dialog.showModal();
}
