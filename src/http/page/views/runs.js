// Training runs: learning curves, the search's trials, parameters, metrics.

import * as api from "../api.js";
import { lineChart } from "../charts/line.js";
import { ticks } from "../charts/scale.js";
import { counted, duration, h, number, significant, time, words } from "../dom.js";
import { evaluationOf, flattened } from "../metrics.js";
import { badge, details, document_, empty, facts, grid, link, pager, panel, table } from "../parts.js";

const LIMIT = 25;

const epochsOf = (run) => (Array.isArray(run.epochs) ? run.epochs : []);
const trialsOf = (run) => (Array.isArray(run.trials) ? run.trials : (run.trials?.trials ?? []));
const bestTrial = (run) => run.trials?.best_trial ?? null;
const spent = (run) =>
  epochsOf(run).reduce((sum, epoch) => sum + epoch.seconds, 0) +
  trialsOf(run).reduce((sum, trial) => sum + trial.seconds, 0);

export const runList = {
  title: () => "Runs",
  lead: "Every training run, whether or not it produced a model.",
  kinds: ["run"],
  load: async ({ query }, signal) => {
    const found = await api.list("runs", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal);
    const items = found.items.map((run) => ({
      id: run.id,
      cycle: run.cycle,
      dataset: run.dataset,
      state: run.state,
      device: run.device,
      seed: run.seed,
      started_at: run.started_at,
      evaluation: evaluationOf(run)?.model ?? null,
      epochs: epochsOf(run).length,
      trials: trialsOf(run).length,
      seconds: spent(run),
    }));
    return { items, next: found.next_offset };
  },
  draw: ({ items, next }, { query }) =>
    items.length === 0
      ? [empty("Nothing has been trained yet.", "A cycle trains once it has a dataset.")]
      : [
          h(
            "section",
            { class: "panel" },
            table(
              "Runs, newest first",
              [
                { name: "Run", head: true, cell: (run) => link("runs", run.id) },
                { name: "State", cell: (run) => badge(run.state) },
                { name: "Cycle", cell: (run) => link("cycles", run.cycle) },
                { name: "Dataset", cell: (run) => link("datasets", run.dataset, run.dataset.slice(7, 19)) },
                { name: "ROC-AUC", number: true, cell: (run) => number(run.evaluation?.roc_auc, 3) },
                { name: "Log-loss", number: true, cell: (run) => number(run.evaluation?.log_loss, 4) },
                { name: "Epochs", number: true, cell: (run) => number(run.epochs) },
                { name: "Trials", number: true, cell: (run) => number(run.trials) },
                { name: "Compute time", number: true, cell: (run) => duration(1000 * run.seconds) },
                { name: "Started", cell: (run) => time(run.started_at) },
              ],
              items,
              { key: (run) => run.id },
            ),
            pager("runs", Number(query.get("from") ?? 0), LIMIT, next),
          ),
        ],
};

export const oneRun = {
  title: ({ id }) => id,
  kinds: ["run", "step"],
  load: ({ id }, signal) => api.get(`/runs/${api.part(id)}`, signal),
  draw: (run) => [
    h(
      "div",
      { class: "panels" },
      panel(
        "Details",
        {},
        facts([
          ["State", badge(run.state)],
          ["Cycle", link("cycles", run.cycle)],
          ["Dataset", link("datasets", run.dataset, run.dataset.slice(7, 19))],
          ["Seed", h("code", {}, String(run.seed))],
          ["Device", run.device || "not known yet"],
          ["Started", time(run.started_at, { seconds: true })],
          ["Ended", run.finished_at ? time(run.finished_at, { seconds: true }) : null],
          ["Compute time", duration(1000 * spent(run))],
        ]),
      ),
      curve(run, "Loss", "Log-loss", (epoch) => [
        ["Training", epoch.train_loss],
        ["Validation", epoch.validation_log_loss],
      ]),
      curve(run, "Ranking", "ROC-AUC", (epoch) => [["Validation", epoch.validation_roc_auc]]),
      curve(run, "Learning rate", "Rate", (epoch) => [["Rate", epoch.learning_rate]]),
      trials(run),
      recordPanel(run.record),
      panel(
        "Parameters",
        {},
        details(
          "parameters",
          "Show all",
          grid(
            "Parameters",
            ["Parameter", "Value"],
            flattened(run.parameters ?? {}).map(([name, value]) => [
              name,
              typeof value === "number" ? significant(value) : String(value),
            ]),
          ),
        ),
      ),
      panel("Metrics", {}, run.metrics ? details("metrics", "Show all", document_(run.metrics)) : empty("None yet.")),
    ),
  ],
};

/** The training record: what the model was trained on and with. */
function recordPanel(record) {
  if (!record) return null;
  const libraries = Object.entries(record.libraries ?? {}).map(([name, version]) => `${name} ${version}`);
  const scratch = record.started_from?.scratch;
  const started = scratch ? `random weights: ${scratch}` : words(record.started_from);
  return panel(
    "Training record",
    {},
    facts([
      ["delayd", record.version],
      ["Commit", h("code", {}, record.commit ?? "unknown")],
      ["Libraries", libraries.join(", ")],
      ["Weights", number(record.weights)],
      ["Started from", started],
      ["Trained on", `${counted(record.train_rows, "flight")}, ${number(record.train_positives)} delayed`],
      ["Training data since", time(record.train_from, { day: true })],
      ["Validated on", `${counted(record.tail_rows, "flight")}`],
      ["Validation period", [time(record.tail_from, { day: true }), " to ", time(record.tail_until, { day: true })]],
      ["Threshold", significant(record.threshold?.value)],
    ]),
    details("record", "Show the whole record", document_(record)),
  );
}

/** A chart over epochs, a line per member and value. */
function curve(run, name, axis, pick) {
  const epochs = epochsOf(run);
  const members = [...new Set(epochs.map((epoch) => epoch.member))];
  const lines = new Map();
  for (const epoch of epochs) {
    for (const [what, value] of pick(epoch)) {
      const title = members.length > 1 ? `${what}, member ${epoch.member}` : what;
      if (!lines.has(title)) lines.set(title, []);
      if (Number.isFinite(value)) lines.get(title).push({ at: epoch.epoch, value });
    }
  }
  const series = [...lines].map(([title, points]) => ({ name: title, points })).filter((one) => one.points.length > 0);
  if (series.length === 0) return panel(name, {}, empty("No epoch has finished yet."));
  const x = {
    name: "Epoch",
    text: (epoch) => `Epoch ${epoch}`,
    ticks: (low, high, wanted) =>
      ticks(low, high, wanted)
        .filter(Number.isInteger)
        .map((at) => ({ at, text: String(at) })),
  };
  return panel(
    name,
    { note: `By epoch; ${counted(members.length, "member")}.` },
    lineChart({
      name: `${name} of ${run.id}`,
      axis,
      format: (value, digits) =>
        digits === undefined
          ? significant(value)
          : value !== 0 && Math.abs(value) < 0.01
            ? value.toExponential(0)
            : number(value, digits),
      series,
      x,
      height: 200,
      key: `curve-${name}`,
    }),
  );
}

function trials(run) {
  const found = trialsOf(run);
  if (found.length === 0)
    return panel("Search", {}, empty("There was no search: it was trained with the current parameters."));
  const best = bestTrial(run);
  const loss = (trial) => trial.outcome.validation_log_loss ?? null;
  const outcome = (trial) => h("span", { title: trial.outcome.reason }, badge("failed", words(trial.outcome.ended)));
  const distinct = (what) => counted(new Set(found.map((trial) => trial[what])).size, what);
  const last = Math.max(...found.map((trial) => trial.round));
  const rows = found.toSorted((x, y) => y.round - x.round || (loss(x) ?? Infinity) - (loss(y) ?? Infinity));
  return panel(
    "Search",
    {
      wide: true,
      note: [
        `${distinct("trial")} in ${distinct("round")}; each round keeps the best.`,
        run.trials?.out_of_time ? " It ran out of time." : "",
      ],
    },
    table(
      "Trials, the last round first",
      [
        {
          name: "Trial",
          head: true,
          cell: (trial) => [
            `${trial.trial}${trial.trial === 0 ? " (current)" : ""} `,
            trial.trial === best && trial.round === last ? badge("passed", "best") : null,
          ],
        },
        { name: "Round", number: true, cell: (trial) => number(trial.round + 1) },
        { name: "Epochs", number: true, cell: (trial) => number(trial.epochs) },
        {
          name: "Log-loss",
          number: true,
          cell: (trial) => (loss(trial) === null ? outcome(trial) : number(loss(trial), 4)),
        },
        { name: "ROC-AUC", number: true, cell: (trial) => number(trial.outcome.validation_roc_auc, 4) },
        { name: "Learning rate", number: true, cell: (trial) => significant(trial.parameters.learning_rate) },
        { name: "Hidden", number: true, cell: (trial) => number(trial.parameters.hidden) },
        { name: "Blocks", number: true, cell: (trial) => number(trial.parameters.blocks) },
        { name: "Dropout", number: true, cell: (trial) => significant(trial.parameters.dropout) },
        { name: "Batch", number: true, cell: (trial) => number(trial.parameters.batch_size) },
        { name: "Took", number: true, cell: (trial) => duration(1000 * trial.seconds) },
      ],
      rows,
    ),
  );
}
