// The shell: which page is shown, the search field, themes, keys, the token.

import { button, el, fill, icon, notice, say } from "./lib.js";
import { door } from "./door.js";
import { archive } from "./archive.js";
import { failures, run, runs } from "./runs.js";
import { compare } from "./compare.js";
import { looks, takePicture } from "./looks.js";
import { search } from "./search.js";
import { video } from "./video.js";

const main = document.getElementById("main");
const field = document.querySelector(".find input");
const ROUTES = [
  [/^$/, archive, "archive", "Archive"],
  [/^search$/, search, "search", "Search"],
  [/^looks$/, looks, "search", "Looks like"],
  [/^v\/([^/]+)$/, video, "archive", "Video"],
  [/^runs$/, runs, "runs", "Runs"],
  [/^runs\/([^/]+)$/, run, "runs", "Run"],
  [/^compare\/([^/]+)\/([^/]+)(?:\/([^/]+))?$/, compare, "runs", "Runs compared"],
  [/^failures$/, failures, "archive", "Not watched"],
];

let shown = null, where = "";

function route() {
  if (location.hash.startsWith("#token=")) {
    const token = location.hash.slice(7);
    history.replaceState(null, "", location.pathname + "#/");
    return knock(token);
  }
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const params = new URLSearchParams(query);
  for (const [pattern, view, page, title] of ROUTES) {
    const match = path.match(pattern);
    if (!match) continue;
    if (shown && where === path && shown.update) return shown.update(params); // the same page at another place
    shown?.destroy?.();
    where = path;
    document.title = `${title} · Secondsight`;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    field.value = page === "search" ? params.get("q") ?? "" : "";
    scrollTo(0, 0);
    shown = view({ ids: match.slice(1).map((m) => m && decodeURIComponent(m)), params, go });
    fill(main, shown.node);
    return;
  }
  shown?.destroy?.();
  shown = null;
  fill(main, notice(new Error("There is no such page.")));
}

function go(path) {
  location.hash = `#/${path}`;
}

addEventListener("hashchange", route);

// Its address would be taken for a page's.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.querySelector(".find").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = field.value.trim();
  if (q) go(`search?${new URLSearchParams({ q })}`);
});

// A picture that is dropped or pasted anywhere is searched by.
addEventListener("dragover", (event) => { if ([...event.dataTransfer.items].some((item) => item.type.startsWith("image/"))) event.preventDefault(); });
addEventListener("drop", (event) => { if (takePicture(event.dataTransfer.files, go)) event.preventDefault(); });
addEventListener("paste", (event) => { if (takePicture(event.clipboardData?.files, go)) event.preventDefault(); });

// -- the token

function knock(token = null) {
  shown?.destroy?.();
  shown = null;
  fill(main, door(route, token));
  main.querySelector(".door input").focus();
}

addEventListener("token-wanted", () => knock());

// -- light and dark

const THEMES = { light: "dark", dark: "light" };
const theme = document.getElementById("theme");
theme.append(icon("sun"));
try {
  const kept = localStorage.getItem("theme");
  if (kept in THEMES) document.documentElement.dataset.theme = kept;
} catch { /* no storage: the system decides */ }
theme.addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = THEMES[dark];
  try {
    localStorage.setItem("theme", THEMES[dark]);
  } catch { /* as above */ }
  dispatchEvent(new Event("theme"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dispatchEvent(new Event("theme")));
addEventListener("theme", () => { // canvases and colours of kinds are drawn anew
  if (shown?.theme) shown.theme();
  else { where = ""; route(); }
});

// -- keys and help

const KEYS = [
  ["/", "search"], ["Space, k", "play or pause"], ["← →", "five seconds back, forward"], [", .", "a frame back, forward"],
  ["j l", "previous, next event"], ["↑ ↓", "louder, quieter"], ["+ − 0", "timeline closer, wider, whole"], ["m", "sound off, on"],
  ["f", "full screen"], ["c", "events as captions"], ["Esc", "close"], ["?", "this help"],
];
const help = el("dialog", { class: "help", "aria-label": "Keyboard and help" },
  el("header", {}, el("h2", {}, "Keyboard"), button("close", "Close", () => help.close())),
  el("dl", {}, KEYS.map(([keys, what]) => [el("dt", {}, keys.split(" ").map((k) => el("kbd", {}, k))), el("dd", {}, what)])),
  el("p", {}, "On the timeline: click to go there, hold Ctrl and turn the wheel to come closer, drag the strip below to move."),
  el("p", {}, el("a", { href: "docs.html" }, "The questions over HTTP"), " are what this page is made of."));
document.body.append(help);
const helper = document.getElementById("help");
helper.append(icon("help"));
helper.addEventListener("click", () => help.showModal());

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.key === "Escape" && typing) return typing.blur();
  if (typing || document.querySelector("dialog[open]")) return;
  if (event.key === "/") {
    event.preventDefault();
    field.focus();
    field.select();
  } else if (event.key === "?") help.showModal();
  else if (shown?.key?.(event)) event.preventDefault();
});

addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name !== "AbortError") say(event.reason?.message ?? "");
});

route();
