// Datasets: what exactly was trained on, and what validation found in it.

import * as api from "../api.js";
import { capital, counted, digest, h, number, percent, time } from "../dom.js";
import {
  badge,
  details,
  document_,
  empty,
  facts,
  figure,
  figures,
  grid,
  link,
  notice,
  pager,
  panel,
  table,
} from "../parts.js";

const LIMIT = 25;

const days = (dataset) => Math.round((Date.parse(dataset.until) - Date.parse(dataset.from)) / 86_400_000);

/** Rejected logs and changes of reference data that are shown; the API and the command line list all. */
const SHOWN = 10;

export const datasetList = {
  title: () => "Datasets",
  lead: "A version is the digest of everything the dataset was made from, so that it can be made again.",
  kinds: ["dataset", "cycle", "alert"],
  load: async ({ query }, signal) => {
    const offset = Number(query.get("from") ?? 0);
    const [datasets, rejected, failed, refused, reference] = await Promise.all([
      api.list("datasets", { limit: LIMIT, offset }, signal),
      api.get(`/objects?limit=${SHOWN}&status=rejected`, signal),
      api.get(`/objects?limit=${SHOWN}&status=failed`, signal),
      api.list("datasets/refused", { limit: SHOWN }, signal),
      api.get(`/reference?limit=${SHOWN}`, signal),
    ]);
    return { datasets, logs: [...rejected.items, ...failed.items], refused: refused.items, reference };
  },
  draw: ({ datasets, logs, refused, reference }, { query }) => [
    datasets.items.length === 0
      ? empty("No dataset has been made yet.", "A cycle makes one from the flight logs in the store.")
      : h(
          "section",
          { class: "panel" },
          datasetTable(datasets.items),
          pager("datasets", Number(query.get("from") ?? 0), LIMIT, datasets.next_offset),
        ),
    refused.length > 0 ? rejectedPanel(refused) : null,
    logPanel(logs),
    referencePanel(reference),
    reference.weather.length > 0 ? weatherPanel(reference.weather) : null,
  ],
};

function datasetTable(items) {
  return table(
    "Datasets, newest first",
    [
      {
        name: "Dataset",
        head: true,
        cell: (dataset) => link("datasets", dataset.version, dataset.version.slice(7, 19)),
      },
      { name: "Flights", number: true, cell: (dataset) => number(dataset.rows) },
      { name: "From", cell: (dataset) => time(dataset.from, { day: true }) },
      { name: "Until", cell: (dataset) => time(dataset.until, { day: true }) },
      { name: "Days", number: true, cell: (dataset) => number(days(dataset)) },
      { name: "Sources", number: true, cell: (dataset) => number(dataset.sources.length) },
      { name: "Left out", number: true, cell: (dataset) => number(dataset.validation?.left_out?.length ?? 0) },
      { name: "Quarantined", number: true, cell: (dataset) => number(dataset.validation?.quarantined) },
      { name: "Cycle", cell: (dataset) => link("cycles", dataset.cycle) },
      { name: "Created", cell: (dataset) => time(dataset.created_at) },
    ],
    items,
  );
}

function rejectedPanel(refused) {
  const rows = table(
    "Rejected datasets",
    [
      { name: "Cycle", head: true, cell: (one) => link("cycles", one.cycle) },
      { name: "Flights", number: true, cell: (one) => number(one.rows) },
      { name: "Why", cell: (one) => (one.validation?.failures ?? []).join("; ") },
      { name: "Rejected", cell: (one) => time(one.refused_at) },
    ],
    refused,
  );
  return panel(
    "Rejected datasets",
    { wide: true, note: "They break the contract; nothing was trained on them." },
    rows,
  );
}

function logPanel(logs) {
  const newest = logs.sort((x, y) => Date.parse(y.ingested_at) - Date.parse(x.ingested_at)).slice(0, SHOWN);
  const rows = table(
    "Rejected flight logs",
    [
      { name: "Flight log", head: true, cell: (log) => log.key },
      {
        name: "State",
        cell: (log) => (log.resolved_at ? badge("passed", "fixed since") : badge(log.status)),
      },
      { name: "Why", cell: (log) => log.error },
      { name: "Quarantined rows", cell: (log) => log.quarantine_key ?? h("span", { class: "none" }, "–") },
      { name: "Read", cell: (log) => time(log.ingested_at) },
    ],
    newest,
  );
  return panel(
    "Rejected flight logs",
    { wide: true, note: "None of their flights is used. An earlier valid version of a log still counts." },
    newest.length > 0 ? rows : empty("None was rejected, and all could be read."),
  );
}

function referencePanel(reference) {
  const rows = table(
    "Changes of airports, holidays and events",
    [
      { name: "What", head: true, cell: (version) => capital(version.kind) },
      { name: "Entries", number: true, cell: (version) => number(version.entries) },
      { name: "Changes", cell: (version) => changesText(version.changes) },
      { name: "From", cell: (version) => version.origin },
      { name: "First seen", cell: (version) => time(version.noticed_at) },
    ],
    reference.versions,
  );
  return panel(
    "Airports and holidays",
    { wide: true, note: "Reference data for reading and scoring flights; the newest of each kind is used." },
    reference.versions.length > 0 ? rows : empty("None has been read yet."),
  );
}

/** What a new version changed: how many of each kind. */
function changesText(changes) {
  if (changes?.what === "first") return "first version";
  if (changes?.what === "unknown") return `unknown: ${changes.why}`;
  const parts = ["opened", "closed", "moved", "added", "removed"]
    .filter((name) => changes?.[name]?.length > 0)
    .map((name) => `${number(changes[name].length)} ${name}`);
  return parts.join(", ") || "nothing relevant";
}

function weatherPanel(weather) {
  const rows = table(
    "Weather of datasets",
    [
      { name: "Dataset", head: true, cell: (one) => link("datasets", one.dataset, one.dataset.slice(7, 19)) },
      { name: "Weather known", number: true, cell: (one) => percent(one.share) },
      { name: "What was missing", cell: (one) => (one.coverage?.failures ?? []).join("; ") || "–" },
      { name: "Assembled", cell: (one) => time(one.at) },
    ],
    weather,
  );
  return panel("Weather", { wide: true, note: "The share of airport-hours for which a dataset had weather." }, rows);
}

export const oneDataset = {
  title: ({ id }) => `Dataset ${id.replace(/^sha256:/, "").slice(0, 12)}`,
  kinds: [],
  load: ({ id }, signal) => api.get(`/datasets/${api.part(id)}`, signal),
  draw: (dataset) => [
    h(
      "div",
      { class: "panels" },
      panel(
        "Details",
        {},
        facts([
          ["Version", h("code", { class: "long" }, dataset.version)],
          ["Flights", number(dataset.rows)],
          [
            "Window",
            [
              time(dataset.from, { day: true }),
              " to ",
              time(dataset.until, { day: true }),
              `, ${counted(days(dataset), "day")}`,
            ],
          ],
          ["As of", dataset.manifest?.as_of ? time(dataset.manifest.as_of) : null],
          ["Policy", dataset.manifest?.policy],
          ["Contract", dataset.manifest?.contract ? digest(dataset.manifest.contract) : null],
          ["Created by", link("cycles", dataset.cycle)],
          ["Created", time(dataset.created_at)],
        ]),
      ),
      validation(dataset.validation),
      panel(
        "Sources",
        { wide: true, note: counted(dataset.sources.length, "object") },
        dataset.sources.length > 0
          ? grid(
              "Sources",
              ["Object", "Digest", "Flights taken"],
              dataset.sources.map((source) => [
                source.key,
                source.digest.slice(7, 19),
                number(rowsOf(dataset, source)),
              ]),
            )
          : empty("None were recorded."),
      ),
      panel("Manifest", { wide: true }, details("manifest", "Show all", document_(dataset.manifest))),
    ),
  ],
};

function rowsOf(dataset, source) {
  return (
    dataset.manifest?.sources?.find((one) => one.key === source.key && one.sha256 === source.digest)?.rows_accepted ??
    null
  );
}

export function validation(report) {
  if (!report || Object.keys(report).length === 0)
    return panel("Validation", {}, empty("There is no validation report."));
  const counts = (title, found, format = number) => {
    const entries = Object.entries(found ?? {})
      .filter(([, value]) => value > 0)
      .sort(([, x], [, y]) => y - x);
    return entries.length > 0
      ? details(
          `validation-${title}`,
          `${title} (${entries.length})`,
          grid(
            title,
            ["What", title],
            entries.map(([name, value]) => [name, format(value)]),
          ),
        )
      : null;
  };
  return panel(
    "Validation",
    {},
    report.failures?.length > 0
      ? notice(
          "bad",
          h(
            "ul",
            {},
            report.failures.map((failure) => h("li", {}, failure)),
          ),
        )
      : h("p", {}, badge("passed", "meets the contract")),
    figures(
      figure("Rows read", number(report.rows)),
      figure("Accepted", number(report.accepted), {
        about: percent(report.rows > 0 ? report.accepted / report.rows : null),
      }),
      figure("Quarantined", number(report.quarantined)),
      figure("Duplicates", number((report.exact_duplicates ?? 0) + (report.conflicting_duplicates ?? 0)), {
        about: `${number(report.conflicting_duplicates ?? 0)} conflicting`,
      }),
    ),
    counts("Violations", report.violations),
    counts("Missing", report.missing_share, (value) => percent(value, 2)),
    counts("Outliers", report.outliers),
    report.left_out?.length > 0
      ? details(
          "left-out",
          `Flight logs left out (${report.left_out.length})`,
          grid(
            "Flight logs left out",
            ["Object", "Why"],
            report.left_out.map((source) => [source.key, source.reason]),
          ),
        )
      : null,
    report.quarantine_key ? h("p", { class: "note" }, `Quarantined rows: ${report.quarantine_key}`) : null,
    report.unused_columns?.length > 0
      ? details(
          "unused",
          `Columns not used (${report.unused_columns.length})`,
          h("p", {}, report.unused_columns.join(", ")),
        )
      : null,
  );
}
