// The token: asked for where the server wants one, and traded for a cookie.

import { el, send } from "./lib.js";

// A form that takes it; entered() once its owner is let in. `known`: a token to try before the form is shown.
export function door(entered, known = null) {
  const input = el("input", { type: "password", name: "token", autocomplete: "current-password", "aria-label": "Token", required: true });
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const form = el("form", { class: "door", hidden: known !== null, onsubmit: (event) => { event.preventDefault(); enter(input.value.trim()); } },
    el("h1", {}, "Who is there?"), el("p", {}, "This server wants a token. It was printed where the server was started."),
    input, el("button", { class: "main" }, "Enter"), wrong);
  async function enter(token) {
    try {
      const answer = await send("api/session", {}, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
      if (answer.ok) return entered();
      wrong.textContent = answer.status === 401 ? "This is not the token of this server." : `The server said ${answer.status}.`;
    } catch (error) {
      wrong.textContent = error.message;
    }
    wrong.hidden = form.hidden = false;
    input.focus();
  }
  if (known !== null) enter(known);
  return form;
}
