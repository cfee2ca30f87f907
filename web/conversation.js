// What has been asked and answered in this tab: kept over a reload, and cut to what the model's
// context holds.

const kStore = "moesaic";
export const kUnknown = Number.MAX_SAFE_INTEGER; // tokens, when nobody has counted them

/** Thinking and answer of what a model wrote; `thinking` is true while only the former has come. */
export function parts(raw) {
  const text = raw.trimStart();
  if (text !== "" && "<think>".startsWith(text)) return { thought: "", answer: "", thinking: true };
  const opened = text.startsWith("<think>");
  // Some templates end with the opening mark, so that the model writes the closing one alone.
  const end = opened ? text.indexOf("</think>") : text.search(/^[ \t]*<\/think>/m);
  if (!opened && end < 0) return { thought: "", answer: raw, thinking: false };
  const start = opened ? "<think>".length : 0;
  if (end < 0) return { thought: text.slice(start).trim(), answer: "", thinking: true };
  const answer = text.slice(text.indexOf("</think>", end) + "</think>".length).trimStart();
  return { thought: text.slice(start, end).trim(), answer, thinking: false };
}

/**
 * A list of exchanges. One is a question and its answer, or a text and its completion (`completion`
 * true): {question, raw, thought, note, open, failed}. `raw` is what came, `thought` what came as
 * reasoning of its own; `open` while it comes; `failed` when there is no answer, so that the
 * question is not sent again with the next one.
 */
export class Conversation {
  exchanges = [];
  left = 0; // exchanges at the beginning that no longer fit the context
  tokens = 0; // of all that was sent and answered last

  static restored() {
    const out = new Conversation();
    const saved = stored().conversation; // perhaps by another version of this page
    const known = (one) => typeof one?.question === "string" && typeof one.raw === "string";
    if (!Array.isArray(saved?.exchanges) || !saved.exchanges.every(known)) return out;
    out.exchanges = saved.exchanges.map((one) => ({ ...out.#empty(one.question, false), ...one }));
    out.left = Number(saved.left) || 0;
    out.tokens = Number(saved.tokens) || 0;
    for (const exchange of out.exchanges) {
      if (exchange.open) out.close(exchange, "broken off when the page was left");
    }
    return out;
  }

  save() {
    const { exchanges, left, tokens } = this;
    store({ conversation: { exchanges, left, tokens } });
  }

  open(question, completion) {
    const exchange = this.#empty(question, completion);
    this.exchanges.push(exchange);
    this.save();
    return exchange;
  }

  #empty(question, completion) {
    return { question, completion, raw: "", thought: "", note: "", open: true, failed: false };
  }

  close(exchange, note) {
    exchange.open = false;
    exchange.note = note;
    exchange.failed = !exchange.completion && parts(exchange.raw).answer.trim() === "";
  }

  drop(exchange) {
    const place = this.exchanges.indexOf(exchange);
    if (place < 0) return;
    this.exchanges.splice(place, 1);
    if (place < this.left) --this.left;
    this.save();
  }

  /** Messages for the model; the question last. What a model thought is not sent back. */
  messages(system, question) {
    const out = system ? [{ role: "system", content: system }] : [];
    for (const exchange of this.#sent()) {
      out.push({ role: "user", content: exchange.question });
      out.push({ role: "assistant", content: parts(exchange.raw).answer });
    }
    out.push({ role: "user", content: question });
    return out;
  }

  /**
   * Leaves out the oldest exchanges until the messages and an answer of `reserve` tokens fit
   * `context`. `count` gives the tokens of messages; it is not called when they fit in any case.
   */
  async fit(system, question, context, reserve, count) {
    // No token is less than a byte, and 64 are enough for the template's own.
    const bytes = new TextEncoder().encode(system + question).length;
    if (this.tokens + bytes + 64 + reserve <= context) return;
    while (this.#sent().length > 0) {
      if (await count(this.messages(system, question)) + reserve <= context) return;
      this.left = this.exchanges.indexOf(this.#sent()[0]) + 1;
    }
  }

  #sent() {
    return this.exchanges.slice(this.left).filter(({ open, failed, completion }) =>
      !open && !failed && !completion);
  }
}

// --- this tab's storage: gone with the tab, and no other tab's

export function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(kStore)) ?? {};
  } catch {
    return {};
  }
}

/** Adds to what is stored; where there is no room for it, a reload begins anew. */
export function store(more) {
  try {
    sessionStorage.setItem(kStore, JSON.stringify({ ...stored(), ...more }));
  } catch (error) {
    console.warn("not kept for a reload:", error.message);
  }
}
