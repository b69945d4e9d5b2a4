// Tables that fit the screen: real tables, which on a phone read as cards.

import { h } from "./dom.js";

/**
 * `columns` are `{ name, cell(row), number?, head? }`; `head` marks the column that
 * names the row. `caption` is told to screen readers.
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
