// Moments by how they look: like a picture that somebody has, or like another moment of the archive.

import { ask, base, clock, dot, el, empty, facts as known, fill, icon, kindsKnown, notice, picture, plural, said, still } from "./lib.js";

let held = null; // the picture that is searched by; it leaves the page only to be compared

// A picture that was chosen, dropped or pasted: the page of what looks like it. False where there is none among them.
export function takePicture(files, go) {
  const file = [...(files ?? [])].find((f) => f.type.startsWith("image/"));
  if (!file) return false;
  held = { file, url: URL.createObjectURL(file), number: (held?.number ?? 0) + 1 };
  go(`looks?picture=${held.number}`);
  return true;
}

// A button that asks for a picture; nothing where the log cannot be searched so.
export function pictureButton(go, text = "Search by picture") {
  const input = el("input", { type: "file", accept: "image/*", hidden: true, tabindex: -1, "aria-label": "A picture to search by", onchange: () => { takePicture(input.files, go); input.value = ""; } });
  const node = el("span", { class: "by-picture", hidden: true }, input, el("button", { type: "button", onclick: () => input.click() }, icon("picture"), text));
  known().then((facts) => { node.hidden = !facts?.pictures; });
  return node;
}

export function looks({ params, go }) {
  const stop = new AbortController();
  const of = params.get("of"), t = params.get("t"), run = params.get("run");
  const results = el("div", { class: "hits", role: "list", "aria-label": "Found" });
  const wanted = el("div", { class: "wanted" }), status = el("p", { class: "muted", role: "status" });
  const node = el("div", { class: "page search looks" },
    el("header", { class: "title" }, wanted, el("div", {}, el("h1", {}, of ? "Looks like this moment" : "Looks like this picture"), status), el("div", { class: "spacer" }),
      el("div", { class: "actions" }, pictureButton(go, of ? "Search by picture" : "Another picture"))), results);

  async function find() {
    fill(status, "Comparing …");
    try {
      const found = of ? await ask("api/search/like", { of, t, of_run: run, limit: 48 }, stop.signal) : await send();
      await kindsKnown();
      const there = Number(t) * 1e6;
      const others = found.moments.filter((m) => !(of && m.video_id === of && m.start_us <= there && there < m.end_us));
      fill(status, others.length ? `${plural(others.length, "moment")}, the most alike first` : "Nothing else looks like it.", found.note && ` (${found.note})`);
      fill(results, others.map(card));
    } catch (error) {
      if (error.name === "AbortError" || error.status === 401) return;
      fill(status);
      fill(results, notice(error, find));
    }
  }

  function send() {
    return ask("api/search/image", { limit: 48 }, stop.signal, { method: "POST", body: held.file, headers: { "Content-Type": held.file.type } });
  }

  if (of) {
    fill(wanted, el("a", { href: `#/v/${encodeURIComponent(of)}?${new URLSearchParams({ t })}`, title: "Back to it" }, picture(still(of, Number(t) * 1e6, 180), "The moment")));
    find();
  } else if (held) {
    fill(wanted, picture(held.url, "The picture"));
    find();
  } else {
    fill(status);
    fill(results, empty("Which picture?", "Choose one, drop it anywhere on this page, or paste it.", pictureButton(go, "Choose a picture")));
  }
  return { node, update: again, destroy: () => stop.abort() };

  function again(now) {
    stop.abort();
    const fresh = looks({ params: now, go });
    node.replaceWith(fresh.node);
    Object.assign(this, fresh);
  }
}

function card({ video_id, video, run_id, at_us, start_us, end_us, nearness, events }) {
  const image = picture(still(video_id, at_us, 180));
  image.append(el("time", {}, clock(at_us, 1)));
  const shown = events.slice(0, 3);
  return el("a", { class: "hit", role: "listitem", href: `#/v/${video_id}?${new URLSearchParams({ t: String(Math.max(0, at_us) / 1e6), run: run_id })}`,
    title: `looks so from ${clock(start_us, 1)} to ${clock(end_us, 1)}` }, image,
    el("span", { class: "said" }, el("b", {}, base(video)),
      el("span", { class: "alike", title: `cosine ${nearness.toFixed(2)}` }, el("span", { class: "track" }, el("i", { class: "fill", style: { width: `${Math.max(0, Math.min(1, nearness)) * 100}%` } })), el("em", {}, nearness.toFixed(2))),
      el("small", {}, shown.length ? shown.map((e) => el("span", { class: "what" }, dot(e.kind), e.text || said(e.kind))) : "nothing is on then")));
}
