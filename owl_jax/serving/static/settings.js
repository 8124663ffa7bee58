// The sliders: how answers are sampled. Kept in the browser.

import { byId, element } from "./dom.js";
import { recall, remember } from "./memory.js";

const NAME = "sampling";

// `at`: the value at which the field is left out, so that the server's own default holds. What depends
// on the server is filled in by `show`.
const SLIDERS = [
  {
    field: "temperature",
    label: "Temperature",
    help: "0 always takes the likeliest token; higher values vary more.",
    min: 0, max: 2, step: 0.05,
  },
  {
    field: "top_p",
    label: "Top p",
    help: "Only the likeliest tokens that make up this share.",
    min: 0.05, max: 1, step: 0.05, value: 1, at: 1,
  },
  {
    field: "top_k",
    label: "Top k",
    help: "Only so many of the likeliest tokens; 0 is all.",
    min: 0, max: 200, step: 1, value: 0, at: 0,
  },
  {
    field: "repetition_penalty",
    label: "Repetition penalty",
    help: "Above 1, what has been said becomes less likely.",
    min: 1, max: 2, step: 0.05, value: 1, at: 1,
  },
  { field: "max_tokens", label: "Length", help: "Tokens of an answer, at most." },
];

export class Settings {
  #values = {};
  #inputs = {};
  #sliders = SLIDERS;

  /** Fills the form. facts: of the server; length: tokens of a conversation, at most. */
  show(facts, length) {
    const longest = Math.max(Math.min(facts.max_new_tokens ?? length, length), 1);
    const step = longest < 64 ? 1 : 16;
    const most = Math.ceil(longest / step) * step;
    const bounds = { max: most, min: step, step, value: most, at: most };
    this.#sliders = SLIDERS.map((slider) => {
      if (slider.field === "max_tokens") return { ...slider, ...bounds };
      return slider.field === "temperature" ? { ...slider, value: facts.temperature } : slider;
    });
    const kept = recall(NAME, {});
    const rows = this.#sliders.map((slider) => this.#row(slider, kept[slider.field]));
    byId("sliders").replaceChildren(...rows, this.#seedRow(kept.seed));
    byId("reset").onclick = () => {
      remember(NAME, {});
      this.show(facts, length);
    };
  }

  /** The fields of a request. */
  fields() {
    const wanted = this.#sliders.filter(({ field, at }) => this.#values[field] !== at);
    const fields = Object.fromEntries(wanted.map(({ field }) => [field, this.#values[field]]));
    const seed = Number.parseInt(this.#inputs.seed.value, 10);
    return Number.isSafeInteger(seed) ? { ...fields, seed } : fields;
  }

  #row({ field, label, help, min, max, step, value, at }, kept) {
    const input = element("input", { type: "range", id: `set-${field}`, min, max, step });
    const output = element("output", { for: input.id });
    input.value = kept ?? value;
    const take = () => {
      this.#values[field] = Number(input.value);
      const words = this.#values[field] === at && field === "max_tokens" ? "what fits" : input.value;
      output.textContent = field === "top_k" && this.#values[field] === at ? "all" : words;
      input.setAttribute("aria-valuetext", output.textContent);
    };
    input.addEventListener("input", () => {
      take();
      this.#keep();
    });
    take();
    input.setAttribute("aria-describedby", `${input.id}-help`);
    return element(
      "div",
      { class: "setting" },
      element("label", { for: input.id }, label),
      output,
      input,
      element("p", { id: `${input.id}-help` }, help),
    );
  }

  #seedRow(kept) {
    const attributes = { type: "number", id: "set-seed", step: 1, placeholder: "random" };
    this.#inputs.seed = element("input", { ...attributes, "aria-describedby": "set-seed-help" });
    this.#inputs.seed.value = kept ?? "";
    this.#inputs.seed.addEventListener("input", () => this.#keep());
    return element(
      "div",
      { class: "setting" },
      element("label", { for: "set-seed" }, "Seed"),
      this.#inputs.seed,
      element("p", { id: "set-seed-help" }, "The same number repeats an answer."),
    );
  }

  #keep() {
    remember(NAME, { ...this.#values, seed: this.#inputs.seed.value });
  }
}
