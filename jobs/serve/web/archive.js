// The archive in one look: how much, where events lie, what failed, what a run does now; and its videos.

import { ask, base, clock, colour, dot, el, empty, fill, folder, learnKinds, long, notice, number, picture, plural,
  said, sharp, later, still, style } from "./lib.js";
import { liveCards } from "./live.js";
import { Rows } from "./rows.js";

const ROW = 76, PAGE = 60, MOST = 1000, LAG_MS = 2000;

export function archive({ go }) {
  const node = el("div", { class: "page archive" });
  const stop = new AbortController();
  const live = liveCards({ onlyLive: true, grown: (newest) => { wanted = Math.max(wanted, newest); refresh(); } });
  const head = el("div", { class: "figures" }), over = el("div", {}, el("p", { class: "waiting" }, "Reading the log …"));
  const list = videoList(go, stop.signal);
  node.append(head, live.node, over, list.node);
  const chart = overview((kind) => list.only(kind));
  let version = -1, wanted = -1, asking = false, timer = null;

  // While a run writes, the server's sums may lag behind the log: they are asked for until they have what was announced.
  const refresh = async () => {
    if (asking) return;
    asking = true;
    clearTimeout(timer);
    try {
      const facts = await ask("api/overview", {}, stop.signal);
      if (facts.version !== version) {
        version = facts.version;
        learnKinds(facts.kinds.map((k) => k.kind));
        figures(head, facts);
        if (!facts.videos) fill(over, empty("Nothing here yet", "The log holds no videos. Start a run, and they appear here:",
          el("code", {}, `secondsight run ARCHIVE --log ${facts.log}`)));
        else if (!chart.node.isConnected) fill(over, chart.node);
        chart.show(facts);
        list.show(facts);
      }
      if (version < wanted) timer = setTimeout(refresh, LAG_MS);
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      if (version < 0) fill(over, notice(error, refresh));
      else timer = setTimeout(refresh, 5 * LAG_MS); // what is shown was true; the live card tells of the trouble
    } finally {
      asking = false;
    }
  };
  refresh();
  return {
    node,
    theme() { chart.draw(); chart.names(); list.theme(); },
    destroy() { stop.abort(); clearTimeout(timer); live.destroy(); chart.destroy(); list.destroy(); },
  };
}

function figures(head, facts) {
  const figure = (value, name, href = null) => el(href ? "a" : "div", { class: "figure", href }, el("b", {}, value), el("span", {}, name));
  const failed = facts.failed + facts.quarantined;
  fill(head,
    figure(number(facts.done), facts.done === 1 ? "video" : "videos"), figure(long(facts.duration_us), "watched"),
    figure(number(facts.events), "events"), figure(number(facts.kinds.length), facts.kinds.length === 1 ? "kind" : "kinds"),
    figure(number(facts.runs), facts.runs === 1 ? "run" : "runs", "#/runs"),
    failed ? figure(number(failed), "not watched", "#/failures") : null);
  if (failed) head.lastChild.classList.add("warn");
}

// Where events begin, all videos end to end, stacked by kind; the kinds below switch on and off.
function overview(only) {
  const canvas = el("canvas", { class: "density", role: "img" });
  const tip = el("div", { class: "tip", hidden: true });
  let chosen = null, facts = { density: [], kinds: [] }, bins = 0;
  const layers = () => facts.density.filter((d) => !chosen || d.kind === chosen);
  const draw = () => facts.duration_us !== undefined && sharp(canvas, (c, w, h) => {
    const sums = new Array(bins).fill(0);
    for (const { counts } of layers()) counts.forEach((n, i) => { sums[i] += n; });
    const most = Math.max(1, ...sums), floor = h - 18;
    const wide = w / bins, stack = new Array(bins).fill(0);
    for (const { kind, counts } of layers()) {
      c.fillStyle = colour(kind, 0.9);
      counts.forEach((n, i) => {
        if (!n) return;
        const tall = (n / most) * (floor - 4);
        c.fillRect(i * wide + 0.25, floor - stack[i] - tall, Math.max(1, wide - 0.75), tall + 0.3);
        stack[i] += tall;
      });
    }
    c.fillStyle = style("--line");
    c.fillRect(0, floor, w, 1);
    c.fillStyle = style("--muted");
    c.font = `11px ${style("--sans")}`;
    const parts = w < 480 ? 2 : 4;
    for (let k = 0; k <= parts; k++) {
      const text = k ? long((facts.duration_us * k) / parts) : "0", size = c.measureText(text).width;
      c.fillText(text, Math.min(w - size, Math.max(0, (w * k) / parts - size / 2)), h - 3);
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    const bin = Math.min(bins - 1, Math.max(0, Math.floor((event.offsetX / canvas.clientWidth) * bins)));
    const rows = layers().filter((d) => d.counts[bin]).sort((a, b) => b.counts[bin] - a.counts[bin]).slice(0, 8);
    fill(tip, el("b", {}, `${long((facts.duration_us * bin) / bins)} into the archive`),
      rows.length ? rows.map((d) => el("span", { class: "what" }, dot(d.kind), said(d.kind), el("em", {}, number(d.counts[bin])))) : el("small", {}, "nothing begins here"));
    tip.hidden = false;
    tip.style.left = `${Math.max(0, Math.min(canvas.clientWidth - tip.offsetWidth, event.offsetX - tip.offsetWidth / 2))}px`;
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Kinds of events" });
  const names = () => {
    const held = chips.contains(document.activeElement) ? document.activeElement.dataset.kind : null;
    fill(chips, facts.kinds.slice(0, 40).map((k) => el("button", { type: "button", class: "chip", "aria-pressed": String(chosen === k.kind),
    title: `${plural(k.events, "event")} in ${plural(k.videos, "video")}, ${long(k.total_us)} in all`,
    onclick() {
      chosen = chosen === k.kind ? null : k.kind;
      for (const chip of chips.children) chip.setAttribute("aria-pressed", String(chip.dataset.kind === chosen));
      only(chosen);
      draw();
    }, "data-kind": k.kind }, dot(k.kind), said(k.kind), el("em", {}, number(k.events)))));
    if (held !== null) [...chips.children].find((chip) => chip.dataset.kind === held)?.focus({ preventScroll: true });
  };
  const show = (now) => {
    facts = now;
    bins = facts.density[0]?.counts.length ?? 0;
    canvas.setAttribute("aria-label", `Events over the archive: ${plural(facts.events, "event")}`);
    names();
    draw();
  };
  const watch = new ResizeObserver(draw);
  watch.observe(canvas);
  const node = el("section", { class: "card overview", "aria-label": "Where events lie" },
    el("header", {}, el("h2", {}, "Where events lie"), el("p", {}, "all videos, end to end")), el("div", { class: "plot" }, canvas, tip), chips);
  return { node, show, draw, names, destroy: () => watch.disconnect() };
}

function videoList(go, signal) {
  const name = el("input", { type: "search", placeholder: "Filter by name", "aria-label": "Filter videos by name", maxlength: 500, spellcheck: "false" });
  const order = el("select", { "aria-label": "Order" }, [["name", "by name"], ["newest", "newest first"], ["duration", "longest first"], ["events", "most events first"]]
    .map(([value, text]) => el("option", { value }, text)));
  const count = el("p", { class: "count", "aria-live": "polite" }), trouble = el("div");
  let videos = [], next = null, loading = false, kind = null, turn = 0, started = false, total = 0;
  const strips = new Strips(signal);
  const rows = new Rows({ height: ROW, label: "Videos", make: (i) => videoRow(videos[i], strips), near: (last) => { if (last >= videos.length - 12) more(); } });

  const page = (limit, cursor) => ask("api/videos", { q: name.value.trim(), order: order.value, kind, limit, cursor: cursor || undefined }, signal);

  async function more() {
    if (loading || next === null) return;
    loading = true;
    const mine = turn;
    try {
      const got = await page(PAGE, next);
      if (mine !== turn) return;
      loading = false;
      grew(videos.concat(got.videos), got);
      rows.set(videos.length);
    } catch (error) {
      if (error.name === "AbortError") return;
      next = null;
      fill(trouble, notice(error, restart));
    } finally {
      if (mine === turn) loading = false;
    }
  }
  function grew(all, last) {
    ({ next, total } = last);
    videos = all;
    count.textContent = kind ? `${plural(total, "video")} with ${kind}` : plural(total, "video");
    fill(trouble, videos.length ? null : el("p", { class: "none" }, "No video like that."));
  }
  // What is loaded, as the log has it now: rows that are as they were stay, and the first that is seen stays in its place.
  async function again() {
    const mine = ++turn, wanted = videos.length + PAGE; // new ones push others down
    loading = true;
    try {
      let all = [], got = { next: "" };
      do {
        got = await page(Math.min(MOST, wanted - all.length), got.next);
        if (mine !== turn) return;
        all = all.concat(got.videos);
      } while (got.next !== null && all.length < wanted);
      const before = videos.map((video) => JSON.stringify(video)), top = Math.floor(rows.view()[0] / ROW);
      const moved = top > 0 ? all.findIndex((video) => video.video_id === videos[top]?.video_id) - top : 0;
      const held = rows.node.contains(document.activeElement) && document.activeElement.getAttribute("href");
      loading = false;
      grew(all, got);
      rows.set(videos.length);
      videos.forEach((video, i) => {
        if (before[i] === undefined || before[i] === JSON.stringify(video)) return;
        strips.known.delete(video.video_id);
        rows.again(i);
      });
      if (top > 0 && moved >= -top) scrollBy(0, moved * ROW);
      rows.draw();
      if (held) [...rows.node.children].find((row) => row.getAttribute("href") === held)?.focus({ preventScroll: true });
    } catch { /* what is shown was true; the next commit asks again */ } finally {
      if (mine === turn) loading = false;
    }
  }
  function restart() {
    if (!started) return;
    turn++;
    loading = false;
    videos = [];
    next = "";
    rows.set(0, false);
    more();
  }
  name.addEventListener("input", later(200, restart));
  order.addEventListener("change", restart);
  const node = el("section", { class: "videos", "aria-label": "Videos", hidden: true },
    el("header", {}, el("h2", {}, "Videos"), count, el("div", { class: "spacer" }), name, order), rows.node, trouble);
  return {
    node,
    only(wanted) { kind = wanted; strips.kind = wanted; strips.known.clear(); restart(); },
    show(facts) {
      started = facts.videos > 0;
      node.hidden = !started;
      if (videos.length) again(); else restart();
    },
    theme() { rows.set(videos.length, false); },
    destroy() { rows.destroy(); },
  };
}

function videoRow(video, strips) {
  const done = video.status === "done", href = `#/v/${video.video_id}`;
  const middle = Math.floor((video.duration_us ?? 0) * 0.3);
  const strip = el("canvas", { class: "strip", "aria-hidden": "true" });
  if (done) strips.want(video.video_id, strip);
  return el("a", { class: "video", href, role: "listitem" },
    done ? picture(still(video.video_id, middle, 120)) : el("span", { class: "thumb none" }),
    el("span", { class: "names" }, el("b", {}, base(video.name)), el("small", {}, done ? folder(video.name) : `${video.status}: ${video.reason}`)),
    done ? strip : el("span", { class: "badge warn" }, video.status),
    el("span", { class: "counts" }, el("b", {}, video.duration_us === null ? "" : clock(Math.round(video.duration_us / 1e6) * 1e6)), el("small", {}, done ? plural(video.events, "event") : "")));
}

// Strips of the rows that are seen, asked for together.
class Strips {
  constructor(signal) {
    this.signal = signal;
    this.known = new Map();
    this.wanted = new Map();
    this.kind = null;
    this.fetch = later(60, () => this.get());
  }

  want(id, canvas) {
    this.wanted.set(id, canvas);
    requestAnimationFrame(() => {
      if (this.known.has(id)) this.draw(canvas, this.known.get(id));
      else this.fetch();
    });
  }

  async get() {
    const ids = [...this.wanted].filter(([id, canvas]) => canvas.isConnected && !this.known.has(id)).map(([id]) => id).slice(0, 24);
    if (!ids.length) return;
    try {
      const { strips } = await ask("api/strips", { video_id: ids, bins: 120, kind: this.kind }, this.signal);
      strips.forEach((each, i) => {
        this.known.set(ids[i], each.counts);
        const canvas = this.wanted.get(ids[i]);
        if (canvas?.isConnected) this.draw(canvas, each.counts);
      });
      this.fetch();
    } catch { /* a row without its small picture is still a row */ }
  }

  draw(canvas, counts) {
    sharp(canvas, (c, w, h) => {
      const most = Math.max(1, ...counts), wide = w / counts.length;
      c.fillStyle = style("--lane");
      c.fillRect(0, 0, w, h);
      c.fillStyle = this.kind ? colour(this.kind) : style("--accent");
      counts.forEach((n, i) => {
        if (!n) return;
        c.globalAlpha = 0.22 + 0.7 * (n / most);
        c.fillRect(i * wide, h - (n / most) * h, wide + 0.4, (n / most) * h);
      });
      c.globalAlpha = 1;
    });
  }
}

