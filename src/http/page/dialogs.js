// Asking and telling: confirmation with a reason, signing in, messages.

import * as api from "./api.js";
import { announce, h, mint } from "./dom.js";
import { loadSession, loadStatus, state } from "./store.js";
import { restart } from "./live.js";

const LONGEST_WHY = 500;

/** Opens a dialog; the promise is kept when it closes. `close(value)` closes it from within. */
function modal(build) {
  return new Promise((resolve) => {
    const title = mint("title");
    let answer = null;
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    const dialog = h("dialog", { "aria-labelledby": title });
    dialog.append(build(close, title));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && close(null));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function actions(close, confirm, tone) {
  const go = h("button", { type: "submit", class: tone || "primary" }, confirm);
  const cancel = h("button", { type: "button", class: "plain", on: { click: () => close(null) } }, "Cancel");
  return { go, row: h("div", { class: "row actions" }, cancel, go) };
}

/**
 * Says what will happen, asks why, performs; the dialog stays open, with the
 * reason, when that fails. Answers what `perform` answered, or `null`.
 */
export function ask({ title, happens, fields = [], confirm, tone, perform }) {
  return modal((close, titleId) => {
    const why = h("textarea", { id: mint("why"), name: "why", rows: "2", required: true, maxlength: LONGEST_WHY });
    const trouble = h("p", { class: "trouble", role: "alert" });
    const { go, row } = actions(close, confirm, tone);
    const submit = async (event) => {
      event.preventDefault();
      go.disabled = true;
      go.textContent = `${confirm} …`;
      trouble.textContent = "";
      try {
        close(await perform({ why: why.value.trim() }));
      } catch (error) {
        const id = error.requestId ? ` (request ${error.requestId})` : "";
        trouble.textContent = `${error.title ?? "Failed"}: ${error.message}${id}`;
        go.disabled = false;
        go.textContent = confirm;
      }
    };
    return h(
      "form",
      { on: { submit } },
      h("h2", { id: titleId }, title),
      h(
        "ul",
        { class: "happens" },
        happens.map((text) => h("li", {}, text)),
      ),
      fields,
      h("label", { for: why.id }, "Why? It goes into the audit."),
      why,
      trouble,
      row,
    );
  });
}

let signingIn = false;
/** Takes a token, or forgets the one at hand. */
export async function signIn(reason) {
  if (signingIn) return;
  signingIn = true;
  const done = await modal((close, titleId) => {
    const field = h("input", {
      id: mint("token"),
      type: "password",
      required: true,
      autocomplete: "off",
      spellcheck: "false",
    });
    const trouble = h("p", { class: "trouble", role: "alert" }, reason ?? "");
    const { go, row } = actions(close, "Sign in");
    const submit = async (event) => {
      event.preventDefault();
      go.disabled = true;
      const before = api.token();
      api.keepToken(field.value.trim());
      try {
        const session = await api.get("/session");
        close(session);
      } catch (error) {
        api.keepToken(before);
        trouble.textContent = error.status === 401 ? "The daemon does not know this token." : error.message;
        go.disabled = false;
        field.select();
      }
    };
    return h(
      "form",
      { on: { submit } },
      h("h2", { id: titleId }, "Sign in"),
      h(
        "p",
        {},
        "The token is kept in this tab only and is forgotten when you close it. Whoever runs the daemon hands tokens out.",
      ),
      h("label", { for: field.id }, "Token"),
      field,
      trouble,
      row,
    );
  });
  signingIn = false;
  if (done) await changed(`Signed in as ${done.name} (${done.role}).`);
}

export async function signOut() {
  api.keepToken(null);
  await changed("Signed out.");
}

async function changed(message) {
  await loadSession();
  restart();
  await loadStatus();
  toast("ok", message);
  dispatchEvent(new Event("delayd:session"));
}

/** The API wants another token: says so once, not over an open question. */
export function denied(error) {
  if (error.status === 401 && !document.querySelector("dialog[open]")) {
    signIn(state.session?.role ? "The daemon wants a token for this." : null);
  }
}

const TOAST_MS = 8_000;
export function toast(colour, text) {
  const close = h(
    "button",
    { type: "button", class: "quiet", "aria-label": "Close this message", on: { click: () => box.remove() } },
    "✕",
  );
  const box = h(
    "div",
    { class: `toast ${colour}` },
    h("span", { class: "sign", "aria-hidden": "true" }, colour === "ok" ? "✓" : "✕"),
    h("span", {}, text),
    close,
  );
  document.getElementById("toasts").append(box);
  announce(text);
  setTimeout(() => box.remove(), TOAST_MS);
}
