// The page: opens the store and the server, and connects the parts.

import { Answering } from "./answering.js";
import { Api } from "./api.js";
import { Composer } from "./composer.js";
import { addExchange, interrupt, newAnswer, newConversation, shown } from "./conversation.js";
import { byId, element, icon } from "./dom.js";
import { plain, ServerError } from "./errors.js";
import { recall, remember } from "./memory.js";
import { Models } from "./models.js";
import { confirmed, notify, notifyError, say } from "./notices.js";
import { Settings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";
import { Thread } from "./thread.js";
import { exported, imported } from "./transfer.js";

const RETRY_MILLISECONDS = 2000;
const KEY = "api_key";
const TAB = () => sessionStorage; // forgets the key when the tab is closed

for (const each of document.querySelectorAll("[data-icon]")) each.prepend(icon(each.dataset.icon));

const store = await openStore();
const api = new Api(recall(KEY, "", TAB));
const settings = new Settings();
const channel = new BroadcastChannel("owl_jax"); // other tabs with this page
let current = newConversation();

const answering = new Answering(api, store, {
  changed: (conversation, exchange, column) => {
    if (conversation.id === current.id) thread.grew(exchange, column);
  },
  refused: (error) => {
    if (error.status === 401) askForKey();
    else if (error.code === "model_not_found") connect(); // the list is of a former server
  },
});
const options = () => ({
  votes: api.facts.votes,
  isRunning: answering.isRunning(current.id),
  isReady: models.isKnown,
});
const thread = new Thread(store, { ask, tryAgain, choose, vote }, options);
const composer = new Composer(store, () => api.facts, {
  send: (text, media) => ask(shown(current).at(-1)?.id ?? "", text, media),
  stop: () => answering.stop(current.id),
  editLast: () => thread.editLast(),
  keepDraft,
});
const models = new Models(() => composer.text.focus());
const sidebar = new Sidebar(store, { open, remove });

// Conversations

async function open(id) {
  const found = answering.conversation(id) ?? (await store.conversation(id));
  show(found ? (answering.isRunning(id) ? found : interrupt(found)) : newConversation());
}

function show(conversation) {
  current = conversation;
  remember("conversation", current.id);
  thread.show(current);
  thread.toEnd();
  composer.show(current);
  refreshState();
  sidebar.refresh(current.id);
}

function refreshState() {
  const { isRunning, isReady } = options();
  document.body.classList.toggle("running", isRunning);
  composer.state(isRunning, isReady);
  byId("export-this").disabled = !current.exchanges.length;
  document.title = current.title ? `${current.title} · owl_jax` : "owl_jax";
}

/** Asks a question after `parent`, in the conversation that is shown. */
async function ask(parent, text, media) {
  if (!models.isKnown || answering.isRunning(current.id)) return;
  const exchange = addExchange(current, parent, text, media, models.chosen);
  await answer(current, exchange, [...exchange.answers.keys()]);
}

/** Asks again for an answer of which nothing came, in its place. */
async function tryAgain(exchange, column) {
  if (!models.isKnown || answering.isRunning(current.id)) return;
  exchange.answers[column] = newAnswer(models.chosen[column] ?? models.chosen[0]);
  await answer(current, exchange, [column]);
}

async function answer(conversation, exchange, columns) {
  const running = answering.run(conversation, exchange, columns, settings.fields());
  thread.refresh(exchange);
  thread.toEnd();
  refreshState();
  byId("question").focus();
  say("Asked. The model is answering.");
  await keep(conversation);
  await running;
  told(conversation);
  if (conversation.id === current.id) {
    thread.refresh(exchange);
    refreshState();
  }
}

async function choose(exchange) {
  current.chosen[exchange.parent] = exchange.id;
  thread.refreshAll();
  await keep(current);
}

async function vote(exchange, column, value) {
  try {
    await answering.vote(current, exchange, column, value);
    say(value === "none" ? "Vote withdrawn" : "Vote sent");
  } catch (error) {
    notifyError(error);
  }
}

async function keep(conversation) {
  await store.save(conversation).catch(notifyError);
  told(conversation);
}

async function keepDraft(conversation) {
  const isEmpty = !conversation.exchanges.length && !conversation.draft.media.length;
  if (isEmpty && !conversation.draft.text.trim()) await store.remove(conversation.id);
  else await store.saveDraft(conversation).catch(notifyError);
  told(conversation);
}

/** Lets the list and other tabs know about a change. */
function told({ id }) {
  sidebar.refresh(current.id);
  channel.postMessage(id);
}

async function remove(id, title) {
  if (!(await confirmed(`Delete “${title}” with its pictures?`, "Delete"))) return;
  answering.discard(id);
  if (id === current.id) show(newConversation());
  await store.remove(id);
  told({ id });
}

channel.onmessage = async ({ data: id }) => {
  sidebar.refresh(current.id);
  if (id !== current.id || answering.isRunning(id)) return;
  const newer = await store.conversation(id);
  if (!newer || newer.updated <= current.updated) return;
  show({ ...newer, draft: current.draft });
  thread.refreshAll();
};

byId("new").addEventListener("click", () => {
  sidebar.toggle(false);
  show(newConversation());
  byId("question").focus();
});

// Files

byId("export").addEventListener("click", async () => {
  save(await exported(store, await store.list()), "owl_jax-conversations.json");
});
byId("export-this").addEventListener("click", async () => {
  save(await exported(store, [current]), "owl_jax-conversation.json");
});
byId("import").addEventListener("click", () => byId("import-file").click());
byId("import-file").addEventListener("change", async ({ target }) => {
  const [file] = target.files;
  if (!file) return;
  try {
    const added = await imported(store, file);
    notify(added.length === 1 ? "1 conversation imported." : `${added.length} conversations imported.`);
    if (added.length) await open(added[0].id);
  } catch (error) {
    notifyError(error);
  }
  target.value = "";
});

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// Dialogs and keys

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", ({ target }) => {
    if (target === dialog || target.closest("[data-close]")) dialog.close();
  });
}
byId("open-settings").addEventListener("click", () => byId("settings").showModal());
byId("change-key").addEventListener("click", () => {
  byId("settings").close();
  askForKey();
});
byId("theme").addEventListener("click", () => {
  const isSystemDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = document.documentElement.dataset.theme ?? (isSystemDark ? "dark" : "light");
  const next = theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
  say(next === "dark" ? "Dark colours" : "Light colours");
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  answering.stop(current.id);
});
for (const example of document.querySelectorAll("[data-example]")) {
  example.addEventListener("click", () => {
    composer.text.value = example.textContent;
    composer.text.dispatchEvent(new Event("input"));
    composer.text.focus();
  });
}

// The server

function askForKey() {
  const dialog = byId("key");
  if (dialog.open) return;
  byId("key-value").value = api.key;
  dialog.showModal();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.key = byId("key-value").value.trim();
  remember(KEY, api.key, TAB);
  byId("key").close();
  connect();
});

/** Asks the server for its models until it has them. */
async function connect() {
  const notice = byId("notice");
  try {
    models.show(await api.open());
    settings.show(api.facts, models.length);
    notice.textContent = "";
    thread.refreshAll();
  } catch (error) {
    notice.textContent = plain(error).title;
    if (error instanceof ServerError && error.status === 401) {
      byId("change-key").hidden = false;
      askForKey();
    } else {
      if (error.code === "loading") notice.textContent = "The model is loading …";
      setTimeout(connect, RETRY_MILLISECONDS);
    }
  }
  if (api.key) byId("change-key").hidden = false;
  refreshState();
}

if (!store.isKept) notify("This browser keeps nothing: conversations are gone when the page is closed.");
await open(recall("conversation", ""));
byId("question").focus();
await connect();
