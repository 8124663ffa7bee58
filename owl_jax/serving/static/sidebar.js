// The list of conversations.

import { byId, element, iconButton } from "./dom.js";

export class Sidebar {
  /** actions: open(id), remove(id, title). */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    byId("open-sidebar").addEventListener("click", () => this.toggle(true));
    byId("close-sidebar").addEventListener("click", () => this.toggle(false));
    byId("shade").addEventListener("click", () => this.toggle(false));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && document.body.classList.contains("listing")) this.toggle(false);
    });
  }

  /** On a narrow screen the list lies over the conversation. */
  toggle(isOpen) {
    const hadFocus = byId("sidebar").contains(document.activeElement);
    document.body.classList.toggle("listing", isOpen);
    byId("open-sidebar").setAttribute("aria-expanded", isOpen);
    if (isOpen) byId("close-sidebar").focus();
    else if (hadFocus) byId("question").focus();
  }

  async refresh(current) {
    const conversations = await this.store.list();
    const items = conversations.map(({ id, title, draft }) => {
      const name = title || draft.text.trim().split("\n")[0] || "Draft";
      const attributes = { type: "button", class: "open", title: name, onclick: () => this.#open(id) };
      if (id === current) attributes["aria-current"] = "true";
      return element(
        "li",
        {},
        element("button", attributes, name),
        iconButton("trash", `Delete ${name}`, () => this.actions.remove(id, name)),
      );
    });
    byId("conversations").replaceChildren(...items);
    byId("none-yet").hidden = items.length > 0;
  }

  #open(id) {
    this.toggle(false);
    this.actions.open(id);
  }
}
