// Asks the server and writes its answers into conversations. Goes on while another conversation is
// shown; knows nothing of elements.

import { messagesUpTo } from "./conversation.js";
import { PageError, plain, ServerError } from "./errors.js";
import { partOf } from "./media.js";

const SAVE_MILLISECONDS = 1000;

export class Answering {
  #running = new Map(); // conversation id: {conversation, controller, isDiscarded}

  /**
   * changed(conversation, exchange, column): after each piece of an answer. refused(error): when the
   * server gives none.
   */
  constructor(api, store, { changed, refused }) {
    this.api = api;
    this.store = store;
    this.changed = changed;
    this.refused = refused;
  }

  isRunning(id) {
    return this.#running.has(id);
  }

  /** The conversation that is being answered, since the store's is older. */
  conversation(id) {
    return this.#running.get(id)?.conversation;
  }

  stop(id) {
    this.#running.get(id)?.controller.abort();
  }

  /** Stops, and saves nothing more: the conversation is to be deleted. */
  discard(id) {
    const run = this.#running.get(id);
    if (run) run.isDiscarded = true;
    this.stop(id);
  }

  /** Answers an exchange in some columns at once. Never throws: an answer holds its error. */
  async run(conversation, exchange, columns, fields) {
    const controller = new AbortController();
    const run = { conversation, controller, isDiscarded: false };
    this.#running.set(conversation.id, run);
    const save = () => run.isDiscarded || this.store.save(conversation).catch(() => {});
    const timer = setInterval(save, SAVE_MILLISECONDS);
    try {
      const answers = columns.map((column) =>
        this.#answer(conversation, exchange, column, fields, controller.signal),
      );
      await Promise.all(answers);
    } finally {
      clearInterval(timer);
      this.#running.delete(conversation.id);
      conversation.updated = Date.now();
      await save();
    }
  }

  /** Sends what the user thinks of an answer: "up", "down" or "none". */
  async vote(conversation, exchange, column, vote) {
    const answer = exchange.answers[column];
    const messages = await this.#messages(conversation, exchange, column);
    messages.push({ role: "assistant", content: answer.text });
    await this.api.vote({ vote, id: answer.id, model: answer.model, messages });
    answer.vote = vote;
    await this.store.save(conversation);
  }

  async #answer(conversation, exchange, column, fields, signal) {
    const answer = exchange.answers[column];
    const start = performance.now();
    const changed = () => {
      answer.seconds = (performance.now() - start) / 1000;
      this.changed(conversation, exchange, column);
    };
    try {
      const messages = await this.#messages(conversation, exchange, column);
      const body = { ...fields, model: answer.model, messages, stream_options: { include_usage: true } };
      for await (const chunk of this.api.answer(body, signal)) {
        answer.id ||= chunk.id;
        answer.tokens = chunk.usage?.completion_tokens ?? answer.tokens;
        const [choice] = chunk.choices;
        if (!choice) continue;
        answer.state = choice.finish_reason === null ? "streaming" : "done";
        if (choice.finish_reason === "length") answer.state = "cut";
        answer.text += choice.delta.content ?? "";
        changed();
      }
    } catch (error) {
      answer.state = signal.aborted ? "stopped" : "failed";
      if (!signal.aborted) {
        answer.note = plain(error);
        if (error instanceof ServerError) this.refused(error);
      }
    }
    changed();
  }

  #messages(conversation, exchange, column) {
    return messagesUpTo(conversation, exchange, column, async (id) => {
      const medium = await this.store.medium(id);
      if (!medium) throw new PageError("A picture or video of this conversation is not there any more.");
      return partOf(medium);
    });
  }
}
