// The OpenAPI document, to be read and tried. No parts from elsewhere: it works without the internet.

import { add, address, ask, el, fill, notice, send } from "./lib.js";
import { door } from "./door.js";

const main = document.getElementById("main");
const spec = await ask("openapi.json").catch((error) => { fill(main, notice(error, () => location.reload())); throw error; });
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
  const form = el("form", {}, [...(operation.parameters ?? []), ...ofBody(operation)].map((p) => {
    const schema = flat(p.schema), choices = schema.enum;
    const input = choices ? el("select", {}, el("option", { value: "" }, p.required ? "" : "–"), choices.map((c) => el("option", { selected: c === schema.default }, c)))
      : p.in === "file" ? el("input", { type: "file", required: true, accept: p.accept })
      : p.name === "sql" ? el("textarea", { required: true, spellcheck: "false", rows: 3 })
      : el("input", { placeholder: schema.default ?? "", required: p.required, spellcheck: "false" });
    inputs.set(p, input);
    return el("label", {}, el("code", {}, p.name, p.required ? "" : "?"), input, el("small", {}, p.description ?? schema.description ?? kindOf(schema)));
  }));
  const out = el("pre", { hidden: true, tabindex: 0 }), url = el("code", { class: "url" });
  const where = () => {
    let at = path.slice(1); // from this page on: a prefix may stand before it
    const query = {};
    for (const [p, input] of inputs) {
      if (p.in === "path") at = at.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (p.in === "query" && input.value) query[p.name] = kindOf(flat(p.schema)) === "list" ? input.value.split(",") : input.value;
    }
    return address(at, query);
  };
  const body = () => {
    const given = [...inputs].filter(([p, input]) => p.in === "body" && input.value);
    if (given.length) return { headers: { "Content-Type": "application/json" }, body: JSON.stringify(Object.fromEntries(given.map(([p, input]) => [p.name, kindOf(flat(p.schema)) === "integer" ? Number(input.value) : input.value]))) };
    const [file] = [...inputs].filter(([p]) => p.in === "file").map(([, input]) => input.files[0]);
    return file ? { headers: { "Content-Type": file.type }, body: file } : {};
  };
  const go = async (event) => {
    event.preventDefault();
    url.textContent = `${method.toUpperCase()} ${new URL(where(), location).pathname}${new URL(where(), location).search}`;
    out.hidden = false;
    if (path.endsWith("/stream") || path.endsWith("/media") || path.endsWith("/clip")) {
      out.textContent = "This one is for a player or a program: take the address above.";
      return;
    }
    out.textContent = "…";
    let answer;
    try {
      answer = await send(where(), {}, { method: method.toUpperCase(), ...body() });
    } catch (error) {
      out.textContent = error.message;
      return;
    }
    if (answer.status === 401 && path !== "/api/session") {
      out.replaceChildren(door(() => form.requestSubmit()));
      out.querySelector("input").focus();
      return;
    }
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

// What is sent as the request's body: the fields of a JSON object, or a file.
function ofBody(operation) {
  const content = operation.requestBody?.content ?? {};
  const json = content["application/json"]?.schema;
  if (!json) return Object.keys(content).length ? [{ name: "file", in: "file", required: true, accept: Object.keys(content).join(), schema: {} }] : [];
  const { properties, required } = spec.components.schemas[json.$ref.split("/").at(-1)];
  return Object.entries(properties).map(([name, schema]) => ({ name, in: "body", required: required?.includes(name), schema }));
}

function flat(schema = {}) {
  return { ...schema, ...(schema.anyOf?.find((s) => s.type !== "null") ?? {}) };
}

function kindOf(schema) {
  return schema.type === "array" ? "list" : schema.type ?? "";
}
