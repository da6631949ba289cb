// What every view uses: elements, times, colours, and asking the server.
// Texts of the log come from models and file names: they only ever become text nodes.

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [k, v] of Object.entries(value)) node.style.setProperty(k, v);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

export function add(node, children) {
  for (const child of [children].flat(4)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export function fill(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

const SHAPES = {
  play: "M8 5.500v13l10.500-6.500z", pause: "M8 5.500v13M16 5.500v13", left: "M15 5l-7 7 7 7", right: "M9 5l7 7-7 7",
  sound: "M4 9.500v5h3.500L12 18.500v-13L7.500 9.500zM15.500 9a4.200 4.200 0 010 6M18 6.500a7.800 7.800 0 010 11",
  mute: "M4 9.500v5h3.500L12 18.500v-13L7.500 9.500zM16 10l4.500 4.500M20.500 10L16 14.500",
  full: "M4.500 9V4.500H9M15 4.500h4.500V9M19.500 15v4.500H15M9 19.500H4.500V15",
  close: "M6 6l12 12M18 6L6 18", plus: "M12 5.500v13M5.500 12h13", minus: "M5.500 12h13",
  fit: "M3.500 12h17M7 8l-3.500 4L7 16M17 8l3.500 4-3.500 4",
  sun: "M12 8.200a3.800 3.800 0 100 7.600 3.800 3.800 0 000-7.600M12 2.500v2.300M12 19.200v2.300M2.500 12h2.300M19.200 12h2.300M5.300 5.300l1.600 1.600M17.100 17.100l1.600 1.600M5.300 18.700l1.600-1.600M17.100 6.900l1.600-1.600",
  help: "M9.300 9.400a2.800 2.800 0 115.400.9c0 1.900-2.700 2.200-2.700 4M12 17.300v.2",
  captions: "M4 5.500h16v13H4zM10.500 10.500a2 2 0 10 0 3M17 10.500a2 2 0 10 0 3",
  down: "M12 4.500v10.500M7.500 11l4.500 4.500 4.500-4.500M5 19.500h14", cut: "M6.500 5.500a2 2 0 100 4 2 2 0 000-4M6.500 14.500a2 2 0 100 4 2 2 0 000-4M8.300 8.700L19.500 17M8.300 15.300L19.500 7",
  picture: "M4 5.5h16v13H4zM4.500 16.500l4.500-4.500 3.500 3.500 3-3 4.500 4.500M15.500 8.800a1 1 0 100 2 1 1 0 000-2",
  alike: "M4.500 8.500h11v11h-11zM8.500 8.500v-4h11v11h-4",
  grid: "M4.500 4.500h6v6h-6zM13.500 4.500h6v6h-6zM4.500 13.500h6v6h-6zM13.500 13.500h6v6h-6z", link: "M10 14l4-4M8.500 11.500l-2 2a3 3 0 004.200 4.200l2-2M15.500 12.500l2-2a3 3 0 00-4.200-4.200l-2 2",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}

export function button(name, label, onclick, extra = {}) {
  return el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick, ...extra }, icon(name));
}

// -- times

export function clock(us, decimals = 0) {
  const sign = us < 0 ? "-" : "";
  let ms = Math.floor(Math.abs(us) / 1000);
  const part = decimals ? "." + String(ms % 1000).padStart(3, "0").slice(0, decimals) : "";
  const s = Math.floor(ms / 1000);
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
  return sign + (h ? `${h}:${two(m)}` : `${m}`) + `:${two(s % 60)}` + part;
}

export function long(us) {
  const s = Math.round(us / 1e6);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 ? `${s % 60} s` : ""}`.trim();
  const h = us / 3.6e9;
  return h < 100 ? `${Math.floor(h)} h ${Math.round((h % 1) * 60)} min` : `${Math.round(h).toLocaleString("en")} h`;
}

export const number = (n) => (n ?? 0).toLocaleString("en");
export const seconds = (us) => String(us / 1e6);
export const plural = (n, one, many = one + "s") => `${number(n)} ${n === 1 ? one : many}`;
export const base = (name) => name.replace(/\/+$/, "").split("/").pop() || name;
export const folder = (name) => name.split("/").slice(0, -1).join("/");

export function date(us) {
  if (!us) return "";
  return new Date(us / 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

export function bytes(n) {
  if (!n) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const k = Math.min(4, Math.floor(Math.log10(n) / 3));
  return `${(n / 1000 ** k).toFixed(k && n / 1000 ** k < 10 ? 1 : 0)} ${units[k]}`;
}

// -- kinds have colours: hues far apart for the frequent ones, alike in lightness so that none shouts

// The archive's facts, as they were when they were first asked for; null where they cannot be had.
let asked = null;
export function facts() {
  asked ??= ask("api/overview").then((all) => { learnKinds(all.kinds.map((k) => k.kind)); return all; }, () => { asked = null; return null; });
  return asked;
}

// Everything that shows kinds waits a moment for the whole archive's, so that a kind has one colour on every page.
export function kindsKnown() {
  return Promise.race([facts(), new Promise((done) => setTimeout(done, 2500))]);
}

const HUES = [255, 152, 55, 320, 200, 90, 25, 285, 175, 120, 350, 225];
const places = new Map();

export function learnKinds(kinds) {
  for (const kind of kinds) if (!places.has(kind)) places.set(kind, places.size);
}

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

export function colour(kind, alpha = 1) {
  learnKinds([kind]);
  const place = places.get(kind), ring = Math.floor(place / HUES.length);
  const l = (isDark() ? 0.72 : 0.62) - 0.08 * (ring % 3);
  return `oklch(${l} 0.125 ${HUES[place % HUES.length]} / ${alpha})`;
}

export const said = (kind) => kind.replaceAll("_", " ");

export const dot = (kind) => el("i", { class: "dot", style: { "--c": colour(kind) } });

// -- asking

export class Trouble extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function address(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const each of [value].flat()) if (each !== undefined && each !== null && each !== "") query.append(name, each);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

// The answer as it is, whatever its status.
export async function send(path, params = {}, how = {}) {
  try {
    return await fetch(address(path, params), how);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(0, "offline", "The server does not answer. Is it still running?");
  }
}

export async function ask(path, params = {}, signal = undefined, how = {}) {
  const answer = await send(path, params, { ...how, signal, headers: { Accept: "application/json", ...how.headers } });
  let body = null;
  try {
    body = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!answer.ok || body === null) {
    const said = body?.error ?? {};
    if (answer.status === 401) dispatchEvent(new CustomEvent("token-wanted"));
    throw new Trouble(answer.status, said.code ?? "", said.message ?? `The server said ${answer.status}.`);
  }
  return body;
}

export const video = (id, rest = "") => `api/videos/${encodeURIComponent(id)}${rest}`;
// An address that the server names, as one below this page: a prefix may stand before both.
export const below = (path) => path && path.replace(/^\//, "");
// When an event is best seen: what appears is not there at its start, and of a long event its beginning says most.
export const telling = ({ start_us, end_us }) => start_us + Math.min(2_000_000, Math.max(0, end_us - start_us) / 2);

export const still = (id, us, height) => address(video(id, "/still"), { t: (Math.max(0, us) / 1e6).toFixed(6), height });

// -- saying what is wrong, quietly and in place

export function notice(error, again = null) {
  return el("div", { class: "notice", role: "alert" }, el("p", {}, error.message || String(error)),
    again && el("button", { type: "button", onclick: again }, "Try again"));
}

export const empty = (title, ...more) => el("div", { class: "empty" }, el("h2", {}, title), ...more.map((m) => el("p", {}, m)));

export function say(text) {
  document.getElementById("said").textContent = text;
}

export function picture(src, alt = "") {
  const image = el("img", { alt, loading: "lazy", decoding: "async" });
  const frame = el("span", { class: "thumb" }, image);
  image.addEventListener("load", () => frame.classList.add("there"));
  image.addEventListener("error", () => frame.classList.add("none"));
  image.src = src;
  return frame;
}

export function later(ms, call) {
  let timer = 0;
  const run = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...args), ms);
  };
  run.stop = () => clearTimeout(timer);
  return run;
}

// A canvas as sharp as the screen; draw(context, width, height) in CSS pixels.
export function sharp(canvas, draw) {
  const ratio = devicePixelRatio || 1, { clientWidth: w, clientHeight: h } = canvas;
  if (!w || !h) return;
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio);
    canvas.height = Math.round(h * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, w, h);
  draw(context, w, h);
}

export const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
