// Registered models: what each measured, where it comes from, where it went.

import * as api from "../api.js";
import { lineageGraph, nodePanel } from "../charts/graph.js";
import { buttons } from "../commands.js";
import { announce, h } from "../dom.js";
import { digest, number, percent, time } from "../format.js";
import { badge, details, document_, empty, facts, link, linked, panel } from "../parts.js";
import { aliased, state } from "../store.js";
import { pager, table } from "../table.js";
import { evaluationOf, metricRows } from "../metrics.js";

const LIMIT = 25;

/** The names that point at a model now. */
export function aliasBadges(version) {
  return ["live", "previous", "candidate"]
    .filter((name) => aliased(name)?.model === version)
    .map((name) => badge(name));
}

const needs = () => state.status?.aliases ?? null;

export const modelList = {
  title: () => "Models",
  lead: "Immutable, named by what is in them. Choose two to compare.",
  kinds: ["model", "alias"],
  needs,
  load: ({ query }, signal) => api.list("models", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) => {
    if (items.length === 0)
      return [empty("No model is registered yet.", "A cycle registers one when it passes the gate.")];
    const metric = (name, format) => (model) => format(evaluationOf(model)?.model?.[name]);
    return [
      h(
        "section",
        { class: "panel" },
        table(
          "Models, newest first",
          [
            {
              name: "Model",
              head: true,
              cell: (model) => [link("models", model.version), " ", aliasBadges(model.version)],
            },
            { name: "ROC-AUC", number: true, cell: metric("roc_auc", (value) => number(value, 3)) },
            { name: "Log-loss", number: true, cell: metric("log_loss", (value) => number(value, 4)) },
            { name: "Recall", number: true, cell: metric("recall", percent) },
            { name: "Precision", number: true, cell: metric("precision", percent) },
            {
              name: "Because of",
              cell: (model) =>
                h("span", { class: "clip" }, linked(model.drift_reason ?? (model.parent ? "–" : "first model"))),
            },
            { name: "Registered", cell: (model) => time(model.registered_at) },
            {
              name: "Compare",
              cell: (model) =>
                model.parent
                  ? h("a", { href: `#/compare?a=${model.parent}&b=${model.version}` }, `with ${model.parent}`)
                  : h("span", { class: "none" }, "–"),
            },
          ],
          items,
          { key: (model) => model.version },
        ),
        pager("models", Number(query.get("from") ?? 0), LIMIT, next),
      ),
    ];
  },
};

export const oneModel = {
  title: ({ id }) => id,
  kinds: ["model", "alias", "image", "deployment"],
  needs,
  load: async ({ id }, signal) => {
    const model = await api.get(`/models/${api.part(id)}`, signal);
    return { model, lineage: await api.get(`/models/${api.part(id)}/lineage`, signal) };
  },
  draw: ({ model, lineage }) => {
    const live = aliased("live")?.model;
    const other = model.version === live ? model.parent : live;
    return [
      h(
        "div",
        { class: "panels" },
        panel(
          "Which model this is",
          { tools: h("span", { class: "row" }, aliasBadges(model.version)) },
          facts([
            ["Bundle", digest(model.bundle)],
            ["Registered", time(model.registered_at)],
            ["Made by", [link("cycles", model.cycle), ", ", link("runs", model.run)]],
            ["Learnt from", link("datasets", model.dataset, model.dataset.slice(7, 19))],
            ["Because of", model.drift_reason ? linked(model.drift_reason) : null],
            ["Live when it was made", model.parent ? link("models", model.parent) : "none"],
            ["Bundle's key", h("code", {}, model.bundle_key)],
            ["Compare", other ? h("a", { href: `#/compare?a=${other}&b=${model.version}` }, `with ${other}`) : null],
          ]),
          model.version === live ? buttons("rollback") : null,
        ),
        panel(
          "What it measured",
          { note: "On held-out rows, before it was registered; intervals at 95 % where told." },
          measured(model),
        ),
        lineagePanel(lineage),
        panel("All metrics", { wide: true }, details("metrics", "Show the whole document", document_(model.metrics))),
      ),
    ];
  },
};

function measured(model) {
  const rows = metricRows(model);
  if (rows.length === 0) return empty("It was registered without metrics.");
  return table(
    "Metrics",
    [
      { name: "Metric", head: true, cell: (row) => row.name },
      { name: "Value", number: true, cell: (row) => row.format(row.value) },
      {
        name: "Interval",
        number: true,
        cell: (row) =>
          row.low === undefined
            ? h("span", { class: "none" }, "–")
            : `${row.format(row.low)} to ${row.format(row.high)}`,
      },
    ],
    rows,
  );
}

function lineagePanel(lineage) {
  const about = h("div", { "aria-live": "polite" });
  const choose = (node) => {
    about.replaceChildren(nodePanel(node, document_(node.attributes, `node-${node.id}`)));
    announce(`${node.kind} ${node.id}`);
  };
  return panel(
    "Lineage",
    { wide: true, note: "What it was made of, and what was made of it. Choose a part to see its particulars." },
    lineageGraph(lineage, choose),
    about,
  );
}
