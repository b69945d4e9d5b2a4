// What an operations team opens at three in the morning: is anything wrong, where
// is the loop, how does the live model do.

import * as api from "../api.js";
import { lineChart, modelMarks } from "../charts/line.js";
import { loopPicture, progressBar } from "../charts/loop.js";
import { shareOf, wallOf } from "../charts/steps.js";
import { buttons } from "../commands.js";
import { announce, h } from "../dom.js";
import { ago, duration, number } from "../format.js";
import { badge, empty, link, linked, panel } from "../parts.js";
import { aliased, pause, state } from "../store.js";
import { table } from "../table.js";
import { looks, realisedSeries, span } from "../windows.js";
import { attention } from "./attention.js";
import { health } from "./health.js";
import { reasonText } from "./reason.js";

const LOOK_BACK_DAYS = 30;
const SHOWN = 5;

async function load(_, signal) {
  const newest = state.status?.cycle?.id;
  const [seen, drift, alerts, cycles, cycle] = await Promise.all([
    looks(LOOK_BACK_DAYS, signal),
    api.list("drift", { limit: 1 }, signal),
    api.list("alerts", { limit: 20 }, signal),
    api.list("cycles", { limit: SHOWN }, signal),
    newest ? api.find(`/cycles/${newest}`, signal) : null,
  ]);
  return { seen, drift: drift.items[0] ?? null, alerts: alerts.items, cycles: cycles.items, cycle };
}

function draw(data) {
  const { status, statusError } = state;
  if (!status) return [empty(statusError ? statusError.message : "The daemon has not told its status yet.")];
  return [
    attention({ ...data, status }),
    h(
      "div",
      { class: "panels" },
      loopPanel(data.cycle),
      health(data, status),
      h("div", { class: "stack" }, realised(data.seen), cyclesPanel(data.cycles)),
      h("div", { class: "stack" }, alertsPanel(data.alerts), daemonPanel(status)),
    ),
  ];
}

/** Which station is lit, and what is going on there in words. */
function whereabouts(document) {
  const cycle = document?.cycle;
  if (!cycle || cycle.state === "finished") {
    const live = aliased("live");
    if (!live) {
      const missing = state.status?.waits_for ?? [];
      const why = missing.length > 0 ? `: ${missing.join("; ")}` : "";
      return { here: "decide", text: `No cycle is under way, and no model is live${why}.`, step: null };
    }
    return { here: "watch", text: `No cycle is under way. ${live.model} is live and being watched.`, step: null };
  }
  if (cycle.state === "waiting_approval")
    return {
      here: "approve",
      waiting: true,
      text: `${cycle.id} waits for an administrator to approve or reject ${cycle.model}, which serves already.`,
      step: null,
    };
  const step = document.steps.findLast((one) => one.state === "running") ?? document.steps.at(-1);
  const undoing = cycle.undoing || document.steps.some((one) => one.state === "undone" || one.state === "undo_failed");
  const doing = undoing ? "is being undone" : `is at step ${step?.name ?? "ingest"}`;
  return {
    here: step?.name ?? "ingest",
    text: `${cycle.id} ${doing}${step?.progress ? `: ${step.progress}` : ""}.`,
    step,
  };
}

/** Where the loop was when it was drawn last: a move is told to who cannot see it. */
let toldStation = null;

function loopPanel(document) {
  const { here, waiting, text, step } = whereabouts(document);
  if (toldStation !== null && toldStation !== here) announce(text);
  toldStation = here;
  const cycle = document?.cycle;
  const open = Boolean(cycle) && cycle.state !== "finished";
  const share = shareOf(step?.progress);
  const reason = cycle
    ? h(
        "p",
        { class: "note" },
        link("cycles", cycle.id),
        open ? " began " : " ended ",
        ago(open ? cycle.started_at : cycle.finished_at),
        open ? "" : [" (", badge(cycle.outcome), ")"],
        `. Why it began: ${reasonText(cycle.reason)}.`,
        open ? "" : [" How it ended: ", linked(endText(cycle))],
      )
    : null;
  return panel(
    "The loop",
    { wide: true, id: "loop" },
    loopPicture({ steps: document?.steps ?? [], here, waiting, open, label: `The loop. ${text}` }),
    h(
      "div",
      { class: "whereabouts", data: { here } },
      h("p", {}, linked(text)),
      share === null ? null : progressBar(share, step.progress),
      step
        ? h(
            "p",
            { class: "note" },
            `${duration(wallOf(step))} in this step${step.attempt > 1 ? `, attempt ${step.attempt}` : ""}`,
          )
        : null,
      reason,
    ),
    waiting
      ? buttons("approve", "reject", pause() ? "resume" : "pause")
      : buttons("retrain", ...(open ? ["cancel"] : []), "rollback", pause() ? "resume" : "pause"),
  );
}

/** How a cycle ended, as it stands now: what was deployed may have been taken back since. */
function endText(cycle) {
  const live = aliased("live")?.model;
  if (cycle.outcome === "deployed" && live !== cycle.model)
    return `${cycle.model} was deployed and rolled back since; ${live ?? "no model"} is live.`;
  return cycle.detail.split("\n")[0] || "nothing more was noted.";
}

function realised(seen) {
  const marks = modelMarks(seen.rows);
  const auc = realisedSeries(seen.rows, "auc");
  const content =
    auc.points.length > 0
      ? lineChart({
          name: "Realised ROC-AUC",
          axis: "ROC-AUC",
          format: (value, digits = 3) => number(value, digits),
          series: [auc],
          marks,
          least: 0.1,
          height: 200,
          key: "overview-auc",
        })
      : empty(
          "No outcomes are known yet.",
          `Realised metrics appear once flights that were predicted have landed. Looked at: ${span(seen)}.`,
        );
  return panel(
    "How well it predicts",
    {
      note: `ROC-AUC of the live model on flights that have landed, ${span(seen)}. Dashed lines: another version went live.`,
      tools: h("a", { href: "#/performance" }, "All metrics"),
    },
    content,
  );
}

function alertsPanel(alerts) {
  const shown = alerts.slice(0, SHOWN);
  const rows = table(
    "Latest alerts",
    [
      {
        name: "Alert",
        head: true,
        cell: ({ alert }) => [badge(alert.severity), " ", h("a", { href: `#/alerts/${alert.id}` }, alert.title)],
      },
      { name: "When", cell: ({ alert }) => ago(alert.at) },
    ],
    shown,
  );
  return panel(
    "Latest alerts",
    { tools: h("a", { href: "#/alerts" }, "All alerts") },
    shown.length > 0 ? rows : empty("No alerts.", "Nothing had to be told so far."),
  );
}

function cyclesPanel(cycles) {
  const rows = table(
    "Latest cycles",
    [
      { name: "Cycle", head: true, cell: (cycle) => link("cycles", cycle.id) },
      { name: "State", cell: (cycle) => badge(cycle.outcome ?? cycle.state) },
      { name: "Why", cell: (cycle) => h("span", { class: "clip" }, reasonText(cycle.reason)) },
      { name: "Began", cell: (cycle) => ago(cycle.started_at) },
    ],
    cycles,
  );
  return panel(
    "Latest cycles",
    { tools: h("a", { href: "#/cycles" }, "All cycles") },
    cycles.length > 0 ? rows : empty("No cycle has begun yet."),
  );
}

function daemonPanel(status) {
  const rows = table(
    "Actors of the daemon",
    [
      { name: "Actor", head: true, cell: (actor) => actor.name },
      { name: "State", cell: (actor) => badge(actor.state) },
      {
        name: "Does",
        cell: (actor) => [actor.current_work ?? h("span", { class: "none" }, "idle"), lastFailure(actor)],
      },
      { name: "Waiting", number: true, cell: (actor) => number(actor.waiting_senders) },
      { name: "Restarts", number: true, cell: (actor) => number(actor.restarts) },
    ],
    status.actors,
  );
  const service = h("a", { href: `${status.service_url}/docs`, rel: "noreferrer" }, status.service_url);
  return panel("The daemon", { note: [`delayd ${status.version}; the inference service answers at `, service] }, rows);
}

function lastFailure(actor) {
  return actor.last_failure ? h("p", { class: "note" }, `Last failure: ${actor.last_failure}`) : null;
}

export const overview = {
  title: () => "Overview",
  load,
  draw,
  kinds: ["cycle", "step", "decision", "drift", "alias", "deployment", "alert", "setting", "model"],
  needs: () => {
    const { status, session } = state;
    if (!status) return null;
    const actors = status.actors.map(({ last_beat_secs: _, ...actor }) => actor);
    return { ...status, now: null, actors, role: session?.role, error: state.statusError?.message };
  },
};
