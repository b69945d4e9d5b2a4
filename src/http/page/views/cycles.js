// Passes of the loop: what each did, how long it took, and its result.

import * as api from "../api.js";
import { loopPicture, progressBar, shareOf, stepBars, wallOf } from "../charts/diagrams.js";
import { buttons } from "../commands.js";
import { ago, bytes, counted, daemonNow, duration, h, time } from "../dom.js";
import { badge, details, document_, empty, facts, link, linked, log, pager, panel, sayable, table } from "../parts.js";
import { state } from "../store.js";
import { validation } from "./datasets.js";
import { decisionTable } from "./decisions.js";
import { verificationPanel } from "./service.js";

const LIMIT = 25;
const LOG_LINES = 200;

const tookMs = (cycle) =>
  (cycle.finished_at ? Date.parse(cycle.finished_at) : daemonNow()) - Date.parse(cycle.started_at);

export const cycleList = {
  title: () => "Cycles",
  lead: "Every pass of the loop: from new data to a live model, or to the reason why there is none.",
  kinds: ["cycle"],
  load: ({ query }, signal) => api.list("cycles", { limit: LIMIT, offset: Number(query.get("from") ?? 0) }, signal),
  draw: ({ items, next_offset: next }, { query }) => {
    if (items.length === 0)
      return [
        empty(
          "No cycle has started yet.",
          "The first one starts when there are enough flights to train on; Retrain on the overview starts one at once.",
        ),
      ];
    return [
      h(
        "section",
        { class: "panel" },
        table(
          "Cycles, newest first",
          [
            { name: "Cycle", head: true, cell: (cycle) => link("cycles", cycle.id) },
            { name: "State", cell: (cycle) => badge(cycle.outcome ?? cycle.state) },
            { name: "Reason", cell: (cycle) => h("span", { class: "clip" }, linked(reasonText(cycle.reason))) },
            {
              name: "Model",
              cell: (cycle) =>
                cycle.outcome === "deployed" || cycle.outcome === "rolled_back" || !cycle.outcome
                  ? link("models", cycle.model)
                  : h("span", { class: "none" }, "none"),
            },
            { name: "Started", cell: (cycle) => time(cycle.started_at) },
            { name: "Result", cell: (cycle) => h("span", { class: "clip" }, linked(cycle.detail || "–")) },
          ],
          items,
          { key: (cycle) => cycle.id },
        ),
        pager("cycles", Number(query.get("from") ?? 0), LIMIT, next),
      ),
    ];
  },
};

export const oneCycle = {
  title: ({ id }) => id,
  kinds: ["cycle", "step", "decision", "verification", "run"],
  needs: () => state.status?.commands ?? null,
  load: async ({ id }, signal) => {
    const whole = await api.get(`/cycles/${api.part(id)}`, signal);
    const [buildLog, lines] = await Promise.all([
      whole.build || whole.steps.some((step) => step.name === "build")
        ? tail(`/cycles/${api.part(id)}/build-log?lines=${LOG_LINES}`, signal)
        : null,
      tail(`/cycles/${api.part(id)}/log?lines=${LOG_LINES}`, signal),
    ]);
    return { ...whole, buildLog, lines };
  },
  draw: (data) => {
    const { cycle, steps, decisions, run, verifications, build, buildLog, lines } = data;
    const { trace_id: trace, refused_dataset: refused } = data;
    const open = cycle.state !== "finished";
    const step = steps.findLast((one) => one.state === "running");
    const share = shareOf(step?.progress);
    const wall = steps.reduce((sum, one) => sum + wallOf(one), 0);
    const waiting = cycle.state === "waiting_approval";
    return [
      h(
        "div",
        { class: "panels" },
        panel(
          "Status",
          { wide: true },
          facts([
            ["State", badge(cycle.outcome ?? cycle.state)],
            ["Reason", linked(reasonText(cycle.reason))],
            ["Started", time(cycle.started_at, { seconds: true })],
            ["Ended", cycle.finished_at ? time(cycle.finished_at, { seconds: true }) : null],
            ["Work", `${duration(wall)} in ${counted(steps.length, "step")}`],
            ["Open for", open ? duration(tookMs(cycle)) : null],
            ["Result", cycle.detail ? linked(cycle.detail) : null],
            ["Run", run ? link("runs", cycle.run) : h("span", { class: "none" }, "none yet")],
            ["Dataset", run ? link("datasets", run.dataset, run.dataset.slice(7, 19)) : null],
            ["Model", link("models", cycle.model)],
            ["Deployment", steps.some((one) => one.name === "deploy") ? link("deployments", cycle.deployment) : null],
            ["Trace", trace ? h("code", {}, trace) : null],
          ]),
          open
            ? h(
                "div",
                { class: "whereabouts" },
                step
                  ? h("p", {}, h("strong", {}, step.name), step.progress ? `: ${step.progress}` : " is running.")
                  : null,
                share === null ? null : progressBar(share, step.progress),
              )
            : null,
          waiting ? buttons("approve", "reject") : null,
        ),
        panel(
          "Steps",
          { wide: true, note: "In order; each bar is as long as its step took." },
          steps.length > 0 ? stepBars(steps) : empty("No step has started yet."),
          open ? picture(cycle, steps, step, waiting) : null,
        ),
        troubles(steps),
        refused ? validation(refused.validation) : null,
        decisions.length > 0 ? panel("Decisions", { wide: true }, decisionTable(decisions)) : null,
        build ? buildPanel(build) : null,
        verifications.length > 0 ? verificationPanel(verifications.at(-1)) : null,
        panel(
          "Output of each step",
          {},
          steps
            .filter((one) => one.output)
            .map((one) => details(`output-${one.name}`, one.name, document_(one.output))),
        ),
        buildLog === null
          ? null
          : panel("Build log", { wide: true, note: `The last ${LOG_LINES} lines.` }, log(buildLog, "Build log")),
        lines === null
          ? null
          : panel(
              "Log",
              { wide: true, note: `The last ${LOG_LINES} lines of this cycle.` },
              lines ? log(lines, "Log of the cycle") : empty("Nothing was logged."),
            ),
      ),
    ];
  },
};

function picture(cycle, steps, step, waiting) {
  const here = waiting ? "approve" : (step?.name ?? steps.at(-1)?.name ?? "ingest");
  return loopPicture({ steps, here, waiting, open: true, label: `${cycle.id} is at ${here}` });
}

/** A log's end; `null` where the daemon keeps none. */
async function tail(path, signal) {
  try {
    return await api.text(path, signal);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

function troubles(steps) {
  const failed = steps.filter((step) => step.error);
  if (failed.length === 0) return null;
  return panel(
    "Errors",
    { wide: true },
    failed.map((step) =>
      h(
        "div",
        { class: "trouble-step" },
        h(
          "p",
          {},
          h("strong", {}, step.name),
          " ",
          badge(step.state),
          step.attempt > 1 ? ` attempt ${step.attempt}, ` : " ",
          ago(step.finished_at ?? step.started_at),
        ),
        log(step.error, `Error of step ${step.name}`),
      ),
    ),
  );
}

function buildPanel(build) {
  return panel(
    "Build of the service",
    {},
    facts([
      ["Repository", h("code", {}, build.repository)],
      ["Revision", [build.revision, " = ", h("code", {}, build.commit.slice(0, 12))]],
      ["Command", h("code", {}, build.command.join(" "))],
      ["Toolchain", build.toolchain],
      [
        "Executable",
        [h("code", { title: build.binary_digest }, build.binary_digest.slice(7, 19)), `, ${bytes(build.size_bytes)}`],
      ],
      ["Reused from an earlier build", build.reused ? "yes" : "no"],
      ["Took", duration(Date.parse(build.finished_at) - Date.parse(build.started_at))],
    ]),
  );
}

// ----------------------------------------------------------------
// Why a cycle was started, in words.

/** `{ kind: "drift", report, summary }` as `drift (…)`. */
export function reasonText(reason) {
  switch (reason?.kind) {
    case "bootstrap":
      return "no model was live";
    case "manual":
      return `requested by ${reason.by}${reason.why ? `: ${reason.why}` : ""}`;
    case "scheduled":
      return "the schedule";
    case "drift":
    case "performance":
      return `${reason.kind}: ${sayable(reason.summary)}`;
    default:
      return "an unknown reason";
  }
}
