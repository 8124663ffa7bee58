// Makes elements. Texts become text nodes, never HTML.

/**
 * An element. Attributes that begin with "on" are listeners; true is an attribute without a value;
 * false, null and undefined are left out. Of ARIA's, true and false are words.
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key.startsWith("aria-")) made.setAttribute(key, String(value));
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

// Lines of a 24 x 24 drawing.
const ICONS = {
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h16",
  close: "M6 6l12 12M18 6L6 18",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 16.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6z",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 10h4M4 14h4M16 10h4M16 14h4",
  sliders: "M4 8h9M17 8h3M15 6v4M4 16h3M11 16h9M9 14v4",
  contrast: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 4v16M12 8h5M12 12h8M12 16h5",
  columns: "M4 5h16v14H4zM12 5v14",
  trash: "M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10.5 11v5M13.5 11v5",
  pencil: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  repeat: "M18.5 9A7 7 0 1 0 19 13M19 4v5h-5",
  copy: "M9 9h10v11H9zM6 15H5V4h10v2",
  up: "M4 11h4v9H4zM8 11l4-7c2 0 3 1 2.5 3L14 10h5l-1.5 9-1.5 1H8",
  down: "M4 13h4V4H4zM8 13l4 7c2 0 3-1 2.5-3L14 14h5l-1.5-9L16 4H8",
  export: "M12 4v11M7 10l5 5 5-5M5 20h14",
  import: "M12 15V4M7 9l5-5 5 5M5 20h14",
  previous: "M14 6l-6 6 6 6",
  next: "M10 6l6 6-6 6",
  end: "M12 5v13M6 12l6 6 6-6",
  check: "M5 13l4 4L19 7",
  key: "M8 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM12 12h9M17 12v3M20 12v2",
};

/** A drawing that screen readers skip. */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  drawing.setAttribute("class", "icon");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  drawing.append(path);
  return drawing;
}

/** A button that shows only a drawing. */
export function iconButton(name, label, onclick, attributes = {}) {
  return element(
    "button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name),
  );
}

/** An id that no other thing has. crypto.randomUUID is missing where a page came by plain HTTP. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
