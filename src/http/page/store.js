// What every view needs to know: who is here, where the loop is, whether the
// daemon is heard. Whoever wants to hear of changes subscribes.

import * as api from "./api.js";
import { setClock } from "./format.js";

const heard = new Set();
export const state = { session: null, status: null, statusError: null };

export function subscribe(handler) {
  heard.add(handler);
  return () => heard.delete(handler);
}

function tell() {
  heard.forEach((handler) => handler(state));
}

export async function loadSession() {
  try {
    state.session = await api.get("/session");
  } catch (error) {
    // Whoever may not even ask who he is has no role at all.
    state.session = { name: "", role: "none", via: "", error };
  }
  tell();
}

let underWay = null;
/** Asks for the status; calls that come while one is under way share its answer. */
export function loadStatus() {
  underWay ??= api
    .get("/status")
    .then((status) => {
      state.status = status;
      state.statusError = null;
      setClock(status.now);
    })
    .catch((error) => {
      state.statusError = error;
    })
    .finally(() => {
      underWay = null;
      tell();
    });
  return underWay;
}

export const isOperator = () => state.session?.role === "operator";

export function aliased(name) {
  return state.status?.aliases.find((alias) => alias.alias === name) ?? null;
}

/** Why a command cannot be given now, in the daemon's words; `null` where it can. */
export function refusal(command) {
  return state.status ? state.status.commands[command] : "The daemon's status is not known yet.";
}

const URGENCY = { critical: "failed", warning: "warning", info: "info" };

/** How the most urgent finding of some kinds colours what it is about; `null` where there is none. */
export function found(...kinds) {
  const finding = state.status?.attention.find(({ kind }) => kinds.includes(kind));
  return finding ? URGENCY[finding.severity] : null;
}
