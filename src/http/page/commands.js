// What an operator may ask for. Every command says beforehand what will happen,
// asks why, and tells what came of it.

import * as api from "./api.js";
import { announce, h, mint } from "./dom.js";
import { aliased, isOperator, loadStatus, refusal, state } from "./store.js";
import { ask, signIn, toast } from "./dialogs.js";

const live = () => aliased("live")?.model ?? null;
const previous = () => aliased("previous")?.model ?? null;
const waiting = () => (state.status?.cycle?.state === "waiting_approval" ? state.status.cycle : null);
const running = () => (state.status?.cycle && state.status.cycle.state !== "finished" ? state.status.cycle : null);

/** `happens()` says what the command will do. */
export const COMMANDS = {
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
