// Conversations as a file, and back.

import { newId } from "./dom.js";
import { PageError } from "./errors.js";
import { dataUri } from "./media.js";

const FORMAT = "owl_jax conversations";
const VERSION = 1;
const STATES = ["done", "stopped", "cut", "interrupted", "failed"];
const VOTES = ["up", "down", "none"];

/** A JSON file of conversations with their pictures and videos. */
export async function exported(store, conversations) {
  const all = [];
  for (const conversation of conversations) {
    const media = await Promise.all((await store.mediaOf(conversation.id)).map(mediumAsJson));
    all.push({ ...conversation, media });
  }
  const body = { format: FORMAT, version: VERSION, conversations: all };
  return new Blob([JSON.stringify(body, null, 1)], { type: "application/json" });
}

/**
 * Adds the conversations of a file to the store, under new ids, and returns them. Throws PageError,
 * before anything is added, if the file is not one that `exported` made.
 */
export async function imported(store, file) {
  let body;
  try {
    body = JSON.parse(await file.text());
  } catch {
    throw new PageError(`${file.name} is not JSON. Choose a file that this page exported.`);
  }
  let read;
  try {
    check(body.format === FORMAT && body.version === VERSION);
    read = list(body.conversations).map(readConversation);
  } catch {
    throw new PageError(`${file.name} holds no conversations of this page.`);
  }
  for (const { conversation, media } of read) {
    for (const medium of media) await store.saveMedium(medium);
    await store.save(conversation);
  }
  return read.map(({ conversation }) => conversation);
}

async function mediumAsJson(medium) {
  const { id, kind, name, seconds } = medium;
  const data = medium.blob && (await dataUri(medium.blob));
  return { id, kind, name, seconds, data, frames: await Promise.all(medium.frames.map(dataUri)) };
}

function readConversation(found) {
  const ids = new Map([["", ""]]);
  for (const each of [...list(found.exchanges), ...list(found.media)]) {
    check(!ids.has(text(each.id)));
    ids.set(each.id, newId());
  }
  const known = (id) => {
    check(ids.has(id));
    return ids.get(id);
  };
  const id = newId();
  const media = found.media.map((medium) => ({
    id: known(medium.id),
    conversation: id,
    kind: oneOf(["image", "video"], medium.kind),
    name: text(medium.name),
    seconds: number(medium.seconds),
    blob: medium.data === null ? null : blob(medium.data),
    frames: list(medium.frames).map(blob),
  }));
  for (const medium of media) check(medium.blob || (medium.kind === "video" && medium.frames.length));
  const before = new Set([""]); // a parent comes before its children, so there is no circle
  const exchanges = found.exchanges.map((exchange) => {
    check(before.has(exchange.parent));
    before.add(exchange.id);
    check(list(exchange.answers).length > 0);
    return {
      id: known(exchange.id),
      parent: known(exchange.parent),
      text: text(exchange.text),
      media: list(exchange.media).map(known),
      answers: exchange.answers.map(readAnswer),
    };
  });
  const children = Object.entries(found.chosen).map((pair) => pair.map(known));
  for (const [parent, child] of children) {
    check(exchanges.some((exchange) => exchange.id === child && exchange.parent === parent));
  }
  const conversation = {
    id,
    title: text(found.title),
    created: number(found.created),
    updated: number(found.updated),
    exchanges,
    chosen: Object.fromEntries(children),
    draft: { text: text(found.draft.text), media: list(found.draft.media).map(known) },
  };
  return { conversation, media };
}

function readAnswer(answer) {
  const { note } = answer;
  return {
    model: text(answer.model),
    text: text(answer.text),
    state: STATES.includes(answer.state) ? answer.state : "interrupted",
    id: text(answer.id),
    vote: oneOf(VOTES, answer.vote),
    note: note === null ? null : { title: text(note.title), detail: text(note.detail) },
    seconds: number(answer.seconds),
    tokens: number(answer.tokens),
  };
}

function check(condition) {
  if (!condition) throw new TypeError("not as exported");
}

function list(value) {
  check(Array.isArray(value));
  return value;
}

function text(value) {
  check(typeof value === "string");
  return value;
}

function number(value) {
  check(Number.isFinite(value));
  return value;
}

function oneOf(values, value) {
  check(values.includes(value));
  return value;
}

/** Of a data URI of a picture or video; `fetch` of one is not allowed to the page. */
function blob(uri) {
  const [, type, data] = /^data:((?:image|video)\/[\w.+-]+);base64,(.+)$/.exec(text(uri));
  return new Blob([Uint8Array.from(atob(data), (character) => character.charCodeAt(0))], { type });
}
