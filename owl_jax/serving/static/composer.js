// The question in the making: its text and its media, which may be chosen, pasted, dropped or taken
// with the camera.

import { hasCamera, takePicture } from "./camera.js";
import { byId, element, iconButton } from "./dom.js";
import { notifyError, say } from "./notices.js";
import { readMedium } from "./media.js";
import { thumbnail } from "./thumbnails.js";

const SAVE_MILLISECONDS = 400;

export class Composer {
  #conversation = null;
  #media = [];
  #reading = 0;
  #timer = null;

  /** actions: send(text, media ids), stop(), editLast(), keepDraft(conversation); facts() of the server. */
  constructor(store, facts, actions) {
    this.store = store;
    this.facts = facts;
    this.actions = actions;
    this.text = byId("question");
    this.#listen();
  }

  /** Shows the draft of a conversation. */
  async show(conversation) {
    this.#flush();
    this.#conversation = conversation;
    this.text.value = conversation.draft.text;
    const media = await Promise.all(conversation.draft.media.map((id) => this.store.medium(id)));
    if (conversation !== this.#conversation) return;
    this.#media = media.filter(Boolean);
    this.refresh();
  }

  /** isRunning: whether the conversation is being answered. isReady: whether the server can. */
  state(isRunning, isReady) {
    this.isRunning = isRunning;
    this.isReady = isReady;
    this.refresh();
  }

  refresh() {
    this.text.style.height = "auto";
    this.text.style.height = `${this.text.scrollHeight}px`;
    const attached = this.#media.map((medium) =>
      element(
        "li",
        {},
        thumbnail(medium),
        iconButton("close", `Remove ${medium.name}`, () => this.#remove(medium)),
      ),
    );
    if (this.#reading) {
      attached.push(element("li", { class: "reading", role: "status" }, "Reading …"));
    }
    byId("attached").replaceChildren(...attached);
    byId("send").hidden = this.isRunning;
    byId("stop").hidden = !this.isRunning;
    byId("send").disabled = !this.isReady || !this.#canSend();
  }

  /** Takes files as pictures or videos; what is none is refused, and the rest stays. */
  async add(files) {
    const conversation = this.#conversation;
    for (const file of files) {
      this.#reading += 1;
      this.refresh();
      try {
        const medium = await readMedium(file, conversation.id, this.facts());
        await this.store.saveMedium(medium);
        conversation.draft.media.push(medium.id);
        await this.actions.keepDraft(conversation);
        if (conversation === this.#conversation) this.#media.push(medium);
        say(`${medium.name} added`);
      } catch (error) {
        notifyError(error);
      }
      this.#reading -= 1;
      this.refresh();
    }
    this.text.focus();
  }

  #canSend() {
    return !this.#reading && Boolean(this.text.value.trim() || this.#media.length);
  }

  #send() {
    if (this.isRunning || !this.isReady || !this.#canSend()) return;
    const text = this.text.value.trim();
    const media = this.#media.map((medium) => medium.id);
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#media = [];
    this.text.value = "";
    this.#conversation.draft = { text: "", media: [] };
    this.refresh();
    this.actions.send(text, media);
  }

  async #remove(medium) {
    const { draft } = this.#conversation;
    this.#media = this.#media.filter((each) => each !== medium);
    draft.media = draft.media.filter((id) => id !== medium.id);
    this.refresh();
    this.text.focus();
    await this.store.removeMedium(medium.id);
    await this.actions.keepDraft(this.#conversation);
  }

  #typed() {
    this.#conversation.draft.text = this.text.value;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#flush(), SAVE_MILLISECONDS);
    this.refresh();
  }

  #flush() {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.actions.keepDraft(this.#conversation);
  }

  #listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("stop").addEventListener("click", () => this.actions.stop());
    this.text.addEventListener("input", () => this.#typed());
    this.text.addEventListener("keydown", (event) => {
      if (event.isComposing) return; // Enter chooses a word of an input method
      if (event.key === "Enter" && !event.shiftKey) {
        event.preventDefault();
        this.#send();
      } else if (event.key === "ArrowUp" && !this.text.value && this.actions.editLast()) {
        event.preventDefault();
      }
    });
    window.addEventListener("pagehide", () => this.#flush());

    const chooser = byId("files");
    byId("attach").addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      this.add([...chooser.files]);
      chooser.value = "";
    });
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (!files.length || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      this.add(files);
    });
    byId("take").hidden = !hasCamera;
    byId("take").addEventListener("click", async () => {
      try {
        const file = await takePicture();
        if (file) await this.add([file]);
      } catch (error) {
        notifyError(error);
      }
    });
    this.#listenToDrops();
  }

  #listenToDrops() {
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
    const mark = (isOver) => document.body.classList.toggle("dropping", isOver);
    window.addEventListener("dragover", (event) => {
      if (!hasFiles(event)) return;
      event.preventDefault();
      mark(true);
    });
    window.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) mark(false);
    });
    window.addEventListener("drop", (event) => {
      mark(false);
      if (!hasFiles(event)) return;
      event.preventDefault(); // else the browser would leave the page for the file
      this.add([...event.dataTransfer.files]);
    });
  }
}
