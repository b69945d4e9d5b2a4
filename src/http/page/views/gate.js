// What the gate's decision holds besides its tests: latencies, and what the inputs differ in.

import { h } from "../dom.js";
import { counted, number, words } from "../format.js";
import { table } from "../table.js";

const SHOWN = 12;

/** Both models' latency in the serving code, by flights per call; `null` where it was not kept. */
export function latencyTable(gate) {
  const named = [
    ["challenger", gate.inputs?.latency?.challenger],
    [gate.inputs?.live ?? "live model", gate.inputs?.latency?.live],
  ];
  const rows = named.flatMap(([name, report]) => (report?.batches ?? []).map((batch) => ({ name, ...batch })));
  if (rows.length === 0) return null;
  return table(
    "Latency of the serving code, measured by the gate on its machine",
    [
      { name: "Latency of", head: true, cell: (row) => row.name },
      { name: "Flights per call", number: true, cell: (row) => number(row.batch) },
      { name: "p50 µs", number: true, cell: (row) => number(row.per_batch.p50_us, 1) },
      { name: "p95 µs", number: true, cell: (row) => number(row.per_batch.p95_us, 1) },
      { name: "p99 µs", number: true, cell: (row) => number(row.per_batch.p99_us, 1) },
      { name: "µs per flight", number: true, cell: (row) => number(row.p50_us_per_row, 2) },
      { name: "Calls", number: true, cell: (row) => number(row.per_batch.calls) },
    ],
    rows,
  );
}

/** What the challenger's inputs differ in from the live model's, a line for each; `null` without a live model. */
export function featureDifference(gate) {
  const difference = gate.inputs?.feature_difference;
  if (!difference) return null;
  const some = (names) =>
    `${names.slice(0, SHOWN).join(", ")}${names.length > SHOWN ? ` and ${number(names.length - SHOWN)} more` : ""}`;
  const lines = [];
  for (const [key, what] of [
    ["added_values", "new"],
    ["removed_values", "gone"],
  ]) {
    for (const [input, values] of Object.entries(difference[key] ?? {}))
      lines.push(`${words(input)}: ${number(values.length)} ${what}: ${some(values)}`);
  }
  if (difference.added_numerics?.length > 0) lines.push(`New inputs: ${some(difference.added_numerics)}`);
  if (difference.removed_numerics?.length > 0) lines.push(`Inputs that are gone: ${some(difference.removed_numerics)}`);
  const shifts = Object.entries(difference.mean_shift ?? {}).sort(([, x], [, y]) => Math.abs(y) - Math.abs(x));
  if (shifts.length > 0) {
    const named = shifts.map(([name, shift]) => `${name} ${shift > 0 ? "+" : ""}${number(shift, 2)}`);
    lines.push(`${counted(shifts.length, "mean")} moved by over 0.1 standard deviations: ${some(named)}`);
  }
  if (lines.length === 0)
    lines.push("None: the same values and inputs, and no mean moved by over 0.1 standard deviations.");
  return h(
    "ul",
    {},
    lines.map((line) => h("li", {}, line)),
  );
}
