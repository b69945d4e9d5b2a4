// The small parts that views are made of.

import { capital, h, words } from "./dom.js";

/** Sign, tone and name of a state: the sign says it without its colour. */
const STATES = {
  running: ["▶", "info"],
  applying: ["▶", "info"],
  starting: ["▶", "info"],
  pending: ["…", "info"],
  applied: ["◐", "info"],
  draining: ["◐", "plain"],
  waiting_approval: ["‖", "warn", "waiting for approval"],
  done: ["✓", "ok"],
  deployed: ["✓", "ok"],
  succeeded: ["✓", "ok"],
  ready: ["✓", "ok"],
  verified: ["✓", "ok"],
  approved: ["✓", "ok"],
  serving: ["●", "ok"],
  superseded: ["○", "plain"],
  served_before: ["○", "plain"],
  delivered: ["✓", "ok"],
  passed: ["✓", "ok"],
  stable: ["✓", "ok"],
  holding: ["✓", "ok"],
  ingested: ["✓", "ok"],
  live: ["●", "ok"],
  previous: ["○", "plain"],
  candidate: ["◌", "info"],
  kept_live: ["=", "plain", "kept the current model"],
  skipped: ["–", "plain"],
  cancelled: ["–", "plain"],
  silenced: ["–", "plain"],
  ended: ["–", "plain"],
  undone: ["↶", "plain"],
  rolled_back: ["↶", "warn"],
  suspected: ["△", "warn"],
  too_few_rows: ["–", "plain", "too few rows"],
  too_few_outcomes: ["–", "plain", "too few outcomes"],
  undecided: ["?", "warn"],
  warning: ["△", "warn"],
  rejected: ["✕", "warn"],
  restarting: ["↻", "warn"],
  drifted: ["▲", "bad"],
  degraded: ["▼", "bad"],
  failed: ["✕", "bad"],
  dead: ["✕", "bad"],
  hung: ["✕", "bad"],
  undo_failed: ["✕", "bad"],
  stuck: ["✕", "bad"],
  critical: ["✕", "bad"],
  info: ["i", "info"],
};

export function tone(state) {
  return STATES[state]?.[1] ?? "plain";
}

/** A state as a small label with its sign. */
export function badge(state, text) {
  const [mark, colour, name] = STATES[state] ?? ["·", "plain"];
  return h(
    "span",
    { class: `badge ${colour}` },
    h("span", { class: "sign", "aria-hidden": "true" }, mark),
    text ?? name ?? words(state),
  );
}

export function link(kind, id, text = id) {
  if (!id) return h("span", { class: "none" }, "–");
  return h("a", { href: `#/${kind}/${encodeURIComponent(id)}` }, text);
}

const KINDS = [
  [/^cycle_\d+$/, "cycles"],
  [/^model_v\d+$/, "models"],
  [/^run_\d+$/, "runs"],
  [/^deployment_\d+$/, "deployments"],
  [/^decision_\d+$/, "decisions"],
  [/^drift_\d+$/, "drift"],
  [/^alert_\d+$/, "alerts"],
  [/^sha256:[0-9a-f]{64}$/, "datasets"],
];

/** Where an id leads, or `null`. */
export function pathOf(id) {
  const kind = KINDS.find(([pattern]) => pattern.test(id));
  return kind ? `#/${kind[1]}/${encodeURIComponent(id)}` : null;
}

/** Measurements with internal names, as people say them. */
const MEASURES = {
  auc: "ROC-AUC",
  roc_auc: "ROC-AUC",
  pr_auc: "PR-AUC",
  log_loss_skill: "log-loss skill",
  log_loss: "log-loss",
  calibration_error: "calibration error",
  expected_calibration_error: "calibration error",
};

export function sayable(text) {
  return String(text ?? "").replace(/(?<![\w-])[a-z_]+(?![\w-])/g, (word) =>
    Object.hasOwn(MEASURES, word) ? MEASURES[word] : word,
  );
}

/** Text in which every id is a link to what it names, and what stands between backticks is code. */
export function linked(text) {
  const pieces = sayable(text).split(/\b((?:cycle|run|deployment|decision|drift|alert)_\d+|model_v\d+)\b|(`[^`\n]+`)/);
  return pieces.filter(Boolean).map((piece) => {
    if (/^`[^`]+`$/.test(piece)) return h("code", {}, piece.slice(1, -1));
    const path = pathOf(piece);
    return path ? h("a", { href: path }, piece) : piece;
  });
}

/** A titled box. Its heading level is 2, one below the view's own. */
export function panel(title, { note, tools, wide = false, id } = {}, ...children) {
  const heading = h("div", { class: "panel-head" }, h("h2", { id }, title), tools);
  return h(
    "section",
    { class: wide ? "panel wide" : "panel" },
    heading,
    note && h("p", { class: "note" }, note),
    children,
  );
}

/** Terms and what they stand for; an entry without a value is left out. */
export function facts(entries) {
  const shown = entries.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h(
    "dl",
    { class: "facts" },
    shown.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))),
  );
}

/** A number with its name, and what it means. */
export function figure(name, value, { unit, about, picture, state, href } = {}) {
  return h(
    "div",
    { class: `figure ${state ? tone(state) : ""}` },
    h("dt", {}, href ? h("a", { href }, name) : name),
    h(
      "dd",
      {},
      h("span", { class: "value" }, value, unit && h("span", { class: "unit" }, ` ${unit}`)),
      about && h("span", { class: "about" }, about),
      picture,
    ),
  );
}

export function figures(...children) {
  return h("dl", { class: "figures" }, children);
}

/** Says that nothing is there, and what would bring something. */
export function empty(text, more) {
  return h("div", { class: "empty" }, h("p", {}, text), more && h("p", { class: "note" }, more));
}

export function notice(colour, ...children) {
  const mark = { bad: "✕", warn: "△", ok: "✓", info: "i" }[colour] ?? "·";
  return h(
    "div",
    { class: `notice ${colour}` },
    h("span", { class: "sign", "aria-hidden": "true" }, mark),
    h("div", {}, children),
  );
}

/** A thing that opens; it stays open when the view is drawn again. */
export function details(key, summary, ...children) {
  return h("details", { data: { keep: key } }, h("summary", {}, summary), children);
}

/** Any document for people: nested terms; what is long folds. */
export function document_(value, key = "document") {
  if (value === null || value === undefined) return h("span", { class: "none" }, "–");
  if (Array.isArray(value)) {
    if (value.every((item) => item === null || typeof item !== "object")) return linked(value.join(", ") || "–");
    return h(
      "ol",
      { class: "nested" },
      value.map((item, index) => h("li", {}, document_(item, `${key}.${index}`))),
    );
  }
  if (typeof value === "object") {
    const entries = Object.entries(value);
    if (entries.length === 0) return h("span", { class: "none" }, "–");
    return facts(entries.map(([name, inner]) => [capital(words(name)), document_(inner, `${key}.${name}`)]));
  }
  if (typeof value === "number")
    return h(
      "span",
      { class: "number" },
      Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))),
    );
  if (typeof value === "boolean") return value ? "yes" : "no";
  return linked(value);
}

/** Code, logs: kept as it is, scrolls in itself, reachable by keyboard. */
export function log(text, label) {
  return h("pre", { class: "log", tabindex: "0", role: "region", "aria-label": label }, text);
}

// ----------------------------------------------------------------
// Tables that fit the screen: real tables, which on a phone read as cards.

/**
 * `columns` are `{ name, cell(row), number?, head? }`; `head` marks the column that
 * names the row. `caption` is for screen readers.
 */
export function table(caption, columns, rows, { key, className = "" } = {}) {
  const header = h(
    "tr",
    {},
    columns.map((column) => h("th", { scope: "col", class: column.number ? "number" : null }, column.name)),
  );
  const line = (row) =>
    h(
      "tr",
      { data: key ? { row: key(row) } : {} },
      columns.map((column) => {
        const content = h("div", {}, column.cell(row));
        const blank = content.textContent.trim() === "–" && !column.head;
        const attributes = {
          class: [column.number && "number", blank && "blank"].filter(Boolean).join(" ") || null,
          data: { name: column.name },
        };
        return column.head ? h("th", { scope: "row", ...attributes }, content) : h("td", attributes, content);
      }),
    );
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: `cards ${className}` },
      h("caption", { class: "unseen" }, caption),
      h("thead", {}, header),
      h("tbody", {}, rows.map(line)),
    ),
  );
}

/** A plain grid of numbers that scrolls in itself: the alternative to a chart. */
export function grid(caption, names, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: "plain" },
      h("caption", { class: "unseen" }, caption),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          names.map((name, index) => h("th", { scope: "col", class: index ? "number" : null }, name)),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            row.map((cell, index) => (index ? h("td", { class: "number" }, cell) : h("th", { scope: "row" }, cell))),
          ),
        ),
      ),
    ),
  );
}

/** Links to the newer and the older part of a listing. */
export function pager(path, offset, limit, next) {
  if (offset === 0 && next === null) return null;
  const to = (target, text) => h("a", { href: target > 0 ? `#/${path}?from=${target}` : `#/${path}` }, text);
  return h(
    "nav",
    { class: "pager", "aria-label": "Pages of this list" },
    offset > 0 ? to(Math.max(0, offset - limit), "← Newer") : h("span", {}),
    next !== null && next !== undefined ? to(next, "Older →") : h("span", {}),
  );
}
