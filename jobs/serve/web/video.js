// One video: the player, the timeline of its events under it, the list beside it, and where an event comes from.

import { Player } from "./player.js";
import { address, ask, base, below, button, bytes, clock, dot, el, empty, facts as archive, fill, folder, icon, kindsKnown, later, learnKinds, long, notice, number, picture,
  plural, said, still, video as path } from "./lib.js";
import { Rows } from "./rows.js";
import { Timeline } from "./timeline.js";

const ROW = 46, PAGE = 500, WITH_TEXT = 20000;

export function video({ ids: [id], params, go }) {
  const node = el("div", { class: "page video" }, el("p", { class: "waiting" }, "Opening …"));
  const stop = new AbortController();
  let player = null, timeline = null, list = null, events = null, facts = null, chosen = -1, drawer = null;

  async function open() {
    try {
      [facts, events] = await Promise.all([ask(path(id), {}, stop.signal), columns(id, params.get("run"), stop.signal).catch((error) => {
        if (error.status === 404) return null;
        throw error;
      }), kindsKnown()]);
      const { play } = facts;
      Object.assign(play, { url: below(play.url), original: below(play.original), segments: play.segments && { ...play.segments, url: below(play.segments.url) } });
      build();
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) fill(node, notice(error, open));
    }
  }

  function build() {
    document.title = `${base(facts.name)} · Secondsight`;
    if (facts.status !== "done" && !events?.total) {
      fill(node, heading(), empty("This video could not be watched", facts.reason, `Run ${facts.run_id}. secondsight run --retry-failed takes it up again.`));
      return;
    }
    learnKinds([...events.kinds].sort());
    const duration = facts.duration_us ?? Math.max(1, ...events.end_us);
    player = new Player({ facts, duration, captions: address(path(id, "/export"), { format: "vtt", run: events.run_id }) });
    if (facts.play.how !== "none") archive().then((all) => all?.pictures && player?.bar.querySelector(".spacer").after(button("alike", "Moments that look like this one",
      () => go(`looks?${new URLSearchParams({ of: id, t: (player.now / 1e6).toFixed(3), run: events.run_id })}`))));
    timeline = new Timeline({ data: events, id, durationUs: duration, seek: (us) => player.seek(us), choose: (index) => choose(index, true),
      pictures: facts.play.how !== "none", label: `Timeline of ${base(facts.name)}` });
    list = eventList(events, id, stop.signal, (index) => choose(index, true));
    drawer = el("aside", { class: "drawer", hidden: true, "aria-label": "Event" });
    player.ontime = (us, playing) => {
      timeline.at(us, playing);
      list.at(us, playing);
    };
    fill(node, heading(), el("div", { class: "stage" }, player.node, el("div", { class: "side" }, list.node, drawer)), timeline.node, kinds(), about());
    const t = Number(params.get("t"));
    if (params.has("t") && t >= 0) player.seek(Math.min(duration - 1, Math.round(t * 1e6)));
    else timeline.at(0);
    const wanted = params.get("e");
    if (wanted) findEvent(events, wanted).then((index) => index >= 0 && choose(index, !params.has("t")));
  }

  const heading = () => el("header", { class: "title" }, el("div", {}, el("h1", {}, base(facts.name)),
    el("p", { class: "muted" }, [folder(facts.name), facts.duration_us !== null && long(facts.duration_us), facts.width && `${facts.width} × ${facts.height}`,
      facts.codec, events && plural(events.total, "event")].filter(Boolean).join("  ·  "))), runPicker());

  function runPicker() {
    if (facts.runs.length < 2) return null;
    const current = events?.run_id ?? facts.run_id;
    const pick = el("select", { "aria-label": "Run", onchange: () => reopen(pick.value) },
      facts.runs.map((r) => el("option", { value: r.run_id, selected: r.run_id === current }, `${r.run_id}${r.status === "done" ? "" : ` (${r.status})`}`)));
    const other = facts.runs.find((r) => r.run_id !== current && r.status === "done");
    return el("div", { class: "actions" }, el("label", {}, "Seen by ", pick),
      other && el("a", { class: "plain", href: `#/compare/${encodeURIComponent(current)}/${encodeURIComponent(other.run_id)}/${id}` }, "Compare"));
  }

  function reopen(run) {
    params.set("run", run);
    destroyParts();
    history.replaceState(null, "", `#/v/${id}?${params}`);
    fill(node, el("p", { class: "waiting" }, "Opening …"));
    open();
  }

  function kinds() {
    const hidden = new Set();
    return el("div", { class: "chips", role: "group", "aria-label": "Kinds shown" }, timeline.lanes.map((lane) => el("button", { type: "button", class: "chip", "aria-pressed": "true",
      onclick(event) {
        if (hidden.has(lane.name)) hidden.delete(lane.name);
        else hidden.add(lane.name);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(lane.name)));
        timeline.hide(hidden);
        list.hide(hidden);
      } }, dot(lane.name), said(lane.name), el("em", {}, number(lane.at.length)))));
  }

  async function choose(index, jump) {
    chosen = index;
    timeline.choosing(index);
    list.choose(index);
    if (jump) player.seek(Math.min(player.duration - 1, Math.max(0, events.start_us[index])));
    await events.need(index, index + 1);
    const event_id = events.event_id[index];
    history.replaceState(null, "", `#/v/${id}?${new URLSearchParams({ ...(params.get("run") ? { run: params.get("run") } : {}), e: event_id })}`);
    drawer.hidden = false;
    fill(drawer, el("p", { class: "waiting" }, "Looking it up …"));
    try {
      const found = await ask(path(id, `/events/${event_id}`), { run: events.run_id }, stop.signal);
      if (chosen === index) fill(drawer, detail(found));
    } catch (error) {
      if (error.name !== "AbortError" && chosen === index) fill(drawer, notice(error));
    }
  }

  function unchoose() {
    chosen = -1;
    drawer.hidden = true;
    timeline.choosing(-1);
    list.choose(-1);
    history.replaceState(null, "", `#/v/${id}${params.get("run") ? `?run=${encodeURIComponent(params.get("run"))}` : ""}`);
  }

  function detail({ event, run, windows }) {
    const frames = [...new Set(event.evidence_us)].slice(0, 6);
    const moment = Math.min(event.end_us, player.duration) - event.start_us;
    return [
      el("header", {}, el("span", { class: "what" }, dot(event.kind), said(event.kind)), button("link", "Copy a link to this moment", copyLink), button("close", "Close", unchoose)),
      el("h2", {}, event.text || said(event.kind)),
      el("p", { class: "when" }, clock(event.start_us, 3), " – ", clock(event.end_us, 3), moment >= 1000 && el("span", { class: "muted" }, ` ${(moment / 1e6).toFixed(2)} s`)),
      el("div", { class: "buttons" }, el("button", { type: "button", onclick: () => player.span(event.start_us, event.end_us) }, "Play it"),
        el("a", { href: address(path(id, "/clip"), { start: Math.max(0, event.start_us) / 1e6, end: Math.min(player.duration, Math.max(event.end_us, event.start_us + 1e6)) / 1e6 }), download: "" }, "Cut it out")),
      frames.length && facts.play.how !== "none" ? el("div", { class: "evidence" }, el("h3", {}, "Frames that show it"),
        el("div", {}, frames.map((us) => el("button", { type: "button", "aria-label": `Go to ${clock(us, 2)}`, onclick: () => player.seek(us) }, picture(still(id, us, 120)), el("small", {}, clock(us, 2)))))) : null,
      el("dl", { class: "table" },
        row("confidence", event.confidence === null ? null : event.confidence.toFixed(2)),
        Object.entries(event.attributes).map(attribute),
        row("model", event.model), row("run", run ? el("a", { href: `#/runs/${encodeURIComponent(run.run_id)}` }, run.run_id) : event.run_id),
        windows.map((w) => row(`window ${w.window}`, `${clock(w.start_us, 1)} – ${clock(w.end_us, 1)}, ${plural(w.frame_us?.length ?? 0, "frame")}${w.attempt > 1 ? `, attempt ${w.attempt}` : ""}${w.truncated ? ", answer cut off" : ""}`)),
        row("event", el("code", {}, event.event_id))),
      windows.filter((w) => w.answer).map((w) => el("details", {}, el("summary", {}, `What the model said of window ${w.window}`), el("pre", {}, w.answer))),
    ];
  }

  const row = (name, value) => (value === null || value === undefined || value === "" ? null : el("div", {}, el("dt", {}, name), el("dd", {}, value)));

  function attribute([name, value]) {
    const words = name.replace(/_us$/, "").replaceAll("_", " ");
    if (name.endsWith("_us") && typeof value === "number") return row(words, `${value / 1e6} s`);
    return row(words, typeof value === "object" ? JSON.stringify(value) : String(value));
  }

  function copyLink() {
    const link = new URL(location.href);
    link.hash = `#/v/${id}?${new URLSearchParams({ ...(params.get("run") ? { run: params.get("run") } : {}), t: (player.now / 1e6).toFixed(3) })}`;
    navigator.clipboard?.writeText(link.href);
  }

  function about() {
    const links = facts.play.how === "none" ? [] : [
      el("a", { href: facts.play.original, download: base(facts.name) }, icon("down"), "The video", facts.size_bytes ? ` (${bytes(facts.size_bytes)})` : ""),
      el("a", { href: path(id, "/sheet"), target: "_blank", rel: "noopener" }, icon("grid"), "Contact sheet")];
    return el("footer", { class: "about" },
      el("a", { href: address(path(id, "/export"), { format: "vtt", run: events.run_id }), download: `${base(facts.name)}.vtt` }, icon("captions"), "Events as subtitles"),
      el("a", { href: address(path(id, "/export"), { format: "csv", run: events.run_id }), download: `${base(facts.name)}.csv` }, icon("down"), "Events as CSV"),
      links, facts.lost_us.length ? el("p", { class: "muted" }, `Could not be decoded: ${facts.lost_us.map((l) => `${clock(l.start_us, 1)} – ${clock(l.end_us, 1)}`).join(", ")}`) : null,
      el("p", { class: "muted" }, `Run ${events.run_id}`, facts.uris.length > 1 ? ` · also as ${facts.uris.slice(1, 4).map(base).join(", ")}` : ""));
  }

  function destroyParts() {
    player?.destroy();
    timeline?.destroy();
    list?.destroy();
    player = timeline = list = null;
  }

  const step = (by) => {
    const { start_us: starts } = events;
    const from = chosen >= 0 ? chosen : starts.findLastIndex((s) => s <= player.now) + (by < 0 ? 1 : 0);
    const next = list.next(from, by);
    if (next >= 0) choose(next, true);
  };

  open();
  return {
    node,
    update(now) {
      if (!player) return;
      const t = Number(now.get("t"));
      if (now.has("t") && t >= 0) player.seek(Math.round(t * 1e6));
      const wanted = now.get("e");
      if (wanted) findEvent(events, wanted).then((index) => index >= 0 && index !== chosen && choose(index, !now.has("t")));
    },
    theme() { timeline?.resize(); list?.redraw(); },
    key(event) {
      if (!player) return false;
      const keys = { " ": () => player.toggle(), k: () => player.toggle(), ArrowLeft: () => player.seek(player.now - 5e6), ArrowRight: () => player.seek(player.now + 5e6),
        ",": () => player.frame(-1), ".": () => player.frame(1), j: () => step(-1), l: () => step(1), ArrowUp: () => player.louder(0.1), ArrowDown: () => player.louder(-0.1),
        "+": () => timeline.zoom(0.5), "=": () => timeline.zoom(0.5), "-": () => timeline.zoom(2), 0: () => timeline.look(0, timeline.durationUs),
        m: () => player.mute(), f: () => player.full(), c: () => player.caption(), Escape: () => chosen >= 0 && unchoose(), Home: () => player.seek(0), End: () => player.seek(player.duration - 1) };
      if (event.target.closest?.("button, a, summary") && [" ", "Enter"].includes(event.key)) return false;
      const does = keys[event.key];
      does?.();
      return Boolean(does);
    },
    destroy() { stop.abort(); destroyParts(); },
  };
}

// The events' times at once; their texts with them where they are few, else in pages as they come into view.
async function columns(id, run, signal) {
  const url = path(id, "/timeline");
  const data = await ask(url, { run }, signal);
  const total = data.total;
  while (data.start_us.length < total) { // more than one answer holds
    const part = await ask(url, { run: data.run_id, offset: data.start_us.length }, signal);
    if (!part.start_us.length) break;
    const place = part.kinds.map((kind) => { if (!data.kinds.includes(kind)) data.kinds.push(kind); return data.kinds.indexOf(kind); });
    data.kind = data.kind.concat(part.kind.map((k) => place[k]));
    data.start_us = data.start_us.concat(part.start_us);
    data.end_us = data.end_us.concat(part.end_us);
  }
  data.text = new Array(total);
  data.confidence = new Array(total);
  data.event_id = new Array(total);
  const pages = new Map();
  const size = total <= WITH_TEXT ? WITH_TEXT : PAGE;
  data.need = (from, to) => {
    const wanted = [];
    for (let p = Math.floor(from / size); p <= Math.floor(Math.max(from, to - 1) / size); p++) {
      if (!pages.has(p)) {
        pages.set(p, ask(url, { run: data.run_id, offset: p * size, limit: size, field: ["text", "confidence", "event_id"] }, signal).then((part) => {
          part.text.forEach((text, i) => {
            data.text[p * size + i] = text;
            data.confidence[p * size + i] = part.confidence[i];
            data.event_id[p * size + i] = part.event_id[i];
          });
        }));
        pages.get(p).catch(() => pages.delete(p));
      }
      wanted.push(pages.get(p));
    }
    return Promise.all(wanted);
  };
  data.ready = (index) => data.event_id[index] !== undefined;
  if (total && size === WITH_TEXT) await data.need(0, total);
  return data;
}

async function findEvent(events, wanted) {
  for (let from = 0; from < events.total; from += PAGE * 4) {
    await events.need(from, Math.min(events.total, from + PAGE * 4));
    const found = events.event_id.indexOf(wanted, from);
    if (found >= 0) return found;
  }
  return -1;
}

function eventList(events, id, signal, choose) {
  const words = el("input", { type: "search", placeholder: "Filter events", "aria-label": "Filter events", spellcheck: "false", maxlength: 200 });
  const now = el("p", { class: "now", "aria-live": "off" });
  const scroller = el("div", { class: "scroll", tabindex: -1 });
  let places = null, hidden = new Set(), on = new Set(), chosen = -1, wanted = "", atUs = 0, held = 0;
  const length = () => (places ? places.length : events.total);
  const at = (row) => (places ? places[row] : row);
  const rowOf = (index) => (places ? places.indexOf(index) : index);
  const make = (row) => {
    const index = at(row), kind = events.kinds[events.kind[index]];
    const text = events.text[index];
    if (!events.ready(index)) events.need(index, index + 1).then(() => rows.again(row), () => {});
    const entry = el("button", { type: "button", class: "event", role: "listitem", onclick: () => choose(index) },
      el("time", {}, clock(events.start_us[index], 1)), dot(kind),
      el("span", {}, el("b", {}, text === undefined ? "…" : text || said(kind)), text && text !== said(kind) ? el("small", {}, said(kind)) : null));
    entry.classList.toggle("on", on.has(index));
    if (index === chosen) entry.setAttribute("aria-current", "true");
    entry.dataset.index = index;
    return entry;
  };
  const rows = new Rows({ height: ROW, label: "Events", make, scroller });
  add(scroller, rows.node);
  scroller.addEventListener("pointerdown", () => { held = Date.now(); });
  scroller.addEventListener("wheel", () => { held = Date.now(); }, { passive: true });
  // The latest end up to each event: what is on is found without looking at all.
  const latest = new Float64Array(events.total);
  events.end_us.forEach((end, i) => { latest[i] = Math.max(end, events.start_us[i] + 1, i ? latest[i - 1] : -Infinity); });

  function going(us) {
    const found = [];
    let low = 0, high = events.total;
    while (low < high) { const m = (low + high) >> 1; if (latest[m] > us) high = m; else low = m + 1; }
    for (let i = low; i < events.total && events.start_us[i] <= us; i++) {
      const shown = Math.max(events.end_us[i], events.start_us[i] + 400_000); // moments light up long enough to be seen
      if (us < shown && !hidden.has(events.kinds[events.kind[i]])) found.push(i);
    }
    return found;
  }

  async function filter() {
    wanted = words.value.trim().toLowerCase();
    if (wanted) await events.need(0, events.total);
    places = null;
    if (wanted || hidden.size) {
      places = [];
      for (let i = 0; i < events.total; i++) {
        const kind = events.kinds[events.kind[i]];
        if (!hidden.has(kind) && (!wanted || kind.toLowerCase().includes(wanted) || (events.text[i] ?? "").toLowerCase().includes(wanted))) places.push(i);
      }
    }
    scroller.scrollTop = 0;
    rows.set(length(), false);
    scroller.classList.toggle("none", !length());
  }
  words.addEventListener("input", later(150, filter));
  requestAnimationFrame(() => rows.set(length(), false));
  const node = el("section", { class: "events", "aria-label": "Events" }, el("header", {}, words), now, scroller);
  fill(now, el("span", { class: "muted" }, "on now: nothing"));
  return {
    node,
    at(us, playing) {
      atUs = us;
      const found = going(us);
      const same = found.length === on.size && found.every((i) => on.has(i));
      if (same) return;
      on = new Set(found);
      for (const [, entry] of rows.nodes) entry.classList.toggle("on", on.has(Number(entry.dataset.index)));
      fill(now, el("span", { class: "muted" }, "on now"), found.length ? found.slice(-6).map((i) => el("span", { class: "what" }, dot(events.kinds[events.kind[i]]), (events.text[i] || events.kinds[events.kind[i]]).slice(0, 60)))
        : el("span", { class: "muted" }, "nothing"));
      if (found.length && Date.now() - held > 4000 && (playing || chosen < 0)) {
        const row = rowOf(found.at(-1));
        if (row >= 0) rows.show(row);
      }
    },
    choose(index) {
      chosen = index;
      for (const [, entry] of rows.nodes) {
        if (Number(entry.dataset.index) === index) entry.setAttribute("aria-current", "true");
        else entry.removeAttribute("aria-current");
      }
      if (index >= 0 && rowOf(index) >= 0) rows.show(rowOf(index));
    },
    next(from, by) {
      if (!places) { const next = from + by; return next >= 0 && next < events.total ? next : -1; }
      return by > 0 ? places.find((i) => i > from) ?? -1 : places.findLast((i) => i < from) ?? -1;
    },
    hide(kinds) { hidden = kinds; filter(); },
    redraw() { rows.set(length(), false); },
    destroy() { rows.destroy(); },
    get atUs() { return atUs; },
  };
}

function add(parent, child) {
  parent.append(child);
}
