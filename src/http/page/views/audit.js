// Who did what, and why.

import * as api from "../api.js";
import { h } from "../dom.js";
import { time, words } from "../format.js";
import { empty, linked } from "../parts.js";
import { pager, table } from "../table.js";

const LIMIT = 50;

export const audit = {
  title: () => "Audit",
  lead: "Everything that a person asked for.",
  kinds: ["setting", "cycle", "alias", "alert", "audit", "audit_outcome"],
  load: ({ query }, signal) => api.list("audit", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) =>
    items.length === 0
      ? [
          empty(
            "Nobody has asked for anything yet.",
            "Retrain, approve, roll back and the like appear here with who asked and why.",
          ),
        ]
      : [
          h(
            "section",
            { class: "panel" },
            table(
              "Deeds, newest first",
              [
                { name: "When", cell: (entry) => time(entry.at, { seconds: true }) },
                { name: "Who", head: true, cell: (entry) => entry.actor },
                { name: "What", cell: (entry) => h("strong", {}, words(entry.action)) },
                { name: "To what", cell: (entry) => linked(entry.subject || "–") },
                { name: "Why", cell: (entry) => linked(entry.detail || "not said") },
                { name: "What came of it", cell: (entry) => linked(entry.outcome || "not noted") },
              ],
              items,
            ),
            pager("audit", Number(query.get("from") ?? 0), LIMIT, next),
          ),
        ],
};
