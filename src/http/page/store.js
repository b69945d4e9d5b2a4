// What every view needs to know: who is signed in, where the loop is, whether the daemon answers, and what the
// address asks for. Views subscribe to changes.

import * as api from "./api.js";
import { setClock } from "./dom.js";

const subscribers = new Set();
export const state = { session: null, status: null, statusError: null };

export function subscribe(handler) {
  subscribers.add(handler);
  return () => subscribers.delete(handler);
}

function notify() {
  subscribers.forEach((handler) => handler(state));
}

export async function loadSession() {
  try {
    state.session = await api.get("/session");
  } catch (error) {
    // Who may not even ask this has no role at all.
    state.session = { name: "", role: "none", via: "", error };
  }
  notify();
}

let underWay = null;
/** Asks for the status; calls made while one is under way share its answer. */
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
      notify();
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

// ----------------------------------------------------------------
// From the address after the # to a view and back.

/** `#/cycles/cycle_3?from=50` as `{ name, id, query }`. */
export function parse(hash) {
  const [path, search = ""] = hash.replace(/^#\/?/, "").split("?");
  const [name = "", id = null] = path.split("/").map(decode);
  return { name, id, query: new URLSearchParams(search) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    // A stray % stands for itself.
    return text;
  }
}

export function path(name, id, query) {
  const search = new URLSearchParams(query ?? {}).toString();
  return `#/${name}${id ? `/${encodeURIComponent(id)}` : ""}${search ? `?${search}` : ""}`;
}

/** Changes the address without a new history entry: for choices within a view. */
export function amend(query) {
  const { name, id, query: now } = parse(location.hash);
  for (const [key, value] of Object.entries(query)) {
    if (value === null) now.delete(key);
    else now.set(key, value);
  }
  history.replaceState(null, "", path(name, id, Object.fromEntries(now)));
}
