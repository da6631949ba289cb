// The OpenAPI document, to be read and tried. No parts from elsewhere: it works without the internet.

import { add, address, el, fill } from "./lib.js";

const main = document.getElementById("main");
const spec = await (await fetch("/openapi.json")).json();
const byTag = new Map();
for (const [path, item] of Object.entries(spec.paths)) {
  for (const [method, operation] of Object.entries(item)) {
    if (method === "head") continue;
    const tag = operation.tags?.[0] ?? "other";
    byTag.set(tag, [...(byTag.get(tag) ?? []), { path, method, operation }]);
  }
}
fill(main, el("header", { class: "title" }, el("div", {}, el("h1", {}, "The questions over HTTP"), el("p", { class: "muted" }, spec.info.description))),
  [...byTag].map(([tag, operations]) => el("section", {}, el("h2", {}, tag), operations.map(one))));

function one({ path, method, operation }) {
  const inputs = new Map();
  const form = el("form", {}, (operation.parameters ?? []).map((p) => {
    const schema = flat(p.schema), choices = schema.enum;
    const input = choices ? el("select", {}, el("option", { value: "" }, p.required ? "" : "–"), choices.map((c) => el("option", { selected: c === schema.default }, c)))
      : el("input", { placeholder: schema.default ?? "", required: p.required, spellcheck: "false" });
    inputs.set(p, input);
    return el("label", {}, el("code", {}, p.name, p.required ? "" : "?"), input, el("small", {}, p.description ?? schema.description ?? kindOf(schema)));
  }));
  const out = el("pre", { hidden: true, tabindex: 0 }), url = el("code", { class: "url" });
  const where = () => {
    let at = path;
    const query = {};
    for (const [p, input] of inputs) {
      if (p.in === "path") at = at.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (input.value) query[p.name] = kindOf(flat(p.schema)) === "list" ? input.value.split(",") : input.value;
    }
    return address(at, query);
  };
  const go = async (event) => {
    event.preventDefault();
    url.textContent = `${method.toUpperCase()} ${where()}`;
    out.hidden = false;
    if (path.endsWith("/stream") || path.endsWith("/media") || path.endsWith("/clip")) {
      out.textContent = "This one is for a player or a program: take the address above.";
      return;
    }
    out.textContent = "…";
    const answer = await fetch(where(), { method: method.toUpperCase() });
    const type = answer.headers.get("content-type") ?? "";
    if (type.startsWith("image/")) {
      const image = el("img", { alt: "" });
      image.src = URL.createObjectURL(await answer.blob());
      out.replaceChildren(image);
    } else {
      const text = await answer.text();
      out.textContent = `${answer.status}\n${type.includes("json") ? JSON.stringify(JSON.parse(text), null, 1) : text}`.slice(0, 20000);
    }
  };
  form.addEventListener("submit", go);
  add(form, [el("button", { class: "main" }, "Ask"), url]);
  return el("details", { class: "card operation" }, el("summary", {}, el("span", { class: "badge" }, method.toUpperCase()), el("code", {}, path), el("span", { class: "muted" }, operation.description?.split("\n")[0] ?? "")),
    form, out, el("p", { class: "muted" }, "answers: ", Object.entries(operation.responses).map(([status, r]) => `${status} ${status === "200" ? "" : r.description}`.trim()).join(", ")));
}

function flat(schema = {}) {
  return { ...schema, ...(schema.anyOf?.find((s) => s.type !== "null") ?? {}) };
}

function kindOf(schema) {
  return schema.type === "array" ? "list" : schema.type ?? "";
}
