// What an operator may ask for, and the dialogs and messages in which it is asked and answered. Every command
// says beforehand what it will do, asks why, and reports the result.

import * as api from "./api.js";
import { announce, counted, h, mint } from "./dom.js";
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
      "A new cycle starts at once, regardless of cooldown and budget: it ingests new flights, trains a challenger " +
        "and compares it with the live model.",
      live()
        ? `${live()} keeps serving. It is replaced only by a challenger that passes the gate and verification.`
        : "No model is live yet; the first one that passes the gate and verification goes live.",
    ],
  },
  cancel: {
    label: "Cancel",
    title: "Cancel this cycle?",
    happens: () => [
      `${running()?.id} stops: training at once, any other step when it ends. Everything it did is undone.`,
      live() ? `${live()} keeps serving, or serves again.` : "No model will be live.",
    ],
    tone: "danger",
  },
  approve: {
    label: "Approve",
    title: "Approve this model?",
    happens: () => [
      `${waiting()?.model} becomes live: it has passed verification and already serves.`,
      live()
        ? `${live()} becomes the previous model, which a rollback restores.`
        : "There is no model to roll back to yet.",
    ],
    tone: "primary",
  },
  reject: {
    label: "Reject",
    title: "Reject this model?",
    happens: () => [
      `${waiting()?.id} ends: its deployment is undone and ${waiting()?.model} is withdrawn.`,
      live() ? `${live()} serves again on every replica.` : "No model will be live.",
    ],
    tone: "danger",
  },
  rollback: {
    label: "Roll back",
    title: "Roll back to the previous model?",
    happens: () => [
      `${previous()} is deployed again, replica by replica, and becomes live. No request is lost.`,
      `${live()} no longer serves and cannot be made live again; a new cycle trains a new model.`,
    ],
    tone: "danger",
  },
  pause: {
    label: "Pause",
    title: "Pause automatic cycles?",
    happens: () => [
      "No cycle starts automatically until someone resumes: not for drift, not for performance, not on schedule.",
      "The live model keeps serving and is still monitored; an open cycle continues; Retrain still works.",
    ],
  },
  resume: {
    label: "Resume",
    title: "Resume automatic cycles?",
    happens: () => [
      "Cycles start automatically again when drift, performance or the schedule call for one. That may be at once.",
      "This also ends the wait after failed cycles, and closes an open breaker.",
    ],
  },
};

/** Why this person may not give commands, or `null`. */
export function forbidden() {
  if (!state.session) return "Checking who you are …";
  if (isOperator()) return null;
  const who = state.session.role === "viewer" ? "You can only view (role viewer)" : "You are not signed in";
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

/** The buttons of some commands, with the reason below where this person may give none. */
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

/** Asks for a silence; `prefix` is how the keys of its alerts start. */
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
      "Alerts whose keys start with this are not sent until the silence ends. They are still recorded, and shown here.",
    ],
    fields: [
      h("label", { for: field.id }, "Keys that start with"),
      field,
      h("p", { class: "note" }, "For example drift/ for all drift, or latency/model_v3 for the latency of one model."),
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
  if (answer) toast("ok", `${answer.id} started: ${answer.prefix}…`);
  return answer;
}

export async function endSilence(id) {
  const answer = await ask({
    title: `End ${id}?`,
    happens: ["Alerts with these keys are sent again from now on."],
    confirm: "End the silence",
    perform: ({ why }) => api.remove(`/silences/${api.part(id)}`, { by: state.session?.name ?? "", why }),
  });
  if (answer) toast("ok", `${id} has ended.`);
  return answer;
}

export async function retryAlert(id) {
  const answer = await ask({
    title: id === "all" ? "Retry every delivery that was given up?" : `Retry ${id}?`,
    happens: ["Deliveries that were given up are due at once, with all their attempts."],
    confirm: "Retry",
    perform: ({ why }) => api.post(`/alerts/${api.part(id)}/retry`, { by: state.session?.name ?? "", why }),
  });
  if (answer) toast("ok", `${counted(answer.deliveries, "delivery", "deliveries")} will be retried.`);
  return answer;
}

// ----------------------------------------------------------------
// Dialogs and messages: confirmation with a reason, signing in, toasts.

const LONGEST_WHY = 500;

/** Opens a dialog; the promise resolves when it closes. `close(value)` closes it from within. */
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
 * Says what will happen, asks why, performs; when that fails the dialog stays open and says so. Returns what `perform`
 * returned, or `null`.
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
      h("label", { for: why.id }, "Reason (recorded in the audit)"),
      why,
      trouble,
      row,
    );
  });
}

let signingIn = false;
/** Asks for a token and keeps it if the daemon accepts it. */
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
        "The token is kept in this tab only and forgotten when you close it. Ask whoever runs the daemon for one.",
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

/** The API refuses the token: asks for another one, but not over an open dialog. */
export function denied(error) {
  if (error.status === 401 && !document.querySelector("dialog[open]")) {
    signIn(state.session?.role ? "This needs a token." : null);
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
