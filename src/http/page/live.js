// The ledger's changes as they happen. EventSource cannot send an Authorization
// header, so the stream is read by hand: the same protocol, the same
// Last-Event-ID. While it is lost, whoever listens is woken at intervals instead.

import { headers } from "./api.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
/** The daemon sends a comment more often than this; silence means it is gone. */
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

/** Cuts text into events; answers what is left over. */
export function readEvents(buffer, emitted) {
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
    // Not ours to understand; that something happened is news enough.
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
  // Without a token that counts there is nothing to wait for; signing in begins anew.
  if (response.status === 401 || response.status === 403) pause = LONGEST_PAUSE_MS;
  if (!response.ok || !response.body) throw new Error(`the stream answered ${response.status}`);
  become("live");
  // What happened while nobody listened is in the ledger by now.
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
 * A page that nobody looks at lets go of its stream: browsers allow six connections
 * to one host, over all tabs and those kept for the back button together.
 */
let resting = false;

function rest() {
  resting = true;
  connection?.abort();
}

function resume() {
  if (!resting) return;
  resting = false;
  restart();
}

function watchTheWatchers() {
  addEventListener("pagehide", rest);
  addEventListener("pageshow", resume);
  addEventListener("online", restart);
  document.addEventListener("visibilitychange", () => (document.hidden ? rest() : resume()));
}

/** Follows the stream for as long as somebody looks. */
export async function start() {
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

/** Begins the stream anew at once, with the token of now. */
export function restart() {
  pause = FIRST_PAUSE_MS;
  connection?.abort();
  wake();
}
