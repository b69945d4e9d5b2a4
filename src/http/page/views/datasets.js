// Datasets: what exactly was learnt from, and what validation found in it.

import * as api from "../api.js";
import { h } from "../dom.js";
import { counted, digest, number, percent, time } from "../format.js";
import { badge, details, document_, empty, facts, figure, figures, link, notice, panel } from "../parts.js";
import { grid, pager, table } from "../table.js";

const LIMIT = 25;

const days = (dataset) => Math.round((Date.parse(dataset.until) - Date.parse(dataset.from)) / 86_400_000);

export const datasetList = {
  title: () => "Datasets",
  lead: "A version is the digest of everything it was made of, so that it can be made again.",
  kinds: ["dataset", "cycle"],
  load: ({ query }, signal) => api.list("datasets", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) =>
    items.length === 0
      ? [empty("No dataset has been made yet.", "A cycle makes one from the flight logs in the store.")]
      : [
          h(
            "section",
            { class: "panel" },
            table(
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
                { name: "Set aside", number: true, cell: (dataset) => number(dataset.validation?.quarantined) },
                { name: "Cycle", cell: (dataset) => link("cycles", dataset.cycle) },
                { name: "Made", cell: (dataset) => time(dataset.created_at) },
              ],
              items,
            ),
            pager("datasets", Number(query.get("from") ?? 0), LIMIT, next),
          ),
        ],
};

export const oneDataset = {
  title: ({ id }) => `Dataset ${id.replace(/^sha256:/, "").slice(0, 12)}`,
  kinds: [],
  load: ({ id }, signal) => api.get(`/datasets/${api.part(id)}`, signal),
  draw: (dataset) => [
    h(
      "div",
      { class: "panels" },
      panel(
        "Which dataset this is",
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
          ["Made by", link("cycles", dataset.cycle)],
          ["Made", time(dataset.created_at)],
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
          : empty("None were noted."),
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

function validation(report) {
  if (!report || Object.keys(report).length === 0)
    return panel("Validation", {}, empty("No validation report was kept."));
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
      : h("p", {}, badge("passed", "within the contract")),
    figures(
      figure("Rows read", number(report.rows)),
      figure("Accepted", number(report.accepted), {
        about: percent(report.rows > 0 ? report.accepted / report.rows : null),
      }),
      figure("Set aside", number(report.quarantined)),
      figure("Duplicates", number((report.exact_duplicates ?? 0) + (report.conflicting_duplicates ?? 0)), {
        about: `${number(report.conflicting_duplicates ?? 0)} contradict`,
      }),
    ),
    counts("Violations", report.violations),
    counts("Missing", report.missing_share, (value) => percent(value, 2)),
    counts("Outliers", report.outliers),
    report.unused_columns?.length > 0
      ? details(
          "unused",
          `Columns not used (${report.unused_columns.length})`,
          h("p", {}, report.unused_columns.join(", ")),
        )
      : null,
  );
}
