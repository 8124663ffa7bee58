// Errors in plain words.

/** A fault that the user can read: what happened, and what to do. */
export class PageError extends Error {}

/** An answer of the server other than the one that was asked for; OpenAI's form. */
export class ServerError extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(typeof error.message === "string" ? error.message : `status ${status}`);
    this.status = status;
    this.code = error.code ?? null;
  }
}

/** The connection ended before the answer did, or never began. */
export class ConnectionLost extends Error {}

const BY_CODE = {
  context_length_exceeded:
    "The conversation is too long for the model. Edit an earlier question or start a new conversation.",
  invalid_media: "The server cannot read one of the pictures or videos.",
  image_too_large: "A picture is too large for the server.",
  too_many: "The conversation holds more than the server takes in one request.",
  model_not_found: "The server does not have this model any more. Choose another one.",
  internal_error: "The server made a mistake.",
  loading: "The model is still loading. Try again in a moment.",
  shutting_down: "The server is shutting down. Try again when it is back.",
  queue_full: "The server is busy. Try again in a few seconds.",
  bodies_full: "The server is busy. Try again in a few seconds.",
};

const BY_STATUS = {
  401: "The server needs an API key.",
  408: "The upload took too long. Try again.",
  413: "The pictures and videos of this conversation are too large together.",
  421: "The server answers only as localhost.",
  500: "The server made a mistake.",
  503: "The server is busy. Try again in a few seconds.",
  504: "The answer took too long, and the server gave up.",
  507: "The server could not keep the vote.",
};

/** {title, detail}: the sentence to show, and what the server said, if that adds anything. */
export function plain(error) {
  if (error instanceof PageError) return { title: error.message, detail: "" };
  if (error instanceof ServerError) {
    const title = BY_CODE[error.code] ?? BY_STATUS[error.status] ?? "The server refused the request.";
    return { title, detail: error.message };
  }
  if (error instanceof ConnectionLost) {
    return { title: "The connection to the server was lost. Nothing is lost: try again.", detail: "" };
  }
  if (error?.name === "QuotaExceededError") {
    return { title: "The browser has no more room. Export and delete some conversations.", detail: "" };
  }
  return { title: "Something in this page went wrong.", detail: String(error?.message ?? error) };
}
