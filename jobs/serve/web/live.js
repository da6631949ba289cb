// Runs as they go on, told by the server (server-sent events).

import { ask, el, fill, long, number, plural } from "./lib.js";

const AGAIN_MS = 5000;

export function liveCards({ onlyLive = false, grown = null } = {}) {
  const node = el("div", { class: "live", "aria-live": "off" });
  let stream = null, version = null, timer = null, gone = false;

  function listen() {
    stream = new EventSource("api/live/stream");
    stream.addEventListener("status", (event) => {
      const said = JSON.parse(event.data);
      const runs = said.runs.filter((run) => run.is_live || (!onlyLive && !["done", "failed", "stopped"].includes(run.state)));
      refill(node, runs.map(card));
      if (version !== null && said.version !== version) grown?.(said.version);
      version = said.version;
    });
    stream.addEventListener("trouble", (event) => fill(node, el("p", { class: "notice" }, JSON.parse(event.data).message)));
    // A browser listens again by itself after a broken line, but not after an answer like 401, 502 or 503.
    stream.addEventListener("error", () => { if (stream.readyState === EventSource.CLOSED) timer = setTimeout(again, AGAIN_MS); });
  }
  async function again() {
    await ask("api/live").catch(() => null); // says so where the token is wanted anew
    if (!gone) listen();
  }
  listen();
  return { node, destroy() { gone = true; clearTimeout(timer); stream.close(); } };
}

// Cards come anew every second: what was opened stays open, and what had the focus has it again.
function refill(node, cards) {
  const opened = new Set([...node.querySelectorAll("details[open]")].map((each) => each.dataset.run));
  const focused = [...node.querySelectorAll("[data-run]")].find((each) => each.contains(document.activeElement));
  fill(node, cards);
  for (const each of node.querySelectorAll("details")) each.open = opened.has(each.dataset.run);
  if (!focused) return;
  const same = [...node.querySelectorAll(`${focused.tagName}[data-run]`)].find((each) => each.dataset.run === focused.dataset.run);
  (same?.querySelector("summary") ?? same)?.focus({ preventScroll: true });
}

function card(run) {
  const finished = run.videos_done + run.videos_failed + run.videos_quarantined + run.videos_already + run.duplicates;
  const share = run.expected_us > 0 ? Math.min(1, run.video_us / run.expected_us) : run.videos_found ? finished / run.videos_found : 0;
  const percent = Math.floor(share * 100);
  const facts = [
    ["videos", `${number(finished)} of ${number(run.videos_found)}${run.listed ? "" : "+"}`],
    ["events", number(run.events)],
    ["speed", run.hours_per_hour === null ? "–" : `${run.hours_per_hour.toFixed(1)} h/h`],
    ["left", run.left_s === null ? "–" : long(run.left_s * 1e6)],
    ["replicas", `${run.replicas} of ${run.replicas_wanted}`],
    ["retried", run.retries ? number(run.retries) : null],
    ["failed", run.videos_failed + run.videos_quarantined || null],
  ];
  const bar = el("div", { class: "bar", role: "progressbar", "aria-label": `Run ${run.run_id}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": percent },
    el("i"));
  bar.firstChild.style.width = `${share * 100}%`;
  return el("section", { class: `card run ${run.is_live ? "on" : "silent"}`, "aria-label": `Run ${run.run_id}` },
    el("header", {}, el("i", { class: "pulse", "aria-hidden": "true" }), el("h2", {}, run.is_live ? "Watching now" : `${run.state}, silent for ${long(run.silent_s * 1e6)}`),
      el("a", { href: `#/runs/${encodeURIComponent(run.run_id)}`, "data-run": run.run_id }, run.run_id), el("span", { class: "muted" }, `${run.model} · ${run.archive}`), el("b", { class: "percent" }, `${percent}%`)),
    bar,
    el("dl", { class: "facts" }, facts.filter(([, value]) => value !== null).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    run.note ? el("p", { class: "muted" }, run.note) : null,
    run.stuck.length ? el("ul", { class: "stuck" }, run.stuck.map((s) => el("li", {}, `${s.stage}: ${s.what} at ${s.where}, for ${long(Date.now() * 1000 - s.since_us)}`))) : null,
    run.failures.length ? el("details", { "data-run": run.run_id }, el("summary", {}, plural(run.failures.length, "failure") + " lately"),
      el("ul", {}, run.failures.map(([uri, reason]) => el("li", {}, `${uri}: ${reason}`)))) : null);
}
