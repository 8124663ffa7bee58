// Small choices that outlive the page, in localStorage; conversations are in store.js.
//
// Where the browser keeps nothing, even `localStorage` throws.

/** The value kept under a name, or another one. kept: by the browser, or by this tab. */
export function recall(name, otherwise, kept = () => localStorage) {
  try {
    return JSON.parse(kept().getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value, kept = () => localStorage) {
  try {
    kept().setItem(name, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing asks again the next time.
  }
}
