// Runs: what goes on, what has been, one of them; and what could not be watched.

import { ask, base, date, dot, el, empty, fill, folder, learnKinds, long, notice, number, plural } from "./lib.js";
import { liveCards } from "./live.js";

export function runs({ go }) {
  const stop = new AbortController();
  const chosen = [];
  const compare = el("button", { type: "button", class: "main", disabled: true, onclick: () => go(`compare/${chosen.map(encodeURIComponent).join("/")}`) }, "Compare two runs");
  const table = el("div");
  const live = liveCards({ grown: () => load() });
  const node = el("div", { class: "page runs" }, el("header", { class: "title" }, el("h1", {}, "Runs"), el("div", { class: "actions" }, compare)), live.node, table);

  async function load() {
    try {
      const { runs: all } = await ask("api/runs", {}, stop.signal);
      if (!all.length) return fill(table, empty("No run yet", "secondsight run ARCHIVE --log LOG starts one."));
      fill(table, el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ["", "run", "status", "model", "started", "took", "videos", "failed", "events", "watched"].map((h) => el("th", { scope: "col" }, h)))),
        el("tbody", {}, all.map((r) => {
          const box = el("input", { type: "checkbox", "aria-label": `Compare ${r.run_id}`, checked: chosen.includes(r.run_id), onchange: () => pick(box, r.run_id) });
          return el("tr", {}, el("td", {}, box), el("td", {}, el("a", { href: `#/runs/${encodeURIComponent(r.run_id)}` }, r.run_id)), el("td", {}, badge(r.status)), el("td", {}, r.model),
            el("td", {}, date(r.started_at_us)), el("td", { class: "n" }, r.finished_at_us ? long(r.finished_at_us - r.started_at_us) : ""), el("td", { class: "n" }, number(r.videos_done)),
            el("td", { class: "n" }, r.videos_failed + r.videos_quarantined ? number(r.videos_failed + r.videos_quarantined) : ""), el("td", { class: "n" }, number(r.events)), el("td", { class: "n" }, long(r.watched_us)));
        })))));
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) fill(table, notice(error, load));
    }
  }
  function pick(box, id) {
    if (box.checked) chosen.push(id);
    else chosen.splice(chosen.indexOf(id), 1);
    while (chosen.length > 2) {
      const gone = chosen.shift();
      for (const other of table.querySelectorAll("input")) if (other.getAttribute("aria-label") === `Compare ${gone}`) other.checked = false;
    }
    compare.disabled = chosen.length !== 2;
  }
  load();
  return { node, destroy() { stop.abort(); live.destroy(); } };
}

const badge = (status) => el("span", { class: `badge ${status}` }, status);

export function run({ ids: [id] }) {
  const stop = new AbortController();
  const node = el("div", { class: "page run-page" }, el("p", { class: "waiting" }, "Opening …"));
  ask(`api/runs/${encodeURIComponent(id)}`, {}, stop.signal).then((r) => {
    learnKinds(r.kinds.map((k) => k.kind));
    const most = Math.max(1, ...r.kinds.map((k) => k.events));
    const figure = (value, name) => el("div", { class: "figure" }, el("b", {}, value), el("span", {}, name));
    fill(node, el("header", { class: "title" }, el("div", {}, el("h1", {}, r.run_id), el("p", { class: "muted" }, badge(r.status), ` ${r.model} · ${date(r.started_at_us)}`))),
      el("div", { class: "figures" }, figure(number(r.videos_done), "videos"), figure(long(r.watched_us), "watched"), figure(number(r.events), "events"),
        r.finished_at_us ? figure(long(r.finished_at_us - r.started_at_us), "took") : null, r.videos_failed + r.videos_quarantined ? figure(number(r.videos_failed + r.videos_quarantined), "not watched") : null),
      el("section", { class: "card" }, el("header", {}, el("h2", {}, "Events by kind")), el("div", { class: "bars" }, r.kinds.map((k) => bar(k, most)))),
      ["totals", "forecast", "config", "host"].filter((part) => Object.keys(r[part]).length).map((part) => el("details", { class: "card", open: part === "totals" }, el("summary", {}, part), tree(r[part]))));
  }, (error) => error.name !== "AbortError" && error.status !== 401 && fill(node, notice(error)));
  return { node, destroy: () => stop.abort() };
}

function bar(k, most) {
  const fillBar = el("i", { class: "fill", style: { width: `${(k.events / most) * 100}%` } });
  return el("div", { class: "barrow" }, el("span", { class: "what" }, dot(k.kind), k.kind), el("span", { class: "track" }, fillBar), el("em", {}, number(k.events)), el("small", {}, `${plural(k.videos, "video")}, ${long(k.total_us)}`));
}

export function tree(value) {
  if (value === null || typeof value !== "object") return document.createTextNode(value === null ? "–" : String(value));
  if (Array.isArray(value) && value.every((v) => v === null || typeof v !== "object")) return document.createTextNode(value.join(", "));
  return el("dl", { class: "table" }, Object.entries(value).map(([name, each]) => el("div", {}, el("dt", {}, name), el("dd", {}, tree(each)))));
}

export function failures() {
  const stop = new AbortController();
  const list = el("div"), head = el("div", { class: "chips", role: "group", "aria-label": "Reasons" }), more = el("div", { class: "more" });
  const node = el("div", { class: "page failures" }, el("header", { class: "title" }, el("div", {}, el("h1", {}, "Not watched"), el("p", { class: "muted" }, "Videos that no run has watched to the end, and why. secondsight run --retry-failed takes them up again."))), head, list, more);
  let code = null;
  async function page(cursor = null) {
    fill(more);
    try {
      const found = await ask("api/failures", { code, cursor, limit: 100 }, stop.signal);
      if (!cursor) {
        fill(list);
        fill(head, found.reasons.map((r) => el("button", { type: "button", class: "chip", "aria-pressed": String(code === r.code), onclick: () => { code = code === r.code ? null : r.code; page(); } }, r.code, el("em", {}, number(r.videos)))));
        if (!found.total) fill(list, empty("Everything was watched", "No video of the log has failed."));
      }
      for (const f of found.failures) {
        list.append(el("a", { class: "failure", href: `#/v/${f.video_id}` }, el("span", { class: "names" }, el("b", {}, base(f.name)), el("small", {}, folder(f.name))),
          el("p", {}, el("span", { class: "badge failed" }, f.code), " ", f.reason.replace(/^[a-z_]+:\s*/, "")), el("small", {}, `${f.run_id} · ${date(f.finished_at_us)}`)));
      }
      if (found.next) fill(more, el("button", { type: "button", onclick: () => page(found.next) }, "Show more"));
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) fill(more, notice(error, () => page(cursor)));
    }
  }
  page();
  return { node, destroy: () => stop.abort() };
}
