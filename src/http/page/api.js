// The daemon's HTTP API. The token lives in this tab's session storage and in
// nothing else; it goes out in a header, never in a URL.

const BASE = "/api/v1";
const TOKEN = "delayd.token";
/** A reading that takes longer has gone astray; commands may take minutes. */
const READ_MS = 20_000;

/** What went wrong, in the API's own words where it had any. */
export class ApiError extends Error {
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

export function headers(more = {}) {
  const kept = token();
  return kept ? { ...more, Authorization: `Bearer ${kept}` } : more;
}

const deniedHandlers = new Set();
/** Calls `handler(error)` whenever the API wants another token. */
export function onDenied(handler) {
  deniedHandlers.add(handler);
}

async function failure(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // No problem document: a proxy answered, or nobody. The status says enough.
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
      throw new ApiError(0, "No answer", `The daemon has not answered within ${READ_MS / 1000} seconds.`);
    }
    throw new ApiError(0, "Not reachable", "The daemon does not answer. Is it running, and is the network up?");
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
