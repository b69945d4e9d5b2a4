// From the address behind the # to a view and back.

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
    // A stray % is taken for what it is.
    return text;
  }
}

export function path(name, id, query) {
  const search = new URLSearchParams(query ?? {}).toString();
  return `#/${name}${id ? `/${encodeURIComponent(id)}` : ""}${search ? `?${search}` : ""}`;
}

/** Changes the address without a new entry in the history: for choices within a view. */
export function amend(query) {
  const { name, id, query: now } = parse(location.hash);
  for (const [key, value] of Object.entries(query)) {
    if (value === null) now.delete(key);
    else now.set(key, value);
  }
  history.replaceState(null, "", path(name, id, Object.fromEntries(now)));
}
