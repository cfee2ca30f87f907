// The page: what is asked and answered on the left, the experts on the right, the server's state
// above.

import { Chat } from "./chat.js";
import { Conversation, kUnknown, store, stored } from "./conversation.js";
import { Experts } from "./experts.js";
import { Refused, inWords, request, setKey, stream, watch } from "./server.js";

const at = (id) => document.getElementById(id);
const input = at("input");
const kFields = ["mode", "temperature", "max_tokens", "system"];
const kPrompts = {
  chat: ["Who are you?", "What is 17 + 26?", "Tell me a short story."],
  completion: ["Once upon a time there was", "The three most important things are"],
};
const kCompletion = 256; // tokens of a completion without a limit: it may never end by itself

let conversation = Conversation.restored();
let running = null; // {stop, exchange} of the answer that comes
let server = null; // {started, model, context, canRead} as soon as it is known
let away = false; // it has been known and does not answer
let leaving = false; // the page is being left, which breaks the answer off

const hints = document.createElement("div");
hints.id = "hints";
hints.setAttribute("aria-label", "Things to begin with");
const chat = new Chat(at("log"), hints);
const experts = new Experts(at("experts"),
  { summary: at("summary"), busiest: at("busiest"), cell: at("cell") });

// --- the server

function seen({ load, models }) {
  if (models !== null) found(load, models);
  experts.show(load);
  at("views").hidden = load.layers === 0;
  const { first_token_seconds: first, inter_token_seconds: next } = load;
  const words = [];
  if (first !== null) words.push(`first token ${milliseconds(first)}`);
  if (next > 0) words.push(`${Math.round(1 / next)} tokens/s`);
  if (words.length > 0) speed = words.join(", then ") + " · ";
  at("speed").textContent = `${speed}${load.running} running, ${load.waiting} waiting`;
}
let speed = ""; // as it was last; an idle server has none

function milliseconds(seconds) {
  return seconds < 1 ? `${Math.round(1000 * seconds)} ms` : `${seconds.toFixed(1)} s`;
}

/** The server is there: for the first time, again, or another one in its place. */
function found(load, models) {
  const anew = server !== null && server.started !== load.started;
  const chosen = models.find((card) => card.id === server?.model) ?? models[0];
  const { chat: canChat, text: canRead } = load.model;
  server = { started: load.started, model: chosen.id, context: chosen.max_model_len, canRead };
  showModels(models);
  notice(anew ? "The server has been started anew." : away ? "The server is back." : "", 8000);
  away = false;
  if (!canRead) notice("This server has no tokenizer: it takes token ids, which this page cannot.");
  offerModes(canChat);
}

/** A model without a chat template can only go on with a text. */
function offerModes(canChat) {
  const chat = at("mode").options[0];
  if (chat.disabled === canChat) at("mode").value = canChat ? "chat" : "completion";
  chat.disabled = !canChat;
  modeChanged();
}

function lost(error) {
  away = server !== null && !(error instanceof Refused);
  if (server === null) at("model").textContent = "not connected";
  notice(inWords(error) + (error instanceof Refused ? "" : " Trying again…"));
}

/** The models' names: one as text, several to choose from. */
function showModels(models) {
  const label = (card) => `${card.id}, context ${card.max_model_len}`;
  if (models.length === 1) {
    at("model").textContent = label(models[0]);
    return;
  }
  const picker = document.createElement("select");
  picker.setAttribute("aria-label", "Model");
  for (const card of models) {
    picker.append(new Option(label(card), card.id, false, card.id === server.model));
  }
  picker.addEventListener("change", () => {
    server.model = picker.value;
    server.context = models[picker.selectedIndex].max_model_len;
  });
  at("model").replaceChildren(picker);
}

/** Says something above the input, for some time or until something else is said. */
function notice(text, forMilliseconds = 0) {
  clearTimeout(noticeTimer);
  if (at("notice").textContent !== text) at("notice").textContent = text;
  if (text && forMilliseconds > 0) noticeTimer = setTimeout(() => notice(""), forMilliseconds);
}
let noticeTimer = 0;

// --- asking

/** The settings, or null after telling what is wrong with one. */
function settings() {
  for (const field of [at("temperature"), at("max_tokens")]) {
    if (field.checkValidity()) continue;
    at("settings").open = true;
    field.focus();
    notice(`${field.labels[0].firstChild.textContent.trim()}: ${field.validationMessage}`);
    return null;
  }
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  return {
    completion: at("mode").value === "completion", system: at("system").value.trim(),
    temperature: number("temperature"), max_tokens: number("max_tokens"),
  };
}

/** Whether something can be asked now; says why not. */
function ready() {
  if (running !== null) {
    notice("The answer is still coming. Stop it first, with the button or Esc.", 5000);
    return false;
  }
  if (server === null) {
    if (at("notice").textContent === "") notice("Not connected to the server yet.");
    if (at("notice").textContent.includes("API key")) {
      at("settings").open = true;
      at("key").focus();
    }
    return false;
  }
  return server.canRead;
}

async function count(messages) {
  const answer = await request("tokenize", { body: { model: server.model, messages } });
  return (await answer.json()).count;
}

/** The path and body of a request. */
async function prepared(exchange, wanted, its) {
  const body = {
    model: server.model, stream: true, stream_options: { include_usage: true },
    temperature: wanted.temperature, max_tokens: wanted.max_tokens,
  };
  if (exchange.completion) {
    const prompt = exchange.question + exchange.raw;
    return ["v1/completions", { ...body, max_tokens: wanted.max_tokens ?? kCompletion, prompt }];
  }
  const reserve = Math.min(wanted.max_tokens ?? 512, Math.floor(server.context / 4));
  await its.fit(wanted.system, exchange.question, server.context, reserve, count);
  if (its === conversation) chat.mark(its);
  const messages = its.messages(wanted.system, exchange.question);
  return ["v1/chat/completions", { ...body, messages }];
}

function ask(question, wanted) {
  const exchange = conversation.open(question, wanted.completion);
  chat.add(exchange);
  return answer(exchange, wanted);
}

/** Gets the answer to an exchange, or more of a completion. */
async function answer(exchange, wanted) {
  const its = conversation; // another may be begun while this one's answer comes
  const run = running = { stop: new AbortController(), exchange };
  exchange.open = true;
  busy(true);
  notice("");
  chat.withdraw(exchange);
  let note = "", failure = null;
  try {
    const [path, body] = await prepared(exchange, wanted, its);
    if (!exchange.completion) its.tokens = kUnknown; // unless the answer ends in order
    for await (const event of stream(path, body, run.stop.signal)) {
      note = take(event, exchange, its) ?? note;
      if (its === conversation) chat.later(exchange);
    }
  } catch (error) {
    if (run.stop.signal.aborted) note = "stopped";
    else failure = error;
  }
  if (leaving || its !== conversation) return;
  its.close(exchange, failure === null ? note : inWords(failure));
  running = null;
  busy(false);
  its.save();
  chat.now(exchange);
  offers(exchange, its, failure);
  if (failure !== null) lookAgain();
}

/** Adds what an event brings; returns a note when it says why the answer ends. */
function take(event, exchange, its) {
  const choice = event.choices[0];
  exchange.raw += choice?.delta?.content ?? choice?.text ?? "";
  exchange.thought += choice?.delta?.reasoning ?? choice?.delta?.reasoning_content ?? "";
  if (event.usage && !exchange.completion) its.tokens = event.usage.total_tokens;
  return choice?.finish_reason === "length" ? "cut at the limit of tokens" : undefined;
}

/** What can be done after an exchange. */
function offers(exchange, its, failure) {
  if (exchange.completion && failure === null) {
    chat.offer(exchange, "Go on", () => {
      const wanted = ready() ? settings() : null;
      if (wanted !== null) answer(exchange, wanted);
    });
  }
  if (!exchange.failed && failure === null) return;
  chat.offer(exchange, "Edit and send again", () => {
    if (running !== null) return void ready();
    its.drop(exchange);
    chat.remove(exchange);
    input.value = [exchange.question, input.value].filter(Boolean).join("\n");
    grow();
    input.focus();
  });
}

function busy(is) {
  at("send").hidden = is;
  const focused = document.activeElement === at("stop");
  at("stop").hidden = !is;
  if (!is && focused) input.focus();
}

// --- the form

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("mode").value === "chat" ? input.value.trim() : input.value;
  if (question.trim() === "" || !ready()) return;
  const wanted = settings();
  if (wanted === null) return;
  input.value = "";
  grow();
  // On phones the keyboard would cover what comes.
  if (matchMedia("(pointer: fine)").matches) input.focus();
  ask(question, wanted);
});

function stop() {
  running?.stop.abort();
}
at("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running !== null && event.target !== at("experts")) stop();
});

function grow() {
  input.style.height = "auto";
  input.style.height = input.scrollHeight + 2 + "px";
}
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  const composing = event.isComposing || event.keyCode === 229; // 229: Safari's last key of a word
  if (event.key === "Enter" && !event.shiftKey && !composing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});

at("reset").addEventListener("click", () => {
  stop();
  running = null;
  busy(false);
  conversation = new Conversation();
  conversation.save();
  chat.show(conversation);
  input.focus();
});

function modeChanged() {
  const mode = at("mode").value;
  input.placeholder = mode === "chat" ? "Ask something" : "Begin a text, and the model goes on";
  at("max_tokens").placeholder = mode === "chat" ? "no limit" : String(kCompletion);
  at("system").disabled = mode !== "chat";
  hints.replaceChildren();
  for (const text of kPrompts[mode]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => {
      const wanted = ready() ? settings() : null;
      if (wanted !== null) ask(text, wanted);
    });
    hints.append(button);
  }
}
at("mode").addEventListener("change", modeChanged);

at("key").addEventListener("change", () => {
  setKey(at("key").value);
  lookAgain();
});

for (const view of ["now", "all"]) {
  at(view).addEventListener("click", () => {
    experts.select(view);
    for (const id of ["now", "all"]) at(id).setAttribute("aria-pressed", id === view);
  });
}
at("panel").addEventListener("click", () => {
  const shown = document.body.classList.toggle("experts");
  at("panel").setAttribute("aria-expanded", shown);
  at("panel").textContent = shown ? "Conversation" : "Experts";
});

// --- over a reload

function keep() {
  conversation.save();
  const fields = Object.fromEntries(kFields.map((id) => [id, at(id).value]));
  store({ fields, key: at("key").value, draft: input.value });
}
addEventListener("pagehide", () => {
  leaving = true;
  keep();
});
addEventListener("pageshow", () => { leaving = false; });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) keep();
});

const before = stored();
for (const id of kFields) at(id).value = before.fields?.[id] ?? at(id).value;
at("key").value = before.key ?? "";
input.value = before.draft ?? "";
setKey(at("key").value);
modeChanged();
chat.show(conversation);
chat.mark(conversation);
for (const exchange of conversation.exchanges) {
  if (exchange.failed) offers(exchange, conversation, null);
}
grow();
const lookAgain = watch({ seen, lost, busy: () => running !== null });
