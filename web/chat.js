// The conversation as it is seen: one box for each exchange, painted while its answer comes.

import { Writer, grow } from "./markdown.js";
import { parts } from "./conversation.js";

function box(name, kind, text = "") {
  const out = document.createElement(name);
  out.className = kind;
  out.textContent = text;
  return out;
}

function button(text, pressed) {
  const out = box("button", "", text);
  out.type = "button";
  out.addEventListener("click", pressed);
  return out;
}

/** The boxes of one exchange. */
class View {
  constructor(exchange) {
    this.exchange = exchange;
    this.element = box("div", "exchange");
    this.answer = box("div", "message assistant");
    if (exchange.completion) {
      this.answer.classList.add("completion");
      this.said = document.createTextNode("");
      this.answer.append(box("span", "prompt", exchange.question), this.said);
      this.element.append(this.answer);
    } else {
      this.thought = box("details", "thought");
      this.thinking = document.createTextNode("");
      const thinking = box("div", "");
      thinking.append(this.thinking);
      this.thought.append(box("summary", ""), thinking);
      this.thought.hidden = true;
      const text = box("div", "text");
      this.writer = new Writer(text);
      this.answer.append(this.thought, text);
      this.element.append(box("div", "message user", exchange.question), this.answer);
    }
    this.note = box("p", "note");
    this.element.append(this.note);
  }

  paint() {
    const { raw, completion, open, note } = this.exchange;
    if (completion) {
      grow(this.said, raw);
    } else {
      const { thought, answer, thinking } = parts(raw);
      this.#think(this.exchange.thought || thought, open && (thinking || answer === ""));
      this.writer.show(answer);
    }
    this.answer.classList.toggle("waiting", open);
    this.answer.setAttribute("aria-busy", open);
    this.note.firstChild?.nodeType === Node.TEXT_NODE ? grow(this.note.firstChild, note)
      : this.note.prepend(note);
  }

  #think(thought, thinking) {
    this.thought.hidden = thought === "";
    if (thought === "") return;
    const words = thinking ? "Thinking…" : "Thoughts";
    const title = this.thought.firstChild;
    if (title.textContent !== words) title.textContent = words;
    grow(this.thinking, thought);
  }
}

/** The log of a conversation. It follows what comes as long as its end is in sight. */
export class Chat {
  #log;
  #hints;
  #views = new Map();
  #waiting = null; // the view to be painted with the next frame
  #notBefore = 0;

  constructor(log, hints) {
    this.#log = log;
    this.#hints = hints;
    log.addEventListener("click", (event) => {
      if (event.target.classList.contains("copy")) copy(event.target);
    });
  }

  /** Begins anew with a conversation. */
  show(conversation) {
    this.#log.replaceChildren();
    this.#views.clear();
    this.#waiting = null;
    if (conversation.exchanges.length === 0) this.#log.append(this.#hints);
    for (const exchange of conversation.exchanges) this.add(exchange);
    this.#end();
  }

  add(exchange) {
    this.#hints.remove();
    const view = new View(exchange);
    this.#views.set(exchange, view);
    this.#log.append(view.element);
    view.paint();
    this.#end();
  }

  remove(exchange) {
    this.#views.get(exchange)?.element.remove();
    this.#views.delete(exchange);
  }

  /** Paints an exchange with the next frame, but never for more than a fifth of the time. */
  later(exchange) {
    if (this.#waiting === null) requestAnimationFrame(() => this.#frame());
    this.#waiting = exchange;
  }

  #frame() {
    if (this.#waiting === null) return;
    const begin = performance.now();
    if (begin < this.#notBefore) return void requestAnimationFrame(() => this.#frame());
    this.now(this.#waiting);
    const end = performance.now();
    this.#notBefore = end + 4 * (end - begin);
  }

  /** Paints an exchange at once. */
  now(exchange) {
    this.#waiting = null;
    const view = this.#views.get(exchange);
    if (view === undefined) return; // its conversation is no longer shown
    const follow = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 80;
    view.paint();
    if (follow) this.#end();
  }

  /** Offers something to do beside an exchange's note. */
  offer(exchange, text, pressed) {
    const view = this.#views.get(exchange);
    view?.note.append(" ", button(text, pressed));
    if (view) this.#end();
  }

  withdraw(exchange) {
    const offered = this.#views.get(exchange)?.note.querySelectorAll("button") ?? [];
    for (const button of offered) button.remove();
  }

  /** Marks the place from which on the conversation is sent to the model. */
  mark(conversation) {
    this.#log.querySelector(".left")?.remove();
    const first = this.#views.get(conversation.exchanges[conversation.left]);
    if (conversation.left === 0 || first === undefined) return;
    const words = "What stands above no longer fits the model's context and is not sent.";
    first.element.before(box("p", "left", words));
  }

  #end() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }
}

/** Puts the code beside a button on the clipboard, and says on the button what came of it. */
async function copy(pressed) {
  const code = pressed.closest("figure").querySelector("code");
  let done;
  try {
    await navigator.clipboard.writeText(code.textContent);
    done = true;
  } catch {
    // Without TLS browsers offer no clipboard but this, except to the machine itself.
    getSelection().selectAllChildren(code);
    done = document.execCommand("copy");
  }
  pressed.textContent = done ? "Copied" : "Press Ctrl+C";
  setTimeout(() => { pressed.textContent = "Copy"; }, 2000);
}
