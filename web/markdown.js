// Markdown as models write it, as DOM nodes. Whatever a text holds becomes text nodes: no string is
// ever read as HTML, links lead to http, https and mailto only, and images are links. Every step is
// linear in the text's length, and nesting is bounded, so that no text can hang the page.

const kDeepest = 8; // quotes and lists in each other
const kMostOpen = 32; // emphasis and brackets that wait for their other end

/** The text as nodes, all at once. */
export function render(text) {
  const out = document.createDocumentFragment();
  for (const block of blocks(text.split("\n"), 0)) out.append(element(block, 0));
  return out;
}

/** Keeps a box up to date with a text that grows. Only its last blocks can still change. */
export class Writer {
  #box;
  #text = "";
  #settled = 0; // offset of the first block that may change
  #open = []; // such blocks, with their elements

  constructor(box) {
    this.#box = box;
  }

  /** Shows `text`, which usually begins with what was shown before. */
  show(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text)) {
      this.#box.replaceChildren();
      this.#settled = 0;
      this.#open = [];
    }
    this.#text = text;
    const lines = text.slice(this.#settled).split("\n");
    const found = [...blocks(lines, 0)];
    const old = this.#open;
    found.forEach((block, i) => this.#place(block, old[i]));
    for (const gone of old.slice(found.length)) gone.element.remove();
    // The last line may become something else with its next letter, and so may the one above, which
    // is a table's head or not by what the last one is. Either may then belong to the block before.
    let first = found.length - 1;
    while (first > 0 && found[first].first > lines.length - 3) --first;
    this.#open = found.slice(Math.max(first, 0));
    if (first > 0) {
      const before = lines.slice(0, found[first].first);
      this.#settled += before.reduce((sum, line) => sum + line.length + 1, 0);
    }
  }

  #place(block, old) {
    if (old === undefined) {
      block.element = element(block, 0);
      this.#box.append(block.element);
    } else if (old.kind === "code" && block.kind === "code" && old.language === block.language) {
      block.element = old.element;
      grow(block.element.querySelector("code").firstChild, block.text);
    } else if (old.kind === "paragraph" && block.kind === "paragraph") {
      block.element = old.element;
      if (old.text !== block.text) block.element.replaceChildren(inline(block.text));
    } else {
      block.element = element(block, 0);
      old.element.replaceWith(block.element);
    }
  }
}

/** Brings a text node up to date without writing anew what is there. */
export function grow(node, text) {
  if (text.startsWith(node.data)) {
    if (text.length > node.data.length) node.appendData(text.slice(node.data.length));
  } else {
    node.data = text;
  }
}

// --- blocks

const kFence = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const kHeading = /^ {0,3}(#{1,6})(?=[ \t]|$)/;
const kQuote = /^ {0,3}> ?/;
const kItem = /^([ \t]*)([-*+]|\d{1,9}[.)])(?=[ \t]|$)/;

/** The text without the characters of `tail` that it ends with. */
function without(text, tail) {
  let end = text.length;
  while (end > 0 && tail.includes(text[end - 1])) --end;
  return text.slice(0, end);
}

const blank = (line) => line.trim() === "";
const isRule = (line) => /^(\*{3,}|-{3,}|_{3,})$/.test(line.replace(/[ \t]+/g, ""));
const indent = (line) => line.length - line.trimStart().length;

/** The cells of a table's row. */
function cells(line) {
  const out = [""];
  const text = line.trim().replace(/^\|/, "");
  for (let i = 0; i < text.length; ++i) {
    if (text[i] === "\\" && text[i + 1] === "|") {
      out[out.length - 1] += "|";
      ++i;
    } else if (text[i] === "|") {
      if (i + 1 < text.length) out.push("");
    } else {
      out[out.length - 1] += text[i];
    }
  }
  return out.map((cell) => cell.trim());
}

/** How a table's columns are aligned, when `line` is the one below its head; else null. */
function alignment(line) {
  if (!/^[ \t]*[|:-][ \t|:-]*$/.test(line) || !line.includes("-")) return null;
  const marks = cells(line);
  if (!marks.every((mark) => /^:?-+:?$/.test(mark))) return null;
  return marks.map((mark) =>
    mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : "left");
}

function tableAt(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length) return null;
  const align = alignment(lines[at + 1]);
  return align !== null && align.length === cells(lines[at]).length ? align : null;
}

/** Whether a line begins something that ends the paragraph before it. */
function interrupts(lines, at, depth) {
  const line = lines[at];
  return kFence.test(line) || kHeading.test(line) || isRule(line) || tableAt(lines, at) !== null ||
    (depth < kDeepest && (kQuote.test(line) || kItem.test(line)));
}

/** The blocks of some lines: {kind, first, end, ...}, the last two of them line numbers. */
function* blocks(lines, depth) {
  for (let at = 0; at < lines.length;) {
    if (blank(lines[at])) {
      ++at;
      continue;
    }
    const block = readBlock(lines, at, depth);
    yield { first: at, ...block };
    at = block.end;
  }
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  const fence = line.match(kFence);
  if (fence !== null) return readCode(lines, at, fence);
  const heading = line.match(kHeading);
  if (heading !== null) {
    const text = line.trimStart().slice(heading[1].length).trim();
    const bare = without(text, "#");
    const closed = bare === "" || bare !== bare.trimEnd();
    const level = heading[1].length;
    return { kind: "heading", level, text: closed ? bare.trim() : text, end: at + 1 };
  }
  if (isRule(line)) return { kind: "rule", end: at + 1 };
  const align = tableAt(lines, at);
  if (align !== null) return readTable(lines, at, align);
  if (depth < kDeepest && kQuote.test(line)) {
    let end = at;
    while (end < lines.length && kQuote.test(lines[end])) ++end;
    const inner = lines.slice(at, end).map((text) => text.replace(kQuote, ""));
    return { kind: "quote", lines: inner, end };
  }
  if (depth < kDeepest && kItem.test(line)) return readList(lines, at, depth);
  let end = at + 1;
  while (end < lines.length && !blank(lines[end]) && !interrupts(lines, end, depth)) ++end;
  return { kind: "paragraph", text: lines.slice(at, end).join("\n").trimEnd(), end };
}

function readCode(lines, at, [whole, mark, info]) {
  const margin = indent(whole);
  let end = at + 1;
  const closes = (line) => {
    const text = line.trim();
    return text.length >= mark.length && indent(line) < 4 && text === mark[0].repeat(text.length);
  };
  while (end < lines.length && !closes(lines[end])) ++end;
  const text = lines.slice(at + 1, end)
    .map((line) => line.slice(Math.min(margin, indent(line)))).join("\n");
  const language = info.trim().split(/\s/, 1)[0];
  return { kind: "code", language, text, end: Math.min(end + 1, lines.length) };
}

function readTable(lines, at, align) {
  let end = at + 2;
  while (end < lines.length && !blank(lines[end]) && lines[end].includes("|")) ++end;
  const rows = lines.slice(at + 2, end).map(cells);
  return { kind: "table", align, head: cells(lines[at]), rows, end };
}

/** Items of one kind of mark. What is indented deeper than the mark belongs to its item. */
function readList(lines, at, depth) {
  const [, , mark] = lines[at].match(kItem);
  const kind = mark.slice(-1);
  const margin = indent(lines[at]);
  const items = [];
  let end = at, inCode = null, loose = false;
  for (; end < lines.length; ++end) {
    const line = lines[end];
    const item = inCode === null ? line.match(kItem) : null;
    if (item !== null && indent(line) <= margin) {
      if (item[2].slice(-1) !== kind || isRule(line)) break;
      const blanks = line.slice(item[0].length).match(/^[ \t]{0,4}/)[0].length;
      const width = item[0].length + (blanks || 1);
      items.push({ width, lines: [line.slice(width)] });
      inCode = fenceAfter(null, line.slice(width));
      continue;
    }
    if (!blank(line) && indent(line) <= margin) {
      // A line at the margin goes on with the item's text if it follows at once and begins nothing.
      if (inCode !== null || blank(lines[end - 1]) || interrupts(lines, end, depth)) break;
    }
    const last = items[items.length - 1];
    const text = line.slice(Math.min(last.width, indent(line)));
    last.lines.push(text);
    inCode = fenceAfter(inCode, text);
  }
  while (blank(lines[end - 1])) {
    --end;
    items[items.length - 1].lines.pop();
  }
  loose = lines.slice(at, end).some(blank);
  const start = /^\d/.test(mark) ? parseInt(mark, 10) : null;
  return { kind: "list", start, loose, items: items.map((item) => item.lines), end };
}

/** The mark of the code block that is open after a line. */
function fenceAfter(open, line) {
  if (open === null) return line.match(kFence)?.[1] ?? null;
  const text = line.trim();
  return text.length >= open.length && text === open[0].repeat(text.length) ? null : open;
}

// --- elements

function make(name, ...children) {
  const out = document.createElement(name);
  out.append(...children);
  return out;
}

/** Any number of nodes as one. */
function gathered(nodes) {
  const out = document.createDocumentFragment();
  for (const node of nodes) out.append(node);
  return out;
}

function element(block, depth) {
  switch (block.kind) {
    case "heading": return make("h" + Math.min(block.level + 2, 6), inline(block.text));
    case "rule": return make("hr");
    case "code": return codeElement(block);
    case "table": return tableElement(block);
    case "quote": return make("blockquote", within(block.lines, depth + 1, true));
    case "list": {
      const out = make(block.start === null ? "ul" : "ol");
      if (block.start !== null) out.start = block.start;
      for (const lines of block.items) {
        out.append(make("li", within(lines, depth + 1, block.loose)));
      }
      return out;
    }
    default: return make("p", inline(block.text));
  }
}

/** The blocks in a quote or an item; a tight item's text stands without a paragraph around it. */
function within(lines, depth, paragraphs) {
  const out = document.createDocumentFragment();
  for (const block of blocks(lines, depth)) {
    const bare = !paragraphs && block.kind === "paragraph";
    out.append(bare ? inline(block.text) : element(block, depth));
  }
  return out;
}

function codeElement({ language, text }) {
  const copy = make("button", "Copy");
  copy.type = "button";
  copy.className = "copy";
  const code = make("code", document.createTextNode(text));
  const pre = make("pre", code);
  pre.tabIndex = 0; // so that wide lines can be reached with the keyboard
  const out = make("figure", make("figcaption", make("span", language || "code"), copy), pre);
  out.className = "code";
  return out;
}

function tableElement({ align, head, rows }) {
  const row = (name, texts) => {
    const out = make("tr");
    const last = align.length - 1; // it takes what is too much
    align.forEach((side, i) => {
      const cell = make(name, inline(i < last ? texts[i] ?? "" : texts.slice(last).join(" | ")));
      if (side !== "left") cell.className = side;
      out.append(cell);
    });
    return out;
  };
  const body = gathered(rows.map((texts) => row("td", texts)));
  const out = make("div", make("table", make("thead", row("th", head)), make("tbody", body)));
  out.className = "table";
  out.tabIndex = 0;
  return out;
}

// --- inside a paragraph

const kSpecial = /[\\`*_~[\]]|https?:\/\//g;
const kEscaped = /[!-/:-@[-`{-~]/;
const kWord = /[\p{L}\p{N}_]/u;
// (address "title") after a link's text; every repetition has a bound, so that none can be slow.
const kTarget = new RegExp(String.raw`\([ \t]{0,8}` +
  String.raw`(?:<([^<>\n]{0,2000})>|((?:[^\s()<>]|\([^\s()<>]{0,500}\)){0,2000}))` +
  String.raw`(?:[ \t]{1,8}(?:"[^"]{0,500}"|'[^']{0,500}'))?[ \t]{0,8}\)`, "y");
const kAddress = /https?:\/\/[^\s<>"`]{1,2000}/y;
const kTags = { "*1": "em", "_1": "em", "*2": "strong", "_2": "strong", "~2": "del" };

/** An address that is safe to offer, in full; else null. */
function safe(address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    return new URL(address).href;
  } catch {
    return null;
  }
}

function link(address, content) {
  const out = make("a", content);
  out.href = out.title = address;
  out.target = "_blank";
  out.rel = "noopener noreferrer nofollow";
  return out;
}

/** For every run of backticks, by its offset, where the next one as long begins. */
function codeSpans(text) {
  const next = new Map(), seen = new Map();
  for (const run of [...text.matchAll(/`+/g)].reverse()) {
    next.set(run.index, seen.get(run[0].length));
    seen.set(run[0].length, run.index);
  }
  return next;
}

/** Emphasis, code, links and addresses of one text. */
function inline(text) {
  return new Inline(text).nodes();
}

class Inline {
  #text;
  #at = 0;
  #parts = []; // nodes so far; marks that wait for their other end are text among them
  #open = []; // those marks: {mark, size, part}, part being their place in #parts
  #spans;

  constructor(text) {
    this.#text = text;
  }

  nodes() {
    this.#spans = codeSpans(this.#text);
    while (this.#at < this.#text.length) {
      kSpecial.lastIndex = this.#at;
      const found = kSpecial.exec(this.#text);
      const next = found?.index ?? this.#text.length;
      if (next > this.#at) this.#say(this.#text.slice(this.#at, next));
      this.#at = next;
      if (found !== null) this.#special(found[0]);
    }
    return gathered(this.#parts);
  }

  #say(text) {
    this.#parts.push(document.createTextNode(text));
    this.#at += text.length;
  }

  /** How often a character stands here in a row. */
  #run(mark) {
    let end = this.#at;
    while (this.#text[end] === mark) ++end;
    return end - this.#at;
  }

  #special(mark) {
    if (mark === "\\") this.#escape();
    else if (mark === "`") this.#code();
    else if (mark === "[") this.#wait("[", 1);
    else if (mark === "]") this.#target();
    else if (mark.length > 1) this.#address();
    else this.#emphasis(mark);
  }

  #escape() {
    const next = this.#text[this.#at + 1] ?? "";
    if (!kEscaped.test(next)) return this.#say("\\");
    ++this.#at;
    this.#say(next);
  }

  #code() {
    const size = this.#run("`");
    const end = this.#spans.get(this.#at);
    if (end === undefined) return this.#say("`".repeat(size));
    let code = this.#text.slice(this.#at + size, end).replaceAll("\n", " ");
    if (code.startsWith(" ") && code.endsWith(" ") && !blank(code)) code = code.slice(1, -1);
    this.#parts.push(make("code", code));
    this.#at = end + size;
  }

  /** A mark whose other end may come; until then it is text. */
  #wait(mark, size) {
    if (this.#open.length < kMostOpen) this.#open.push({ mark, size, part: this.#parts.length });
    this.#say(mark.repeat(size));
  }

  /** At a closing bracket: a link, when an address follows. */
  #target() {
    const place = this.#open.findLastIndex((open) => open.mark === "[");
    if (place < 0) return this.#say("]");
    const { part } = this.#open[place];
    kTarget.lastIndex = this.#at + 1;
    const found = kTarget.exec(this.#text);
    const address = found && safe(found[1] ?? found[2]);
    if (!address) {
      this.#open.splice(place, 1);
      return this.#say("]");
    }
    this.#at = kTarget.lastIndex;
    const inner = this.#parts.splice(part).slice(1);
    const before = this.#parts[part - 1];
    if (before instanceof Text && before.data.endsWith("!")) {
      before.data = before.data.slice(0, -1); // an image is shown as a link
    }
    this.#parts.push(link(address, inner.length > 0 ? gathered(inner) : address));
    this.#open = this.#open.slice(0, place).filter((open) => open.mark !== "[");
  }

  #address() {
    kAddress.lastIndex = this.#at;
    const found = kAddress.exec(this.#text)?.[0] ?? "";
    let address = without(found, ".,;:!?'*_~]");
    if (address.endsWith(")") && !address.includes("(")) address = address.slice(0, -1);
    const href = safe(address);
    const inLink = this.#open.some((open) => open.mark === "[");
    if (!href || inLink || kWord.test(this.#text[this.#at - 1] ?? "")) return this.#say("http");
    this.#parts.push(link(href, address));
    this.#at += address.length;
  }

  #emphasis(mark) {
    let left = this.#run(mark);
    const before = this.#text[this.#at - 1] ?? " ", after = this.#text[this.#at + left] ?? " ";
    const inWord = mark === "_" && kWord.test(before) && kWord.test(after);
    if (left > 3 || inWord || (mark === "~" && left !== 2)) return this.#say(mark.repeat(left));
    const closes = !/\s/.test(before) && (mark !== "_" || !kWord.test(after));
    const opens = !/\s/.test(after) && (mark !== "_" || !kWord.test(before));
    while (closes && left > 0) {
      const place = this.#open.findLastIndex((open) => open.mark === mark);
      const open = this.#open[place];
      if (!open || open.size > left || open.part === this.#parts.length - 1) break;
      this.#open.length = place;
      const inner = gathered(this.#parts.splice(open.part).slice(1));
      this.#parts.push(make(kTags[mark + open.size], inner));
      left -= open.size;
      this.#at += open.size;
    }
    while (left > 0) {
      const size = Math.min(left, 2); // three are strong and emphasis
      if (opens) this.#wait(mark, size);
      else this.#say(mark.repeat(size));
      left -= size;
    }
  }
}
