// Keeps conversations and media in the browser (IndexedDB).

const NAME = "owl_jax";
const VERSION = 1;

/** The store, or one that forgets with the page where the browser keeps nothing. */
export async function openStore() {
  try {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      const media = request.result.createObjectStore("media", { keyPath: "id" });
      media.createIndex("conversation", "conversation");
    };
    return new Store(await result(request));
  } catch {
    return new Memory();
  }
}

class Store {
  isKept = true;
  #database;

  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close();
  }

  /** {id, title, updated} of all conversations, the newest first. */
  async list() {
    const all = await result(this.#open("conversations").getAll());
    return all.sort((a, b) => b.updated - a.updated);
  }

  conversation(id) {
    return result(this.#open("conversations").get(id));
  }

  async save(conversation) {
    await result(this.#open("conversations", "readwrite").put(conversation));
  }

  /** Saves only the draft: another tab may have a newer conversation. */
  async saveDraft(conversation) {
    const conversations = this.#open("conversations", "readwrite");
    const found = await result(conversations.get(conversation.id));
    await result(conversations.put({ ...(found ?? conversation), draft: conversation.draft }));
  }

  /** Removes a conversation and its media. */
  async remove(id) {
    for (const medium of await this.mediaOf(id)) await this.removeMedium(medium.id);
    await result(this.#open("conversations", "readwrite").delete(id));
  }

  /** A medium: {id, conversation, kind, name, blob, frames, seconds}. */
  medium(id) {
    return result(this.#open("media").get(id));
  }

  mediaOf(conversation) {
    return result(this.#open("media").index("conversation").getAll(conversation));
  }

  async saveMedium(medium) {
    await result(this.#open("media", "readwrite").put(medium));
  }

  async removeMedium(id) {
    await result(this.#open("media", "readwrite").delete(id));
  }

  #open(name, mode = "readonly") {
    return this.#database.transaction(name, mode).objectStore(name);
  }
}

class Memory {
  isKept = false;
  #conversations = new Map();
  #media = new Map();

  async list() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  async conversation(id) {
    return this.#conversations.get(id);
  }

  async save(conversation) {
    this.#conversations.set(conversation.id, conversation);
  }

  async saveDraft(conversation) {
    await this.save(conversation);
  }

  async remove(id) {
    for (const medium of await this.mediaOf(id)) this.#media.delete(medium.id);
    this.#conversations.delete(id);
  }

  async medium(id) {
    return this.#media.get(id);
  }

  async mediaOf(conversation) {
    return [...this.#media.values()].filter((medium) => medium.conversation === conversation);
  }

  async saveMedium(medium) {
    this.#media.set(medium.id, medium);
  }

  async removeMedium(id) {
    this.#media.delete(id);
  }
}

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older store"));
  });
}
