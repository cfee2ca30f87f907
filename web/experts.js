// The picture of the experts: a row for each layer that has them, a column for each expert, as warm
// as its share of the layer's tokens.

const kCold = "--cold", kHot = "--hot";
const kAxis = { left: 48, top: 18, bottom: 22, legend: 44 }; // CSS pixels around the cells

/** Share of its layer's tokens that each expert took, relative to an even spread. */
function shares(rows, experts) {
  return rows.map((row) => {
    const sum = row.reduce((a, b) => a + b, 0);
    return row.map((count) => (sum > 0 ? count * experts / sum : 0));
  });
}

/** Every how many ticks to write one that needs `room`, when each has `width`: 1, 2, 5, 10, ... */
function spacing(width, room) {
  for (let step = 1; ; step *= 10) {
    for (const times of [1, 2, 5]) {
      if (width * step * times >= room) return step * times;
    }
  }
}

export class Experts {
  #canvas;
  #say; // {summary, busiest, cell}: where words go
  #view = "now";
  #load = null;
  #warm = null; // shares as they are shown
  #idle = true;
  #chosen = null; // [row, expert] under the pointer or chosen with the keys

  constructor(canvas, say) {
    this.#canvas = canvas;
    this.#say = say;
    canvas.addEventListener("pointermove", (event) => this.#choose(this.#under(event)));
    canvas.addEventListener("pointerleave", () => this.#choose(null));
    canvas.addEventListener("blur", () => this.#choose(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#draw()).observe(canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** The share of the last seconds ("now") or since the server's start ("all"). */
  select(view) {
    this.#view = view;
    this.#warm = null;
    this.#update();
  }

  /** Takes what /moesaic/experts says; true when there are experts to show. */
  show(load) {
    if (this.#load?.started !== load.started) this.#warm = null;
    this.#load = load;
    this.#update();
    return load.layers > 0;
  }

  #update() {
    const load = this.#load;
    if (load === null) return;
    this.#canvas.hidden = load.layers === 0;
    if (load.layers === 0) {
      this.#say.summary.textContent = "This model is dense: it has no experts to show.";
      return;
    }
    const rows = this.#view === "now" ? load.recent : load.total;
    this.#idle = rows.every((row) => row.every((count) => count === 0));
    // When nothing runs, the last picture stays, faded.
    if (!this.#idle || this.#warm === null) this.#warm = shares(rows, load.experts);
    const dense = load.model.layers - load.layers;
    const words = `${load.layers} layers with ${load.experts} experts, top ${load.top_k}`;
    this.#say.summary.textContent = words + (dense > 0 ? `; ${dense} more without.` : ".");
    this.#say.busiest.textContent = this.#busiest();
    this.#describe();
    this.#draw();
  }

  #busiest() {
    let most = 0, where = null;
    this.#warm.forEach((row, layer) => row.forEach((share, expert) => {
      if (share > most) [most, where] = [share, [layer, expert]];
    }));
    if (where === null) return "No expert has worked yet: ask something.";
    const times = `${this.#name(where)}, ${most.toFixed(1)} times an even share`;
    return this.#idle ? `Idle. Busiest last: ${times}.` : `Busiest: ${times}.`;
  }

  #name([row, expert]) {
    return `expert ${expert} of layer ${this.#load.layer_numbers[row]}`;
  }

  #describe() {
    const share = this.#warm[this.#chosen?.[0]]?.[this.#chosen?.[1]];
    if (share === undefined) {
      this.#say.cell.textContent = "";
      return;
    }
    const [row, expert] = this.#chosen;
    const tokens = this.#load.total[row][expert].toLocaleString("en");
    this.#say.cell.textContent = `${this.#name(this.#chosen)}: ${share.toFixed(2)} times an even ` +
      `share, ${tokens} tokens since the server started`;
  }

  // --- choosing a cell

  #choose(cell) {
    if (!this.#load?.layers || String(cell) === String(this.#chosen)) return;
    this.#chosen = cell;
    this.#describe();
    this.#draw();
  }

  #under(event) {
    if (!this.#load?.layers) return null;
    const box = this.#canvas.getBoundingClientRect();
    const { width, height } = this.#sizes();
    const expert = Math.floor((event.clientX - box.left - kAxis.left) / width);
    const row = Math.floor((event.clientY - box.top - kAxis.top) / height);
    const { layers, experts } = this.#load;
    const inside = expert >= 0 && expert < experts && row >= 0 && row < layers;
    return inside ? [row, expert] : null;
  }

  #key(event) {
    const { layers, experts } = this.#load ?? { layers: 0 };
    if (!layers || event.ctrlKey || event.altKey || event.metaKey) return;
    const [row, expert] = this.#chosen ?? [0, -1];
    const to = {
      ArrowLeft: [row, expert - 1], ArrowRight: [row, expert + 1],
      ArrowUp: [row - 1, expert], ArrowDown: [row + 1, expert],
      Home: [row, 0], End: [row, experts - 1], Escape: null,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    this.#choose(to && [within(to[0], layers), within(to[1], experts)]);
  }

  // --- drawing

  /** Of a cell, in CSS pixels. */
  #sizes() {
    const { layers, experts } = this.#load;
    const width = (this.#canvas.clientWidth - kAxis.left) / experts;
    return { width, height: Math.min(Math.max(width, 6), Math.max(6, 420 / layers)) };
  }

  #draw() {
    if (!this.#load?.layers || this.#warm === null || this.#canvas.clientWidth === 0) return;
    const { layers } = this.#load;
    const { width, height } = this.#sizes();
    const dots = window.devicePixelRatio || 1;
    const tall = kAxis.top + layers * height + kAxis.bottom + kAxis.legend;
    this.#canvas.style.height = tall + "px";
    this.#canvas.width = Math.round(this.#canvas.clientWidth * dots);
    this.#canvas.height = Math.round(tall * dots);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const pen = this.#canvas.getContext("2d");
    pen.scale(dots, dots);
    pen.font = "12px " + getComputedStyle(document.body).fontFamily;
    const ends = [kCold, kHot].map((name) => colour(name).split(" ").map(Number));
    const ink = colour("--faint");
    this.#drawCells(pen, ends, width, height);
    this.#drawAxes(pen, ink, width, height);
    this.#drawLegend(pen, ends, ink, tall - kAxis.legend);
    if (this.#chosen !== null) {
      const [row, expert] = this.#chosen;
      pen.strokeStyle = colour("--ink");
      pen.lineWidth = 2;
      pen.strokeRect(kAxis.left + expert * width, kAxis.top + row * height, width, height);
    }
  }

  /** No share is more than this: all of a layer's tokens at one expert. */
  #top() {
    return this.#load.experts / Math.max(this.#load.top_k, 1);
  }

  /** 0 to 1 for shares of 0 to the most there can be; a logarithm, so that doubles stand apart. */
  #heat(share) {
    return Math.min(Math.log2(1 + share) / Math.log2(1 + this.#top()), 1);
  }

  #mix([cold, hot], heat) {
    return `rgb(${cold.map((c, i) => Math.round(c + (hot[i] - c) * heat)).join(" ")})`;
  }

  #drawCells(pen, ends, width, height) {
    const gap = Math.min(width, height) >= 6 ? 1 : 0;
    pen.globalAlpha = this.#idle ? 0.45 : 1;
    this.#warm.forEach((row, layer) => row.forEach((share, expert) => {
      pen.fillStyle = this.#mix(ends, this.#heat(share));
      const [x, y] = [kAxis.left + expert * width, kAxis.top + layer * height];
      pen.fillRect(x, y, width - gap, height - gap);
    }));
    pen.globalAlpha = 1;
  }

  #drawAxes(pen, ink, width, height) {
    const { layers, experts, layer_numbers: numbers } = this.#load;
    pen.fillStyle = ink;
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    const below = kAxis.top + layers * height + 10;
    pen.fillText("layer", kAxis.left - 6, 8);
    pen.fillText("expert", kAxis.left - 6, below);
    for (let row = 0; row < layers; row += spacing(height, 14)) {
      pen.fillText(numbers[row], kAxis.left - 6, kAxis.top + (row + 0.5) * height);
    }
    pen.textAlign = "center";
    for (let expert = 0; expert < experts; expert += spacing(width, 30)) {
      pen.fillText(expert, kAxis.left + (expert + 0.5) * width, below);
    }
  }

  #drawLegend(pen, ends, ink, y) {
    const x = kAxis.left, wide = Math.min(this.#canvas.clientWidth - x, 260);
    for (let i = 0; i < wide; ++i) {
      pen.fillStyle = this.#mix(ends, i / wide);
      pen.fillRect(x + i, y + 10, 1, 10);
    }
    pen.fillStyle = ink;
    const top = this.#top();
    const marks = [0, 1, 2, 4, 8, 16, 32, 64].filter((mark) => mark < top / 1.4).concat(top);
    for (const mark of marks) {
      const at = x + this.#heat(mark) * wide;
      pen.textAlign = mark === 0 ? "left" : mark === top ? "right" : "center";
      pen.fillText(`${Number(mark.toFixed(1))}×`, at, y + 30);
    }
  }
}
