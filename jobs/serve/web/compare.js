// Two runs beside each other: by kind, by video, and one video event by event.

import { ask, base, clock, dot, el, empty, fill, learnKinds, notice, number, picture, plural, still, video as path } from "./lib.js";
import { Timeline } from "./timeline.js";

const SHOWN = 2000; // rows at first, and by each "more"

export function compare({ ids: [left, right, id] }) {
  const stop = new AbortController();
  const node = el("div", { class: "page compare" }, el("p", { class: "waiting" }, "Comparing …"));
  const parts = [];
  const open = id ? oneVideo : whole;

  async function whole() {
    const said = await ask("api/compare", { left, right, limit: 100 }, stop.signal);
    learnKinds(said.kinds.map((k) => k.kind));
    const most = Math.max(1, ...said.kinds.flatMap((k) => [k.left, k.right]));
    const head = (run, side) => el("div", { class: `side-head ${side}` }, el("a", { href: `#/runs/${encodeURIComponent(run.run_id)}` }, run.run_id), el("small", {}, `${run.model} · ${plural(run.events, "event")} · ${plural(run.videos_done, "video")}`));
    const list = el("div", { class: "wide" }), more = el("div", { class: "more" });
    const body = el("tbody");
    const rows = (videos) => {
      for (const v of videos) {
        const by = v.left === null || v.right === null ? null : v.right - v.left;
        body.append(el("tr", {}, el("td", {}, by === null ? base(v.name) : el("a", { href: `#/compare/${encodeURIComponent(left)}/${encodeURIComponent(right)}/${v.video_id}` }, base(v.name))),
          el("td", { class: "n" }, v.left === null ? "–" : number(v.left)), el("td", { class: "n" }, v.right === null ? "–" : number(v.right)),
          el("td", { class: "n" }, by === null ? "only one" : by === 0 ? "±0" : by > 0 ? `+${number(by)}` : `−${number(-by)}`)));
      }
    };
    const next = (cursor) => fill(more, cursor && el("button", { type: "button", onclick: async () => {
      const page = await ask("api/compare", { left, right, limit: 100, cursor }, stop.signal);
      rows(page.videos);
      next(page.next);
    } }, "Show more"));
    rows(said.videos);
    next(said.next);
    list.append(el("table", {}, el("thead", {}, el("tr", {}, ["video", "left", "right", "difference"].map((h) => el("th", { scope: "col" }, h)))), body));
    fill(node, el("header", { class: "title" }, el("h1", {}, "Runs compared")),
      el("section", { class: "card versus" }, el("header", {}, head(said.left, "left"), el("p", { class: "muted" }, `${plural(said.both, "video")} in both`), head(said.right, "right")),
        said.kinds.length ? el("div", { class: "mirror" }, said.kinds.map((k) => el("div", { class: "mirror-row" }, half(k.left, most, "left"), el("span", { class: "what" }, dot(k.kind), k.kind), half(k.right, most, "right")))) : el("p", { class: "muted" }, "They share no video.")),
      el("section", {}, el("h2", {}, "Videos that differ most"), list, more));
  }

  const half = (n, most, side) => el("span", { class: `half ${side}` }, el("em", {}, number(n)), el("i", { class: "fill", style: { width: `${(n / most) * 100}%` } }));

  async function oneVideo() {
    const said = await ask(path(id, "/compare"), { left, right }, stop.signal);
    const kinds = [...new Set([...said.left, ...said.right].map((e) => e.kind))].sort();
    learnKinds(kinds);
    const duration = said.duration_us ?? Math.max(1, ...said.left.map((e) => e.end_us), ...said.right.map((e) => e.end_us));
    const image = el("div", { class: "compare-still" }), when = el("p", { class: "muted" });
    const seek = (us) => {
      for (const part of parts) part.at(us);
      fill(image, picture(still(id, us, 360), `The video at ${clock(us, 1)}`));
      when.textContent = clock(us, 2);
    };
    const line = (events, side) => {
      const data = { kinds, kind: events.map((e) => kinds.indexOf(e.kind)), start_us: events.map((e) => e.start_us), end_us: events.map((e) => e.end_us), text: events.map((e) => e.text) };
      const timeline = new Timeline({ data, id, durationUs: duration, seek, choose: (i) => seek(events[i].start_us), label: `${side} run`, ordered: true });
      parts.push(timeline);
      return timeline.node;
    };
    const pairLeft = new Map(said.pairs.map((p) => [p.left, p])), pairRight = new Set(said.pairs.map((p) => p.right));
    const rows = [
      ...said.left.map((e, i) => [e.start_us, e, pairLeft.has(i) ? said.right[pairLeft.get(i).right] : null, pairLeft.get(i)]),
      ...said.right.flatMap((e, i) => (pairRight.has(i) ? [] : [[e.start_us, null, e, null]])),
    ].sort((a, b) => a[0] - b[0]);
    const cell = (e) => (e ? el("td", {}, el("button", { type: "button", class: "plain", onclick: () => seek(e.start_us) }, el("time", {}, clock(e.start_us, 1)), dot(e.kind), el("span", {}, e.text || e.kind))) : el("td", { class: "absent" }, "–"));
    const only = said.left.length + said.right.length - 2 * said.pairs.length;
    const differing = el("input", { type: "checkbox", onchange: () => list(SHOWN) });
    const body = el("tbody"), more = el("div", { class: "more" });
    const row = ([, a, b, pair]) => el("tr", { class: pair ? (pair.same_text ? "same" : "reworded") : "one-sided" }, cell(a), cell(b),
      el("td", { class: "muted" }, pair ? (pair.same_text ? "the same" : "other words") : a ? "left only" : "right only"));
    const list = (most) => {
      const wanted = differing.checked ? rows.filter(([, , , pair]) => !pair?.same_text) : rows;
      fill(body, wanted.slice(0, most).map(row));
      fill(more, wanted.length > most && [el("p", { class: "muted" }, `The first ${number(most)} of ${number(wanted.length)}.`),
        el("button", { type: "button", onclick: () => list(most + SHOWN) }, "Show more")]);
    };
    list(SHOWN);
    fill(node, el("header", { class: "title" }, el("div", {}, el("h1", {}, base(said.name)), el("p", { class: "muted" }, `${plural(said.pairs.length, "event")} in both runs, ${number(only)} in one only`)),
      el("a", { class: "plain", href: `#/compare/${encodeURIComponent(left)}/${encodeURIComponent(right)}` }, "All videos")),
      el("div", { class: "two" }, el("div", {}, el("h2", { class: "run-name" }, left), line(said.left, "Left"), el("h2", { class: "run-name" }, right), line(said.right, "Right")), el("div", { class: "compare-side" }, image, when)),
      el("label", { class: "only" }, differing, " only what differs"),
      rows.length ? el("div", { class: "wide" }, el("table", { class: "pairs" }, el("thead", {}, el("tr", {}, [left, right, ""].map((h) => el("th", { scope: "col" }, h)))), body), more) : empty("Neither run saw anything"));
    seek(Math.min(duration - 1, rows.find((r) => !r[3])?.[0] ?? 0));
  }

  open().catch((error) => error.name !== "AbortError" && error.status !== 401 && fill(node, notice(error)));
  return { node, theme() { for (const part of parts) part.resize(); }, destroy() { stop.abort(); for (const part of parts) part.destroy(); } };
}
