// Which model answers, or which two side by side.

import { byId, element } from "./dom.js";
import { recall, remember } from "./memory.js";

const NAME = "models";

export class Models {
  #known = [];

  constructor(changed) {
    this.selects = [byId("model"), byId("other-model")];
    for (const select of this.selects) {
      select.addEventListener("change", () => {
        this.#keep();
        changed();
      });
    }
    this.compare = byId("compare");
    this.compare.addEventListener("click", () => {
      this.#sideBySide(this.compare.getAttribute("aria-pressed") !== "true");
      this.#keep();
      changed();
    });
  }

  /** Fills the lists with the models of the server: [{id, max_model_len}]. */
  show(known) {
    this.#known = known;
    const names = known.map((model) => model.id);
    const kept = recall(NAME, []).filter((name) => names.includes(name));
    const chosen = [kept[0] ?? names[0], kept[1] ?? names[1] ?? names[0]];
    this.selects.forEach((select, column) => {
      select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
      select.value = chosen[column];
      select.disabled = false;
    });
    this.compare.disabled = false;
    this.#sideBySide(kept.length > 1);
  }

  get isKnown() {
    return this.#known.length > 0;
  }

  /** The names of the models that answer, one for each column. */
  get chosen() {
    const isCompared = this.compare.getAttribute("aria-pressed") === "true";
    return this.selects.slice(0, isCompared ? 2 : 1).map((select) => select.value);
  }

  /** Tokens of a conversation, at most. */
  get length() {
    return Math.min(...this.#known.map((model) => model.max_model_len));
  }

  #sideBySide(isCompared) {
    this.compare.setAttribute("aria-pressed", isCompared);
    this.selects[1].hidden = !isCompared;
  }

  #keep() {
    remember(NAME, this.chosen);
  }
}
