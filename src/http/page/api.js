// The daemon over HTTP: requests, and the stream of its ledger's changes.

// ----------------------------------------------------------------
// The daemon's HTTP API. The token is kept in this tab's session storage only; it is sent in a header, never in a URL.

const BASE = "/api/v1";
const TOKEN = "delayd.token";
/** A read that takes longer is given up; commands may take minutes. */
const READ_MS = 20_000;

/** What went wrong, in the API's own words where there are any. */
class ApiError extends Error {
  constructor(status, title, detail, requestId, retryAfterSecs) {
    super(detail || title);
    Object.assign(this, { name: "ApiError", status, title, detail, requestId, retryAfterSecs });
  }

  get isAboutAccess() {
    return this.status === 401 || this.status === 403;
  }
}

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function keepToken(text) {
  if (text) sessionStorage.setItem(TOKEN, text);
  else sessionStorage.removeItem(TOKEN);
}

function headers(more = {}) {
  const kept = token();
  return kept ? { ...more, Authorization: `Bearer ${kept}` } : more;
}

const deniedHandlers = new Set();
/** Calls `handler(error)` whenever the API refuses the token. */
export function onDenied(handler) {
  deniedHandlers.add(handler);
}

async function failure(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // No problem document: a proxy answered. The status has to do.
  }
  return new ApiError(
    response.status,
    problem.title ?? response.statusText,
    problem.detail ?? `The daemon answered ${response.status} ${response.statusText}.`,
    problem.request_id ?? response.headers.get("x-request-id"),
    Number(response.headers.get("retry-after")) || null,
  );
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(`${BASE}${path}`, { ...options, credentials: "omit", headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error.name === "TimeoutError") {
      throw new ApiError(0, "No answer", `The daemon did not answer within ${READ_MS / 1000} seconds.`);
    }
    throw new ApiError(0, "Unreachable", "The daemon cannot be reached. Is it running, and is the network up?");
  }
  if (!response.ok) {
    const error = await failure(response);
    if (error.isAboutAccess) deniedHandlers.forEach((handler) => handler(error));
    throw error;
  }
  return response;
}

function read(path, signal) {
  const late = AbortSignal.timeout(READ_MS);
  return ask(path, { cache: "no-cache", signal: signal ? AbortSignal.any([signal, late]) : late });
}

/** A JSON document. The browser asks with `If-None-Match` and takes a 304 from its cache. */
export async function get(path, signal) {
  return (await read(path, signal)).json();
}

/** As [get], but `null` where there is no such thing. */
export async function find(path, signal) {
  try {
    return await get(path, signal);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

export async function text(path, signal) {
  return (await read(path, signal)).text();
}

/** One page of a listing: `{ items, next_offset }`. */
export function list(what, { limit = 50, offset = 0 } = {}, signal) {
  return get(`/${what}?limit=${limit}&offset=${offset}`, signal);
}

function body(method, document) {
  return { method, body: JSON.stringify(document), headers: { "Content-Type": "application/json" } };
}

export async function post(path, document) {
  return (await ask(path, body("POST", document))).json();
}

export async function remove(path, document) {
  return (await ask(path, body("DELETE", document))).json();
}

/** A path's part, whatever characters an id has. */
export const part = encodeURIComponent;

// ----------------------------------------------------------------
// The ledger's changes as they happen. EventSource cannot send an Authorization header, so the stream is read by hand:
// the same protocol, the same Last-Event-ID. While the stream is lost, listeners are called at intervals instead.

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** The daemon sends a comment more often than this; silence means that it is gone. */
const SILENCE_MS = 45_000;
const POLL_MS = 5_000;

const listeners = new Set();
const watchers = new Set();
let lastId = null;
let connection = null;
let current = { name: "connecting", since: null };

/** Calls `handler(event)` for every change: `{ kind, subject, state }`; `kind` is `poll` while not live. */
export function onChange(handler) {
  listeners.add(handler);
}

/** Calls `handler({ name, since })` with `connecting`, `live` or `lost`. */
export function onState(handler) {
  watchers.add(handler);
  handler(current);
}

function become(name) {
  if (current.name === name) return;
  current = { name, since: new Date() };
  watchers.forEach((watcher) => watcher(current));
}

const emit = (event) => listeners.forEach((listener) => listener(event));

/** Cuts text into events; returns what is left over. */
function readEvents(buffer, emitted) {
  const blocks = buffer.split(/\r?\n\r?\n/);
  const rest = blocks.pop();
  for (const block of blocks) {
    const event = { id: null, kind: "message", data: [] };
    for (const line of block.split(/\r?\n/)) {
      const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line) ?? [];
      if (field === "id") event.id = value;
      else if (field === "event") event.kind = value;
      else if (field === "data") event.data.push(value ?? "");
    }
    if (event.id) lastId = event.id;
    if (event.data.length > 0) emitted({ kind: event.kind, ...parsed(event.data.join("\n")) });
  }
  return rest;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    // Unknown data: that something changed is enough.
    return {};
  }
}

async function follow(abort) {
  const asked = headers({ Accept: "text/event-stream", ...(lastId === null ? {} : { "Last-Event-ID": lastId }) });
  const response = await fetch("/api/v1/events", {
    headers: asked,
    cache: "no-store",
    credentials: "omit",
    signal: abort.signal,
  });
  // Without a valid token there is nothing to follow; signing in starts again.
  if (response.status === 401 || response.status === 403) pause = LONGEST_PAUSE_MS;
  if (!response.ok || !response.body) throw new Error(`the stream answered ${response.status}`);
  become("live");
  // Whatever happened in between is in the ledger by now.
  emit({ kind: "poll" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const silence = setTimeout(() => abort.abort(), SILENCE_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return;
    buffer = readEvents(buffer + value, emit);
  }
}

let pause = FIRST_PAUSE_MS;
let wake = () => {};
const wait = (ms) =>
  new Promise((resolve) => {
    wake = resolve;
    setTimeout(resolve, ms);
  });

/**
 * A hidden page closes its stream: browsers allow six connections to one host, over all tabs and those kept for the
 * back button together.
 */
let resting = false;

function rest() {
  resting = true;
  connection?.abort();
}

function resume() {
  if (!resting) return;
  resting = false;
  followAgain();
}

function watchTheWatchers() {
  addEventListener("pagehide", rest);
  addEventListener("pageshow", resume);
  addEventListener("online", followAgain);
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : resume()));
}

/** Follows the stream for as long as the page is visible. */
export async function followChanges() {
  setInterval(() => current.name === "live" || resting || emit({ kind: "poll" }), POLL_MS);
  watchTheWatchers();
  for (;;) {
    if (resting) {
      become("connecting");
      await new Promise((resolve) => (wake = resolve));
      continue;
    }
    const began = Date.now();
    connection = new AbortController();
    try {
      await follow(connection);
    } catch {
      // Lost; what follows says so and tries again.
    }
    if (resting) continue;
    if (Date.now() - began > SILENCE_MS) pause = FIRST_PAUSE_MS;
    become("lost");
    await wait(pause * (0.75 + Math.random() / 2));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
}

/** Starts the stream again at once, with the current token. */
export function followAgain() {
  pause = FIRST_PAUSE_MS;
  connection?.abort();
  wake();
}
