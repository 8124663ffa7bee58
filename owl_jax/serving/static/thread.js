// Shows the exchanges of a conversation.

import { shown, variants } from "./conversation.js";
import { byId, element, icon, iconButton } from "./dom.js";
import { rendered } from "./markdown.js";
import { Reader, say } from "./notices.js";
import { thumbnail } from "./thumbnails.js";

const NEAR_END = 80; // pixels

const NOTES = {
  cut: "The answer was cut off at the limit of tokens.",
  stopped: "Stopped.",
  interrupted: "The page was left before the answer was complete.",
};

export class Thread {
  #conversation = null;
  #elements = new Map(); // exchange id: its element
  #media = new Map(); // medium id: a promise
  #readers = new WeakMap(); // answer: its Reader
  #dirty = new Map(); // answers to draw in the next frame
  #follows = true;
  #top = 0; // where the scroller was

  /**
   * actions: ask(parent id, text, media ids), tryAgain(exchange, column), choose(exchange),
   * vote(exchange, column, vote).
   * options(): {votes, isRunning, isReady}.
   */
  constructor(store, actions, options) {
    this.store = store;
    this.actions = actions;
    this.options = options;
    this.scroller = byId("scroller");
    this.scroller.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.scroller;
      const isNear = scrollHeight - scrollTop - clientHeight < NEAR_END;
      // A conversation that has grown is followed, unless the user has scrolled up.
      this.#follows = isNear || (this.#follows && scrollTop >= this.#top);
      this.#top = scrollTop;
      byId("to-end").hidden = this.#follows;
    });
    byId("to-end").addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follow()).observe(byId("thread"));
  }

  /** Shows a conversation; exchanges that are shown already stay as they are. */
  show(conversation) {
    if (conversation.id !== this.#conversation?.id) {
      this.#elements.clear();
      this.#media.clear();
    }
    this.#conversation = conversation;
    const exchanges = shown(conversation);
    const elements = exchanges.map((exchange) => {
      if (!this.#elements.has(exchange.id)) this.#elements.set(exchange.id, this.#exchange(exchange));
      return this.#elements.get(exchange.id);
    });
    byId("exchanges").replaceChildren(...elements);
    byId("welcome").hidden = exchanges.length > 0;
    byId("thread").classList.toggle("wide", exchanges.some((each) => each.answers.length > 1));
    this.#follow();
  }

  /** Draws an exchange again. */
  refresh(exchange) {
    this.#elements.delete(exchange.id);
    this.show(this.#conversation);
  }

  /** Draws everything again. */
  refreshAll() {
    this.#elements.clear();
    this.show(this.#conversation);
  }

  /** Draws an answer that has grown, at most once in a frame. */
  grew(exchange, column) {
    const answer = exchange.answers[column];
    if (!this.#dirty.size) requestAnimationFrame(() => this.#drawDirty());
    this.#dirty.set(answer, [exchange, column]);
    if (!this.#readers.has(answer)) this.#readers.set(answer, new Reader());
    const isComplete = !["waiting", "streaming"].includes(answer.state);
    this.#readers.get(answer).read(answer.text, isComplete);
    if (isComplete && NOTES[answer.state]) say(NOTES[answer.state]);
    if (isComplete && answer.note) say(answer.note.title);
  }

  toEnd() {
    this.#follows = true;
    this.#follow();
  }

  /** Opens the last question for editing; false if there is none. */
  editLast() {
    const last = shown(this.#conversation).at(-1);
    if (!last || this.options().isRunning) return false;
    this.#edit(last);
    return true;
  }

  #follow() {
    if (this.#follows) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #drawDirty() {
    for (const [exchange, column] of this.#dirty.values()) {
      const drawn = this.#elements.get(exchange.id)?.querySelectorAll(".answer")[column];
      drawn?.replaceWith(this.#answer(exchange, column));
    }
    this.#dirty.clear();
    this.#follow();
  }

  #exchange(exchange) {
    const answers = exchange.answers.map((_, column) => this.#answer(exchange, column));
    return element(
      "article",
      { class: "exchange", "data-id": exchange.id },
      this.#question(exchange),
      element("div", { class: "answers" }, ...answers),
    );
  }

  #question(exchange) {
    const tools = element("div", { class: "tools" }, ...this.#variantTools(exchange));
    tools.append(
      iconButton("pencil", "Edit the question", () => this.#edit(exchange), {
        "data-needs": "idle",
      }),
    );
    return element(
      "section",
      { class: "question", "aria-label": "Your question" },
      this.#thumbnails(exchange),
      element(
        "div",
        { class: "said" },
        exchange.text ? element("div", { class: "bubble" }, exchange.text) : null,
        tools,
      ),
    );
  }

  #thumbnails(exchange) {
    if (!exchange.media.length) return null;
    const strip = element("div", { class: "media" });
    const media = exchange.media.map((id) => {
      if (!this.#media.has(id)) this.#media.set(id, this.store.medium(id));
      return this.#media.get(id);
    });
    Promise.all(media).then((found) => strip.append(...found.filter(Boolean).map(thumbnail)));
    return strip;
  }

  #variantTools(exchange) {
    const all = variants(this.#conversation, exchange);
    if (all.length < 2) return [];
    const place = all.indexOf(exchange);
    const go = (step) => this.actions.choose(all[place + step]);
    return [
      iconButton("previous", "Earlier version", () => go(-1), { disabled: place === 0 }),
      element("span", { class: "count" }, `${place + 1} / ${all.length}`),
      iconButton("next", "Later version", () => go(1), { disabled: place === all.length - 1 }),
    ];
  }

  /** Puts a form in the place of a question. Asking again adds a version and keeps this one. */
  #edit(exchange) {
    const box = element("textarea", { "aria-label": "Edited question", rows: 3 });
    box.value = exchange.text;
    const close = () => {
      this.refresh(exchange);
      this.#elements.get(exchange.id).querySelector("[data-needs]").focus();
    };
    const ask = () => {
      const text = box.value.trim();
      if (this.options().isRunning || !(text || exchange.media.length)) return;
      this.actions.ask(exchange.parent, text, exchange.media);
      this.refresh(exchange);
    };
    box.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Escape") close();
      if (event.key !== "Enter" || event.shiftKey) return;
      event.preventDefault();
      ask();
    });
    const form = element(
      "section",
      { class: "question editing", "aria-label": "Your question" },
      this.#thumbnails(exchange),
      box,
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "button", class: "plain", onclick: close }, "Cancel"),
        element("button", { type: "button", class: "primary", onclick: ask }, "Ask again"),
      ),
    );
    this.#elements.get(exchange.id).querySelector(".question").replaceWith(form);
    box.focus();
  }

  #answer(exchange, column) {
    const answer = exchange.answers[column];
    const isRunning = answer.state === "waiting" || answer.state === "streaming";
    const text = element("div", { class: "text" }, ...rendered(answer.text));
    if (isRunning && !answer.text) {
      text.append(element("span", { class: "dots", role: "img", "aria-label": "The model is thinking" }));
    }
    return element(
      "section",
      { class: `answer ${answer.state}`, "aria-label": `Answer of ${answer.model}`, "aria-busy": isRunning },
      element(
        "h2",
        {},
        element("img", { src: "/static/owl.svg", alt: "", width: 22, height: 22 }),
        element("span", {}, answer.model),
      ),
      text,
      this.#note(answer),
      isRunning ? null : this.#answerTools(exchange, column),
    );
  }

  #note(answer) {
    const title = answer.note?.title ?? NOTES[answer.state];
    if (!title) return null;
    const note = element("div", { class: answer.state === "failed" ? "note error" : "note" });
    note.append(element("p", {}, title));
    if (answer.note?.detail) note.append(element("p", { class: "detail" }, answer.note.detail));
    return note;
  }

  #answerTools(exchange, column) {
    const answer = exchange.answers[column];
    const tools = element("div", { class: "tools" });
    if (answer.text && navigator.clipboard) tools.append(copyButton(answer.text));
    if (!answer.text && answer.state !== "done") {
      const again = () => this.actions.tryAgain(exchange, column);
      const button = iconButton("repeat", "Try again", again, { "data-needs": "idle" });
      button.classList.add("with-words");
      button.append("Try again");
      tools.append(button);
    } else if (column === 0) {
      const again = () => this.actions.ask(exchange.parent, exchange.text, exchange.media);
      tools.append(iconButton("repeat", "Answer again", again, { "data-needs": "idle" }));
    }
    if (this.options().votes && answer.text && answer.id) tools.append(...this.#votes(exchange, column));
    if (answer.tokens) {
      const unit = answer.tokens === 1 ? "token" : "tokens";
      const words = `${answer.tokens} ${unit} · ${answer.seconds.toFixed(1)} s`;
      tools.append(element("span", { class: "count" }, words));
    }
    return tools;
  }

  #votes(exchange, column) {
    const answer = exchange.answers[column];
    const hint = "sends the conversation with its pictures to the operator of this server";
    const labels = { up: "Good answer", down: "Bad answer" };
    const buttons = Object.entries(labels).map(([vote, label]) => {
      const button = iconButton(vote, label, async () => {
        await this.actions.vote(exchange, column, answer.vote === vote ? "none" : vote);
        mark();
      });
      button.title = `${label} (${hint})`;
      return [vote, button];
    });
    const mark = () => {
      for (const [vote, button] of buttons) button.setAttribute("aria-pressed", answer.vote === vote);
    };
    mark();
    return buttons.map(([, button]) => button);
  }
}

function copyButton(text) {
  const button = iconButton("copy", "Copy the answer", async () => {
    await navigator.clipboard.writeText(text);
    button.replaceChildren(icon("check"));
    say("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}
