"use strict";
// The distributions: one strip per figure, every case a mark stacked over its value. Canvases, because there may be thousands.

/** Strips in `host`. `state` tells which cases are shown and which is chosen; `choose(rank, { reveal })` chooses one. */
function stripsIn(host, { cases, figures, state, choose, make, write }) {
  const [FAIL, LOOK] = [0, 1]; // verdicts; 2 is pass
  const DOT = 5; // side of a mark, CSS pixels
  const AREA = 72; // height of the marks

  const strips = new Map();
  const inView = new IntersectionObserver((entries) => {
    for (const entry of entries) entry.target.strip.near = entry.isIntersecting;
    drawStale();
  }, { rootMargin: "100px" });

  class Strip {
    constructor(figure, k) {
      Object.assign(this, { figure, k, near: false, stale: true, width: 0 });
      this.members = cases.filter((item) => item.values[k] !== null && item.values[k] !== undefined);
      this.sorted = [...this.members].sort((a, b) => a.values[k] - b.values[k]);
      this.canvas = make("canvas", { tabIndex: 0 });
      const name = `${figure.label}: ${this.members.length} cases, ${write(figure.low)} to ${write(figure.high)}`;
      for (const [key, value] of Object.entries({
        role: "slider", "aria-label": name, "aria-valuemin": figure.low, "aria-valuemax": figure.high, "aria-valuenow": figure.median,
        "aria-valuetext": `median ${write(figure.median)}`,
      })) this.canvas.setAttribute(key, value);
      this.value = make("span", { className: "value" });
      const side = ["lower is worse", "", "higher is worse"][figure.bad + 1];
      this.rest = side;
      const lowest = this.sorted[0].values[k];
      const highest = this.sorted[this.sorted.length - 1].values[k];
      const [low, high] = [write(figure.low), write(figure.high)];
      const marks = figure.marks.map(([level, value]) => `${level} from ${write(value)}`).join(", ");
      this.element = make("figure", {},
        make("figcaption", {}, make("b", { textContent: figure.label }), this.value),
        this.canvas,
        make("div", { className: "axis" },
          make("span", { textContent: lowest < figure.low ? `≤ ${low} (to ${write(lowest)})` : low }),
          make("span", { textContent: `median ${write(figure.median)}` }),
          make("span", { textContent: highest > figure.high ? `≥ ${high} (to ${write(highest)})` : high })),
        ...(marks ? [make("div", { className: "marks", textContent: `Lines: ${marks}` })] : []));
      this.element.strip = this;
      this.canvas.addEventListener("click", (event) => {
        const item = this.nearest(event);
        if (item) choose(item.rank, { reveal: true });
      });
      this.canvas.addEventListener("pointermove", (event) => this.say(this.nearest(event)));
      this.canvas.addEventListener("pointerleave", () => this.say(null));
      this.canvas.addEventListener("keydown", (event) => this.key(event));
      inView.observe(this.element);
    }
    place(value) {
      const { low, high } = this.figure;
      const room = this.width - 2 * DOT;
      return DOT + room * (high > low ? (Math.min(Math.max(value, low), high) - low) / (high - low) : 0.5);
    }
    layout() { // stacks of marks; passes below, failures on top
      const bins = new Map();
      for (const item of this.members) {
        const bin = Math.round(this.place(item.values[this.k]) / DOT);
        if (!bins.has(bin)) bins.set(bin, []);
        bins.get(bin).push(item);
      }
      const tallest = Math.max(...[...bins.values()].map((stack) => stack.length));
      this.rise = Math.min(DOT + 1, (AREA - DOT) / Math.max(1, tallest - 1));
      this.stacks = [...bins].map(([bin, stack]) => stack.sort((a, b) => b.verdict - a.verdict || a.rank - b.rank)
        .map((item, level) => ({ item, x: bin * DOT, y: AREA - DOT / 2 - level * this.rise })));
      this.marks = this.stacks.flat();
      this.signs = this.marks.filter(({ item }) => item.verdict <= LOOK).sort((a, b) => b.item.verdict - a.item.verdict);
    }
    nearest(event) {
      if (!this.marks) return null;
      let [best, least] = [null, 10 * 10];
      for (const { item, x, y } of this.marks) {
        const distance = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
        if (distance <= least && state.shown.has(item.rank)) [best, least] = [item, distance];
      }
      return best;
    }
    say(item) {
      const shown = item || (state.chosen !== null && cases[state.chosen]);
      const value = shown ? shown.values[this.k] : null;
      this.value.textContent = shown && value !== null && value !== undefined ? `${shown.id}: ${write(value)}` : this.rest;
    }
    key(event) {
      const among = this.sorted.filter((item) => state.shown.has(item.rank));
      const here = among.findIndex((item) => item.rank === state.chosen);
      const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity };
      if (!among.length) return;
      if (event.key === "Enter" && here >= 0) choose(among[here].rank, { reveal: true });
      else if (event.key in steps) {
        const start = here < 0 ? Math.floor(among.length / 2) : here;
        const item = among[Math.min(Math.max(start + steps[event.key], 0), among.length - 1)];
        choose(item.rank);
        this.canvas.setAttribute("aria-valuenow", item.values[this.k]);
        this.canvas.setAttribute("aria-valuetext", `${item.id}: ${write(item.values[this.k])}`);
      } else return;
      event.preventDefault();
    }
    draw(width, colour) {
      this.stale = false;
      if (width !== this.width) { this.width = width; this.layout(); }
      const scale = window.devicePixelRatio || 1;
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round((AREA + 4) * scale);
      const pen = this.canvas.getContext("2d");
      pen.scale(scale, scale);
      this.rules(pen, colour);
      this.squares(pen, colour("dot"), colour("pale"));
      for (const { item, x, y } of this.signs) if (state.shown.has(item.rank)) sign(pen, item.verdict, x, y, colour);
      const chosen = this.marks.find(({ item }) => item.rank === state.chosen);
      if (chosen) ring(pen, chosen.x, chosen.y, colour("ink"));
      this.say(null);
    }
    squares(pen, full, pale) { // passes, and what is filtered out; where marks overlap, alike neighbours are one bar
      for (const stack of this.stacks) {
        for (let start = 0, end; start < stack.length; start = end) {
          const on = state.shown.has(stack[start].item.rank);
          end = start + 1;
          if (on && stack[start].item.verdict <= LOOK) continue;
          const alike = ({ item }) => state.shown.has(item.rank) === on && !(on && item.verdict <= LOOK);
          while (this.rise < DOT && end < stack.length && alike(stack[end])) end += 1;
          const [{ x, y }, top] = [stack[start], stack[end - 1].y];
          pen.fillStyle = on ? full : pale;
          pen.fillRect(x - 2, top - 2, 4, y - top + 4);
        }
      }
    }
    rules(pen, colour) { // the floor, the median, and the thresholds of the records
      pen.lineWidth = 1;
      line(pen, 0, AREA + 1.5, this.width, AREA + 1.5, colour("line"));
      pen.setLineDash([2, 3]);
      line(pen, this.place(this.figure.median), 0, this.place(this.figure.median), AREA, colour("soft"));
      pen.lineWidth = 1.5;
      for (const [level, value] of this.figure.marks) {
        if (value < this.figure.low || value > this.figure.high) continue;
        pen.setLineDash(level === "fail" ? [] : [6, 3]);
        line(pen, this.place(value), 0, this.place(value), AREA, colour(level));
      }
      pen.setLineDash([]);
    }
  }
  function line(pen, x1, y1, x2, y2, colour) {
    pen.strokeStyle = colour;
    pen.beginPath(); pen.moveTo(x1, y1); pen.lineTo(x2, y2); pen.stroke();
  }
  function sign(pen, verdict, x, y, colour) { // told apart without colour: a cross, a triangle
    if (verdict === FAIL) {
      pen.lineWidth = 1.8;
      line(pen, x - 3, y - 3, x + 3, y + 3, colour("fail"));
      line(pen, x - 3, y + 3, x + 3, y - 3, colour("fail"));
    } else {
      pen.fillStyle = colour("look");
      pen.beginPath(); pen.moveTo(x, y - 3.5); pen.lineTo(x + 3.5, y + 2.5); pen.lineTo(x - 3.5, y + 2.5); pen.fill();
    }
  }
  function ring(pen, x, y, colour) {
    pen.lineWidth = 2;
    pen.strokeStyle = colour;
    pen.beginPath(); pen.arc(x, y, 6.5, 0, 2 * Math.PI); pen.stroke();
    line(pen, x, 0, x, Math.max(0, y - 7), colour);
  }
  function drawStrips() {
    for (const strip of strips.values()) strip.stale = true;
    drawStale();
  }
  function drawStale() { // those in sight; everything is measured before anything is changed, or each strip costs a layout
    const waiting = [...strips.values()].filter((strip) => strip.stale && strip.near)
      .map((strip) => [strip, strip.canvas.clientWidth]).filter(([, width]) => width > 0);
    if (!waiting.length) return;
    const style = getComputedStyle(document.documentElement);
    const names = ["fail", "look", "dot", "pale", "ink", "line", "soft"];
    const colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const [strip, width] of waiting) strip.draw(width, (name) => colours[name]);
  }
  return {
    /** Show the strips of these figures, by number. */
    place(numbers) {
      host.replaceChildren(...numbers.map((k) => {
        if (!strips.has(k)) strips.set(k, new Strip(figures[k], k));
        return strips.get(k).element;
      }));
      drawStrips();
    },
    /** Draw those in sight anew; `all`: the others too, for paper. */
    draw({ all = false } = {}) {
      if (all) for (const strip of strips.values()) strip.near = true;
      drawStrips();
    },
  };
}
