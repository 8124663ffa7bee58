// What the page says beside the conversation: notices, questions, and words for screen readers.

import { byId, element, iconButton } from "./dom.js";
import { plain } from "./errors.js";

const SHOWN_MILLISECONDS = 8000;

/** A notice that goes away; errors stay until they are closed. */
export function notify(text, { isError = false, detail = "" } = {}) {
  const notice = element("div", { class: isError ? "toast error" : "toast" }, element("p", {}, text));
  if (detail) notice.append(element("p", { class: "detail" }, detail));
  notice.append(iconButton("close", "Close", () => notice.remove()));
  byId(isError ? "alerts" : "toasts").append(notice);
  if (!isError) setTimeout(() => notice.remove(), SHOWN_MILLISECONDS);
}

export function notifyError(error) {
  const { title, detail } = plain(error);
  notify(title, { isError: true, detail });
}

/** Whether the user agrees. action: the name of the button that does it. */
export function confirmed(question, action) {
  const dialog = byId("confirm");
  dialog.querySelector("p").textContent = question;
  const agree = dialog.querySelector("[data-agree]");
  agree.textContent = action;
  return new Promise((resolve) => {
    dialog.returnValue = "";
    agree.onclick = () => dialog.close("yes");
    dialog.onclose = () => resolve(dialog.returnValue === "yes");
    dialog.showModal();
  });
}

/** Reads a streaming answer out, sentence by sentence: a screen reader would drown in tokens. */
export class Reader {
  #said = 0;

  /** text: of the answer so far. isComplete: whether it ends here. */
  read(text, isComplete) {
    const fresh = text.slice(this.#said);
    const sentences = isComplete ? fresh : (/^.*[.!?:\n](?=\s|$)/s.exec(fresh)?.[0] ?? "");
    if (!sentences.trim()) return;
    this.#said += sentences.length;
    say(sentences);
  }
}

export function say(text) {
  const spoken = element("p", {}, text.trim());
  byId("announcer").append(spoken);
  setTimeout(() => spoken.remove(), SHOWN_MILLISECONDS);
}
