// What an operator may ask for, and the dialogs and messages in which it is asked and answered. Every command
// says beforehand what it will do, asks why, and reports the result.

import * as api from "./api.js";
import { announce, h, mint } from "./dom.js";
import { aliased, isOperator, loadSession, loadStatus, refusal, state } from "./store.js";

const live = () => aliased("live")?.model ?? null;
const previous = () => aliased("previous")?.model ?? null;
const waiting = () => (state.status?.cycle?.state === "waiting_approval" ? state.status.cycle : null);
const running = () => (state.status?.cycle && state.status.cycle.state !== "finished" ? state.status.cycle : null);

/** `happens()` says what the command will do. */
const COMMANDS = {
  retrain: {
    label: "Retrain",
    title: "Start a retrain?",
    happens: () => [
      "A new cycle begins at once, whatever the cooldown and the budget say: it takes in new flights, trains a challenger and compares it with the live model.",
      live()
        ? `${live()} keeps serving meanwhile. It is replaced only by a challenger that passes the gate and its verification.`
        : "No model is live yet; the first one that passes the gate and its verification will be.",
    ],
  },
  cancel: {
    label: "Cancel",
    title: "Cancel this cycle?",
    happens: () => [
      `${running()?.id} stops: training at once, any other step at its end. What it did is undone.`,
      live() ? `${live()} keeps serving, or serves again.` : "Nothing will be live.",
    ],
    tone: "danger",
  },
  approve: {
    label: "Approve",
    title: "Approve this model?",
    happens: () => [
      `${waiting()?.model} becomes live: it has passed its verification, and serves already.`,
      live()
        ? `${live()} becomes the previous model, to which a rollback returns.`
        : "There is no model to return to yet.",
    ],
    tone: "primary",
  },
  reject: {
    label: "Reject",
    title: "Reject this model?",
    happens: () => [
      `${waiting()?.id} ends: its deployment is taken back and ${waiting()?.model} is withdrawn.`,
      live() ? `${live()} serves again on every replica.` : "Nothing will be live.",
    ],
    tone: "danger",
  },
  rollback: {
    label: "Roll back",
    title: "Roll back to the previous model?",
    happens: () => [
      `${previous()} is deployed again, replica by replica, and becomes live. No request is lost.`,
      `${live()} no longer serves. To have it again, a new cycle must earn it.`,
    ],
    tone: "danger",
  },
  pause: {
    label: "Pause",
    title: "Pause automatic cycles?",
    happens: () => [
      "No cycle begins by itself until somebody resumes: not for drift, not for lost performance, not on schedule.",
      "The live model keeps serving and being watched; a cycle under way goes on; Retrain still works.",
    ],
  },
  resume: {
    label: "Resume",
    title: "Resume automatic cycles?",
    happens: () => [
      "Cycles begin by themselves again when drift, performance or schedule ask for one. That may be at once.",
    ],
  },
};

/** Why the person here may not command, or `null`. */
export function forbidden() {
  if (!state.session) return "Finding out who you are …";
  if (isOperator()) return null;
  const who = state.session.role === "viewer" ? "You may look (role viewer)" : "You are not signed in";
  return `${who}; commands need the role operator.`;
}

/** A button that says why it cannot be pressed instead of vanishing. */
export function button(label, { tone = "", reason = null, press, name, describe = true }) {
  const why = reason && describe ? mint("why") : null;
  const element = h(
    "button",
    {
      type: "button",
      class: tone,
      "aria-disabled": reason ? "true" : null,
      "aria-describedby": why,
      title: reason,
      data: name ? { command: name } : {},
      on: { click: () => (reason ? announce(reason) : press()) },
    },
    label,
  );
  return why ? h("span", { class: "held" }, element, h("span", { class: "unseen", id: why }, reason)) : element;
}

/** The buttons of some commands, with the reason below where none may be pressed. */
export function buttons(...names) {
  const refused = forbidden();
  const made = names.map((name) => {
    const command = COMMANDS[name];
    const reason = refused ?? refusal(name);
    return button(command.label, { tone: command.tone, reason, name, press: () => give(name) });
  });
  const under = refused && state.session ? h("p", { class: "note refused" }, `${refused} `, signInLink()) : null;
  return h("div", { class: "commands" }, h("div", { class: "row" }, made), under);
}

export function signInLink() {
  return h("button", { type: "button", class: "link", on: { click: () => signIn() } }, "Sign in with a token");
}

async function give(name) {
  const command = COMMANDS[name];
  const answer = await ask({
    title: command.title,
    happens: command.happens(),
    confirm: command.label,
    tone: command.tone,
    perform: ({ why }) => api.post(`/${name}`, { by: state.session?.name ?? "", why }),
  });
  if (!answer) return;
  toast("ok", answer.message ?? `${command.label}: done.`);
  await loadStatus();
}

/** Asks for a silence; `prefix` says how the keys of the alerts in question begin. */
export async function silence(prefix = "") {
  const field = h("input", {
    id: mint("prefix"),
    name: "prefix",
    required: true,
    value: prefix,
    autocomplete: "off",
    spellcheck: "false",
  });
  const hours = h(
    "select",
    { id: mint("hours"), name: "hours" },
    [
      ["1", "1 hour"],
      ["4", "4 hours"],
      ["12", "12 hours"],
      ["24", "1 day"],
      ["72", "3 days"],
      ["168", "7 days"],
    ].map(([value, text]) => h("option", { value, selected: value === "4" }, text)),
  );
  const answer = await ask({
    title: "Silence alerts?",
    happens: [
      "Nobody is told of alerts whose key begins so until the silence ends. They are still recorded, and shown here.",
    ],
    fields: [
      h("label", { for: field.id }, "Keys that begin with"),
      field,
      h("p", { class: "note" }, "Such as drift/ for all drift, or latency/model_v3 for one model's latency."),
      h("label", { for: hours.id }, "For"),
      hours,
    ],
    confirm: "Silence",
    perform: ({ why }) =>
      api.post("/silences", {
        prefix: field.value.trim(),
        for_secs: Number(hours.value) * 3600,
        by: state.session?.name ?? "",
        why,
      }),
  });
  if (answer) toast("ok", `${answer.id} begins: ${answer.prefix}…`);
  return answer;
}

export async function endSilence(id) {
  const answer = await ask({
    title: `End ${id}?`,
    happens: ["Alerts of these keys are told again from now on."],
    confirm: "End the silence",
    perform: ({ why }) => api.remove(`/silences/${api.part(id)}`, { by: state.session?.name ?? "", why }),
  });
  if (answer) toast("ok", `${id} has ended.`);
  return answer;
}

export async function retryAlert(id) {
  const answer = await ask({
    title: id === "all" ? "Try every given-up delivery again?" : `Try ${id} again?`,
    happens: ["What could not be delivered is due at once, with all its attempts."],
    confirm: "Try again",
    perform: ({ why }) => api.post(`/alerts/${api.part(id)}/retry`, { by: state.session?.name ?? "", why }),
  });
  if (answer) toast("ok", `${answer.deliveries} deliveries are tried again.`);
  return answer;
}

// ----------------------------------------------------------------
// Dialogs and messages: confirmation with a reason, signing in, toasts.

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
function ask({ title, happens, fields = [], confirm, tone, perform }) {
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
  api.followAgain();
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
function toast(colour, text) {
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
