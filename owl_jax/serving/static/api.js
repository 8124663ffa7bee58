// The server's paths.

import { ConnectionLost, PageError, ServerError } from "./errors.js";

export class Api {
  /** key: of the API; "" if none is needed or known. */
  constructor(key = "") {
    this.key = key;
    this.facts = {};
  }

  /** What the server says about itself, and its models: [{id, max_model_len, ...}]. */
  async open() {
    this.facts = await this.#json("/server.json");
    return (await this.#json("/v1/models")).data;
  }

  /**
   * The chunks of a streamed answer. Throws ServerError, ConnectionLost, and PageError for a request
   * that the server would not read; an abort throws AbortError.
   */
  async *answer(body, signal) {
    const response = await this.#post("/v1/chat/completions", { ...body, stream: true }, signal);
    let isComplete = false;
    for await (const data of events(response.body, signal)) {
      if (data === "[DONE]") {
        isComplete = true;
        continue; // to the end of the response: leaving now would cancel it
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(response.status, chunk);
      yield chunk;
    }
    if (!isComplete) throw new ConnectionLost();
  }

  /** Sends a vote: {vote, id, model, messages}. */
  async vote(body) {
    await this.#post("/votes", body);
  }

  async #json(path) {
    return (await this.#fetch(path, {})).json();
  }

  async #post(path, body, signal) {
    const text = JSON.stringify(body);
    const most = this.facts.max_body_bytes ?? Infinity;
    // The server closes the connection to a body that is too large, before its answer is read.
    const size = new Blob([text]).size;
    if (size > most) {
      throw new PageError(
        `The pictures and videos of this conversation are too large together: ${megabytes(size)}, and ` +
          `the server takes ${megabytes(most)}. Remove some or start a new conversation.`,
      );
    }
    const headers = { "Content-Type": "application/json" };
    return this.#fetch(path, { method: "POST", headers, body: text, signal });
  }

  async #fetch(path, options) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, credentials: "omit" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      throw new ConnectionLost();
    }
    if (response.ok) return response;
    throw new ServerError(response.status, await response.json().catch(() => null));
  }
}

/** The data of server-sent events. */
async function* events(stream, signal) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let piece;
      try {
        piece = await reader.read();
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new ConnectionLost();
      }
      if (piece.done) return;
      const parts = (rest + piece.value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) if (part.startsWith("data: ")) yield part.slice("data: ".length);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function megabytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MB`;
}
