// Events by words and meaning, with the picture of each; and questions, with what the answer rests on.

import { pictureButton } from "./looks.js";
import { ask, base, clock, dot, el, empty, fill, kindsKnown, learnKinds, notice, number, picture, said, still, telling } from "./lib.js";

const ROLES = { before: "before it", while: "at the same time", next: "then" };
const WAYS = { words: "by words", meaning: "by meaning", both: "by words and meaning", text: "by a look through all texts", none: "" };

// Videos that a question names, in the address of what is found beside the answer, at most.
const NAMED = 20;

export function search({ params, go }) {
  const stop = new AbortController();
  const q = (params.get("q") ?? "").trim(), kind = params.get("kind"), name = params.get("video");
  const answer = el("div"), results = el("div", { class: "hits", role: "list", "aria-label": "Found" }), more = el("div", { class: "more" });
  const head = el("header", { class: "title" }, el("div", {}, el("h1", {}, q ? `“${q}”` : "Search"), el("p", { class: "muted", id: "found", role: "status" })), pictureButton(go));
  const chips = el("div", { class: "chips", role: "group", "aria-label": "Only this kind" });
  const node = el("div", { class: "page search" }, head, chips, answer, results, more);
  const status = head.querySelector("#found");
  const to = (changes) => {
    const next = new URLSearchParams({ q });
    for (const [key, value] of Object.entries({ kind, video: name, ...changes })) if (value) next.set(key, value);
    go(`search?${next}`);
  };
  let shown = 0, words = q, of = name;

  async function page(cursor = null) {
    fill(more);
    try {
      const found = await ask("api/search", { q: words, kind, video: of, limit: 24, cursor }, stop.signal);
      await kindsKnown();
      for (const hit of found.hits) results.append(card(hit, words));
      shown += found.hits.length;
      status.textContent = shown ? `${number(shown)}${found.next ? " and more" : ""} found ${WAYS[found.mode] ?? ""}` : "";
      if (!shown) {
        fill(results, empty("Nothing like that", kind || name ? "Take the filters away, or use other words." : "Use other words; the kinds of the archive are on its page."));
      }
      if (found.next) fill(more, el("button", { type: "button", onclick: () => page(found.next) }, "Show more"));
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 401) fill(more, notice(error, () => page(cursor)));
    }
  }

  async function question() {
    fill(answer, el("section", { class: "card answer", "aria-busy": "true" }, el("p", { class: "waiting" }, "Looking for an answer …")));
    try {
      const found = await ask("api/ask", { q, kind, video: name, limit: 8 }, stop.signal);
      await kindsKnown();
      fill(answer, el("section", { class: "card answer", "aria-label": "Answer" },
        found.answer ? el("p", { class: "text" }, found.answer) : el("h2", {}, found.evidence.length ? "What the log says of it" : "No answer"),
        found.note ? el("p", { class: "muted" }, found.note) : null,
        found.evidence.length ? el("ul", { class: "evidence" }, found.evidence.map(evidence)) : null));
      words = found.topic;
      if (found.videos.length && found.videos.length <= NAMED) of = found.videos;
    } catch (error) {
      if (error.name !== "AbortError") fill(answer, error.status === 501 ? null : notice(error));
    }
  }

  ask("api/overview", {}, stop.signal).then((facts) => {
    learnKinds(facts.kinds.map((k) => k.kind));
    fill(chips, facts.kinds.slice(0, 24).map((k) => el("button", { type: "button", class: "chip", "aria-pressed": String(kind === k.kind), onclick: () => to({ kind: kind === k.kind ? "" : k.kind }) },
      dot(k.kind), said(k.kind))), name ? el("button", { type: "button", class: "chip", "aria-pressed": "true", onclick: () => to({ video: "" }) }, `only ${base(name)} ×`) : null);
    if (!q) fill(results, empty("What are you looking for?", "Words that are in an event, or what is meant. A question, with a question mark, is answered from the log.",
      el("span", { class: "chips" }, facts.kinds.slice(0, 8).map((k) => el("button", { type: "button", class: "chip", onclick: () => go(`search?${new URLSearchParams({ q: k.kind })}`) }, dot(k.kind), said(k.kind))))));
  }, () => {});
  // Of a question, what it is about is looked for; its other words are in no event.
  if (/[?？]\s*$/.test(q)) question().then(() => words && page());
  else if (q) page();
  if (!q) requestAnimationFrame(() => document.querySelector(".find input").focus());
  return {
    node,
    update(now) { // the same page with other words is another search
      params = now;
      stop.abort();
      const fresh = search({ params, go });
      node.replaceWith(fresh.node);
      Object.assign(this, fresh);
      document.querySelector(".find input").value = now.get("q") ?? "";
    },
    destroy() { stop.abort(); },
  };
}

function evidence({ event, number: n, role }) {
  const image = picture(still(event.video_id, telling(event), 90));
  return el("li", { class: role }, el("a", { href: link(event) }, image, el("span", {},
    el("span", { class: "what" }, el("em", {}, `${n}`), dot(event.kind), el("b", {}, event.text || said(event.kind))),
    el("small", {}, ROLES[role] ? `${ROLES[role]}, ` : "", el("time", {}, `${clock(event.start_us, 1)} – ${clock(event.end_us, 1)}`), `  ·  ${base(event.video)}`))));
}

const link = (event) => `#/v/${event.video_id}?${new URLSearchParams({ t: String(Math.max(0, event.start_us) / 1e6), e: event.event_id, run: event.run_id })}`;

function card({ event, found_by: by }, q) {
  const image = picture(still(event.video_id, telling(event), 180));
  image.append(el("time", {}, clock(event.start_us, 1)));
  return el("a", { class: "hit", role: "listitem", href: link(event), title: by.length ? `found by ${by.join(" and ")}` : null }, image,
    el("span", { class: "said" }, el("b", {}, marked(event.text || said(event.kind), q)), el("small", {}, el("span", { class: "what" }, dot(event.kind), said(event.kind)), base(event.video))));
}

// The words that were asked for, marked.
function marked(text, q) {
  const words = q.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter((w) => w.length > 1 || /\p{Script=Han}/u.test(w));
  const parts = [];
  const lower = text.toLowerCase();
  let at = 0;
  while (at < text.length && lower.length === text.length) {
    let next = -1, long = 0;
    for (const word of words) {
      const found = lower.indexOf(word, at);
      if (found >= 0 && (next < 0 || found < next)) [next, long] = [found, word.length];
    }
    if (next < 0) break;
    parts.push(text.slice(at, next), el("mark", {}, text.slice(next, next + long)));
    at = next + long;
  }
  parts.push(text.slice(at));
  return parts;
}
