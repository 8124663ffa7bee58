// A conversation: a tree of exchanges, so that an edited question or another answer replaces nothing.
//
//   conversation  {id, title, created, updated, exchanges, chosen, draft}
//   exchange      {id, parent, text, media, answers}: a question, and an answer for each column
//   answer        {model, text, state, id, vote, note, seconds, tokens}
//
// `chosen` says which child of an exchange is shown ("" stands for the root); `media` are ids in the
// store. The state of an answer is "waiting", "streaming", "done", "stopped", "cut" (at the limit of
// tokens), "interrupted" (the page was left) or "failed" (`note` says why).

import { newId } from "./dom.js";

const TITLE_LENGTH = 60;

export function newConversation() {
  const now = Date.now();
  return {
    id: newId(),
    title: "",
    created: now,
    updated: now,
    exchanges: [],
    chosen: {},
    draft: { text: "", media: [] },
  };
}

export function newAnswer(model) {
  return { model, text: "", state: "waiting", id: "", vote: "none", note: null, seconds: 0, tokens: 0 };
}

/** Adds a question after `parent` (an id, "" for the first) and shows it. */
export function addExchange(conversation, parent, text, media, models) {
  const exchange = { id: newId(), parent, text, media: [...media], answers: models.map(newAnswer) };
  conversation.exchanges.push(exchange);
  conversation.chosen[parent] = exchange.id;
  conversation.title ||= titleOf(text) || "Pictures";
  conversation.updated = Date.now();
  return exchange;
}

/** The exchanges that are shown, first to last. */
export function shown(conversation) {
  const found = [];
  let at = conversation.chosen[""];
  while (at) {
    const exchange = conversation.exchanges.find((each) => each.id === at);
    if (!exchange) break;
    found.push(exchange);
    at = conversation.chosen[at];
  }
  return found;
}

/** The exchanges that an exchange is one of: other wordings of its question, other answers. */
export function variants(conversation, exchange) {
  return conversation.exchanges.filter((each) => each.parent === exchange.parent);
}

/** The exchanges before one, and itself, first to last. */
export function upTo(conversation, exchange) {
  const found = [];
  for (let at = exchange; at; at = conversation.exchanges.find((each) => each.id === at.parent)) {
    found.unshift(at);
  }
  return found;
}

/** An exchange's answer in a column. Exchanges from before a comparison have one for both. */
export function answerIn(exchange, column) {
  return exchange.answers[column] ?? exchange.answers[0];
}

/**
 * The messages of a request, as OpenAI has them: what came before an exchange, and its question.
 * part: the content part of a media id, a promise. Questions without an answer are left out.
 */
export async function messagesUpTo(conversation, exchange, column, part) {
  const messages = [];
  for (const each of upTo(conversation, exchange)) {
    const answer = answerIn(each, column);
    const isLast = each.id === exchange.id;
    if (!isLast && answer.text === "" && answer.state !== "done") continue;
    const content = await Promise.all(each.media.map(part));
    if (each.text) content.push({ type: "text", text: each.text });
    messages.push({ role: "user", content });
    if (!isLast) messages.push({ role: "assistant", content: answer.text });
  }
  return messages;
}

/** Answers that were being written when the page was left. */
export function interrupt(conversation) {
  for (const answer of conversation.exchanges.flatMap((each) => each.answers)) {
    if (answer.state === "waiting" || answer.state === "streaming") answer.state = "interrupted";
  }
  return conversation;
}

function titleOf(text) {
  const line = text.trim().split("\n")[0].trim();
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1)}…` : line;
}
