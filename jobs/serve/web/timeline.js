// The events of a video over time, on one canvas: a lane per kind, a ruler, and the whole video below as a strip.
// Made for a hundred thousand events: what is narrower than a pixel is drawn as how full the pixel is.

import { button, clock, colour, el, picture, plural, said, sharp, still, style } from "./lib.js";

const LANE = 20, GAP = 5, RULER = 22, STRIP = 30, PAD = 6;
const LEAST_US = 200_000;

// As much of a text as fits a width, with "…" where it is cut; nothing where that would be a letter or two.
function fitting(c, text, width) {
  if (c.measureText(text).width <= width) return text;
  let low = 0, high = Math.min(text.length, 120);
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (c.measureText(`${text.slice(0, middle).trimEnd()}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low < 3 ? "" : `${text.slice(0, low).trimEnd()}…`;
}

export class Timeline {
  // data: columns of /api/videos/ID/timeline; seek(us), choose(index): what a click means; id: of the video;
  // ordered: the lanes as data.kinds has them, not the fullest first
  constructor({ data, id, durationUs, seek, choose, pictures = true, label = "Timeline of events", ordered = false }) {
    Object.assign(this, { data, id, durationUs: Math.max(1, durationUs), seek, choose, pictures, ordered });
    this.now = 0;
    this.view = [0, this.durationUs];
    this.hidden = new Set();
    this.chosen = -1;
    this.sort();
    this.canvas = el("canvas", { tabindex: 0, role: "slider", "aria-label": label, "aria-valuemin": 0,
      "aria-valuemax": Math.round(this.durationUs / 1e6), "aria-orientation": "horizontal" });
    this.names = el("div", { class: "lanes", "aria-hidden": "true" });
    this.tip = el("div", { class: "tip", hidden: true });
    this.tools = el("div", { class: "tools" },
      button("minus", "Wider view", () => this.zoom(2)), button("plus", "Closer view", () => this.zoom(0.5)),
      button("fit", "Whole video", () => this.look(0, this.durationUs)));
    this.node = el("section", { class: "timeline", "aria-label": label }, this.names, this.canvas, this.tip, this.tools);
    this.static = document.createElement("canvas");
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.canvas);
    this.listen();
    this.resize();
  }

  destroy() {
    this.watch.disconnect();
    cancelAnimationFrame(this.frame);
  }

  // Per kind: places of its events, and the latest end up to each, so that those in view are found by bisection.
  sort() {
    const { kinds, kind, start_us: starts, end_us: ends } = this.data;
    this.lanes = kinds.map((name) => ({ name, at: [], latest: [] }));
    for (let i = 0; i < kind.length; i++) {
      const lane = this.lanes[kind[i]];
      const end = Math.max(ends[i], starts[i] + 1);
      lane.latest.push(Math.max(end, lane.latest.at(-1) ?? -Infinity));
      lane.at.push(i);
    }
    if (!this.ordered) this.lanes.sort((a, b) => b.at.length - a.at.length);
    const bins = 1200, density = new Float64Array(bins + 1);
    for (let i = 0; i < starts.length; i++) {
      const a = Math.min(bins - 1, Math.max(0, Math.floor((starts[i] / this.durationUs) * bins)));
      const b = Math.min(bins - 1, Math.max(a, Math.floor((ends[i] / this.durationUs) * bins)));
      density[a]++;
      density[b + 1]--;
    }
    for (let i = 1; i <= bins; i++) density[i] += density[i - 1];
    this.density = density.subarray(0, bins);
    this.fullest = Math.max(1, ...this.density);
  }

  get shown() {
    return this.lanes.filter((lane) => !this.hidden.has(lane.name));
  }

  resize() {
    const height = RULER + this.shown.length * (LANE + GAP) + GAP + STRIP + PAD;
    this.canvas.style.height = `${height}px`;
    this.names.replaceChildren(...this.shown.map((lane) => el("span", { title: `${lane.name}: ${plural(lane.at.length, "event")}` },
      el("i", { class: "dot", style: { "--c": colour(lane.name) } }), said(lane.name))));
    this.draw();
  }

  hide(kinds) {
    this.hidden = kinds;
    this.resize();
  }

  look(from, to) {
    const span = Math.min(this.durationUs, Math.max(LEAST_US, to - from));
    const start = Math.min(Math.max(0, from), this.durationUs - span);
    this.view = [start, start + span];
    this.draw();
  }

  zoom(by, around = this.now) {
    const [from, to] = this.view;
    const at = around < from || around > to ? (from + to) / 2 : around;
    this.look(at - (at - from) * by, at + (to - at) * by);
  }

  x(us) {
    return ((us - this.view[0]) / (this.view[1] - this.view[0])) * this.canvas.clientWidth;
  }

  us(x) {
    const [from, to] = this.view;
    return Math.min(this.durationUs - 1, Math.max(0, from + (x / this.canvas.clientWidth) * (to - from)));
  }

  // -- drawing: the still part once, the playhead over it

  draw() {
    this.stale = true;
    this.paint();
  }

  paint() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      const { canvas } = this;
      sharp(canvas, (context, w, h) => {
        if (this.stale || this.static.width !== canvas.width || this.static.height !== canvas.height) {
          this.static.width = canvas.width;
          this.static.height = canvas.height;
          const under = this.static.getContext("2d");
          const ratio = canvas.width / w;
          under.setTransform(ratio, 0, 0, ratio, 0, 0);
          this.events(under, w, h);
          this.stale = false;
        }
        context.drawImage(this.static, 0, 0, w, h);
        this.playhead(context, w, h);
      });
    });
  }

  events(c, w, h) {
    const ink = style("--ink"), muted = style("--muted"), line = style("--line"), ground = style("--lane");
    const [from, to] = this.view;
    c.clearRect(0, 0, w, h);
    c.font = `11px ${style("--sans")}`;
    c.textBaseline = "middle";
    this.ruler(c, w, h, muted, line);
    this.shown.forEach((lane, row) => {
      const y = RULER + GAP + row * (LANE + GAP);
      c.fillStyle = ground;
      c.beginPath();
      c.roundRect(0, y, w, LANE, 4);
      c.fill();
      const full = new Float32Array(Math.ceil(w) + 1);
      let narrow = false;
      c.fillStyle = colour(lane.name, 0.85);
      const labels = [];
      let last = -9;
      for (let k = first(lane.latest, from); k < lane.at.length; k++) {
        const i = lane.at[k];
        const start = this.data.start_us[i], end = this.data.end_us[i];
        if (start >= to) break;
        if (end <= from && start < from) continue;
        const x0 = this.x(start), x1 = this.x(Math.max(end, start + 1));
        if (x1 - x0 < 2.5) {
          if (labels.length) labels.at(-1).room = Math.min(labels.at(-1).room, x0 - 5);
          full[Math.max(0, Math.min(full.length - 1, Math.round(x0)))] += 1;
          narrow = true;
          continue;
        }
        const a = Math.max(-4, x0), b = Math.min(w + 4, x1);
        c.globalAlpha = i === this.chosen ? 1 : 0.8;
        c.beginPath();
        c.roundRect(a + 0.5, y + 1, Math.max(1.5, b - a - 1), LANE - 2, 3);
        c.fill();
        if (labels.length) labels.at(-1).room = Math.min(labels.at(-1).room, a - 7);
        if (a > last - 2) labels.push({ from: Math.max(0, a) + 6, bar: b - 5, room: w - 3, i });
        last = Math.max(last, b);
      }
      c.globalAlpha = 1;
      if (narrow) {
        const most = Math.max(...full);
        for (let x = 0; x < full.length; x++) {
          if (!full[x]) continue;
          c.globalAlpha = 0.45 + 0.55 * Math.min(1, full[x] / Math.max(1, most));
          c.fillRect(x - 0.75, y + 2, 2, LANE - 4);
        }
        c.globalAlpha = 1;
      }
      // A text begins on its bar and goes on where the lane behind it is free.
      const middle = y + LANE / 2 + 0.5;
      for (const { from: a, bar, room, i } of this.data.text ? labels : []) {
        const text = this.data.text[i] ?? "";
        if (!text || text === lane.name || text === said(lane.name)) continue;
        const within = c.measureText(text).width <= bar - a;
        const shown = fitting(c, text, (within ? bar : Math.max(bar, room)) - a);
        if (!shown) continue;
        for (const [x0, x1, colour] of [[a, bar + 5, "#14161a"], [bar + 5, Math.max(bar + 5, room), ink]]) {
          c.save();
          c.beginPath();
          c.rect(x0, y, x1 - x0, LANE);
          c.clip();
          c.fillStyle = colour;
          c.fillText(shown, a, middle);
          c.restore();
        }
      }
    });
    this.strip(c, w, h, ink, line);
  }

  ruler(c, w, h, muted, line) {
    const [from, to] = this.view, span = to - from;
    const steps = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
    const step = (steps.find((s) => (s * 1e6 * w) / span >= 74) ?? 172800) * 1e6;
    const decimals = step < 1e5 ? 2 : step < 1e6 ? 1 : 0;
    for (let t = Math.ceil(from / step) * step; t <= to; t += step) {
      const x = this.x(t);
      c.fillStyle = line;
      c.fillRect(Math.round(x), RULER - 4, 1, h - RULER - STRIP - PAD + 2);
      c.fillStyle = muted;
      const text = clock(t, decimals), wide = c.measureText(text).width;
      c.fillText(text, Math.min(w - wide - 1, Math.max(1, x - wide / 2)), RULER / 2 - 1);
    }
  }

  strip(c, w, h, ink, line) {
    const y = h - STRIP, bins = this.density.length, [from, to] = this.view;
    const x = (us) => (us / this.durationUs) * w;
    c.fillStyle = style("--lane");
    c.beginPath();
    c.roundRect(0, y, w, STRIP, 4);
    c.fill();
    c.fillStyle = style("--muted");
    c.globalAlpha = 0.5;
    for (let px = 0; px < w; px++) {
      let most = 0;
      for (let b = Math.floor((px / w) * bins); b <= Math.min(bins - 1, Math.floor(((px + 1) / w) * bins)); b++) most = Math.max(most, this.density[b]);
      const tall = (most / this.fullest) * (STRIP - 6);
      if (most) c.fillRect(px, y + STRIP - 2 - tall, 1, tall);
    }
    c.globalAlpha = 1;
    if (to - from < this.durationUs) {
      c.fillStyle = style("--accent");
      c.globalAlpha = 0.13;
      c.fillRect(x(from), y, Math.max(3, x(to) - x(from)), STRIP);
      c.globalAlpha = 1;
      c.strokeStyle = style("--accent");
      c.strokeRect(x(from) + 0.5, y + 0.5, Math.max(3, x(to) - x(from)) - 1, STRIP - 1);
    }
  }

  playhead(c, w, h) {
    const accent = style("--accent");
    c.fillStyle = accent;
    const x = this.x(this.now);
    if (x >= -1 && x <= w + 1) {
      c.fillRect(x - 0.75, RULER - 3, 1.5, h - RULER - STRIP - PAD + 3);
      c.beginPath();
      c.moveTo(x - 5, RULER - 9);
      c.lineTo(x + 5, RULER - 9);
      c.lineTo(x, RULER - 2);
      c.fill();
    }
    c.fillRect((this.now / this.durationUs) * w - 0.75, h - STRIP, 1.5, STRIP);
    if (this.over !== undefined) {
      c.globalAlpha = 0.35;
      c.fillStyle = style("--ink");
      c.fillRect(this.over, RULER - 3, 1, h - RULER - STRIP - PAD + 3);
      c.globalAlpha = 1;
    }
  }

  at(us, follow = false) {
    this.now = us;
    const [from, to] = this.view;
    if (follow && to - from < this.durationUs && (us > to || us < from)) this.look(us - 0.1 * (to - from), us + 0.9 * (to - from));
    this.canvas.setAttribute("aria-valuenow", Math.floor(us / 1e6));
    this.canvas.setAttribute("aria-valuetext", clock(us));
    this.paint();
  }

  choosing(index) {
    this.chosen = index;
    this.draw();
  }

  // The event under a point, the shortest where several lie over each other; -1: none.
  under(x, y) {
    const row = Math.floor((y - RULER - GAP) / (LANE + GAP));
    const lane = this.shown[row];
    if (y < RULER || !lane) return -1;
    const near = ((this.view[1] - this.view[0]) / this.canvas.clientWidth) * 4, us = this.us(x);
    let best = -1, shortest = Infinity;
    for (let k = first(lane.latest, us - near); k < lane.at.length; k++) {
      const i = lane.at[k], start = this.data.start_us[i], end = Math.max(this.data.end_us[i], start + 1);
      if (start > us + near) break;
      if (end < us - near) continue;
      const length = end - start + Math.abs(us - Math.min(Math.max(us, start), end)) * 1000;
      if (length < shortest) [best, shortest] = [i, length];
    }
    return best;
  }

  inStrip(y) {
    return y > this.canvas.clientHeight - STRIP;
  }

  // -- pointer, wheel, keys

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, event.offsetX);
      const us = (event.offsetX / canvas.clientWidth) * this.durationUs;
      if (fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        drag = { pinch: Math.max(8, Math.abs(a - b)), view: [...this.view], middle: this.us((a + b) / 2) };
      } else if (this.inStrip(event.offsetY)) {
        const [from, to] = this.view;
        if (to - from >= this.durationUs) {
          drag = { seek: "strip" };
          this.seek(us);
        } else {
          drag = { strip: true, grip: us >= from && us <= to ? us - from : (to - from) / 2 };
          this.look(us - drag.grip, us - drag.grip + to - from);
        }
      } else {
        drag = { seek: "lanes", x: event.offsetX };
        const found = this.under(event.offsetX, event.offsetY);
        if (found >= 0) {
          this.choose?.(found);
          drag.hit = true;
        } else this.seek(this.us(event.offsetX));
      }
      this.hideTip();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event.offsetX);
      if (!drag) {
        this.hover(event.offsetX, event.offsetY);
        return;
      }
      if (drag.pinch && fingers.size === 2) {
        const [a, b] = [...fingers.values()];
        const by = drag.pinch / Math.max(8, Math.abs(a - b)), [from, to] = drag.view;
        const span = (to - from) * by, share = (a + b) / 2 / canvas.clientWidth;
        this.look(drag.middle - share * span, drag.middle + (1 - share) * span);
      } else if (drag.strip) {
        const us = (event.offsetX / canvas.clientWidth) * this.durationUs, span = this.view[1] - this.view[0];
        this.look(us - drag.grip, us - drag.grip + span);
      } else if (drag.seek === "strip") this.seek(Math.min(this.durationUs - 1, Math.max(0, (event.offsetX / canvas.clientWidth) * this.durationUs)));
      else if (drag.seek && (!drag.hit || Math.abs(event.offsetX - drag.x) > 6)) {
        drag.hit = false;
        this.seek(this.us(event.offsetX));
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        fingers.delete(event.pointerId);
        if (!fingers.size) drag = null;
      });
    }
    canvas.addEventListener("pointerleave", () => this.hideTip());
    canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.altKey && !event.shiftKey && Math.abs(event.deltaX) <= Math.abs(event.deltaY)) return; // the page scrolls
      event.preventDefault();
      const [from, to] = this.view;
      if (event.ctrlKey || event.altKey) this.zoom(Math.exp(event.deltaY * 0.004), this.us(event.offsetX));
      else {
        const by = ((event.deltaX || event.deltaY) / canvas.clientWidth) * (to - from);
        this.look(from + by, to + by);
      }
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => {
      const found = this.under(event.offsetX, event.offsetY);
      if (found < 0) return this.zoom(0.4, this.us(event.offsetX));
      const start = this.data.start_us[found], long = Math.max(this.data.end_us[found] - start, 2_000_000);
      this.look(start - long, start + 2 * long);
    });
  }

  hover(x, y) {
    this.over = this.inStrip(y) ? undefined : x;
    this.paint();
    const us = this.inStrip(y) ? (x / this.canvas.clientWidth) * this.durationUs : this.us(x);
    const found = this.under(x, y);
    this.canvas.style.cursor = found >= 0 ? "pointer" : "default";
    const { tip } = this;
    const image = this.pictures ? this.tipPicture(us) : null;
    const rows = [el("b", {}, clock(us, this.view[1] - this.view[0] < 120e6 ? 1 : 0))];
    if (found >= 0) {
      const { start_us: starts, end_us: ends, kinds, kind } = this.data;
      const name = kinds[kind[found]];
      rows.push(el("span", { class: "what" }, el("i", { class: "dot", style: { "--c": colour(name) } }), name));
      const text = this.data.text?.[found];
      if (text && text !== name) rows.push(el("p", {}, text.slice(0, 200)));
      rows.push(el("small", {}, `${clock(starts[found], 2)} – ${clock(ends[found], 2)}`));
    }
    tip.replaceChildren(...(image ? [image] : []), el("div", {}, ...rows));
    tip.hidden = false;
    const wide = tip.offsetWidth, left = this.canvas.offsetLeft + x - wide / 2;
    tip.style.left = `${Math.max(4, Math.min(this.node.clientWidth - wide - 4, left))}px`;
  }

  // One picture for each sixtieth of the view: the same ones again while the pointer wanders.
  tipPicture(us) {
    const step = Math.max(100_000, (this.view[1] - this.view[0]) / 60);
    const place = Math.round(Math.min(this.durationUs - 1, Math.max(0, Math.round(us / step) * step)));
    if (this.tipAt === place) return this.tipNode;
    this.tipAt = place;
    this.tipNode ??= el("span", { class: "thumb" });
    clearTimeout(this.tipTimer);
    this.tipTimer = setTimeout(() => this.tipNode.replaceChildren(...picture(still(this.id, place, 144)).childNodes), 90);
    return this.tipNode;
  }

  hideTip() {
    this.over = undefined;
    this.tip.hidden = true;
    this.paint();
  }
}

// The first place whose latest end lies after `us`.
function first(latest, us) {
  let low = 0, high = latest.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (latest[middle] > us) high = middle;
    else low = middle + 1;
  }
  return low;
}
