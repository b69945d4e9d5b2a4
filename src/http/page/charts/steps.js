// A cycle's steps as bars one after the other, each as long as it took.

import { h } from "../dom.js";
import { daemonNow, duration } from "../format.js";
import { badge } from "../parts.js";

/** How long a step took, or has taken so far, in milliseconds of the real clock. */
export function wallOf(step) {
  if (step.wall_ms !== null && step.wall_ms !== undefined) return step.wall_ms;
  if (step.state === "running") return Math.max(0, daemonNow() - Date.parse(step.started_at));
  return 0;
}

/** `3 of at most 6` in a step's progress, as a share; `null` without. */
export function shareOf(progress) {
  const [, done, all] = /(\d+) of (?:at most )?(\d+)/.exec(progress ?? "") ?? [];
  return all > 0 ? Math.min(1, Number(done) / Number(all)) : null;
}

export function stepBars(steps) {
  const total = Math.max(
    1,
    steps.reduce((sum, step) => sum + wallOf(step), 0),
  );
  let before = 0;
  const rows = steps.map((step) => {
    const wall = wallOf(step);
    const start = (100 * before) / total;
    const width = Math.max(0.6, (100 * wall) / total);
    before += wall;
    return h(
      "tr",
      { data: { step: step.name, state: step.state } },
      h("th", { scope: "row" }, step.name),
      h("td", { class: "state" }, badge(step.state)),
      h(
        "td",
        { class: "span", "aria-hidden": "true" },
        h(
          "span",
          { class: "track" },
          h("span", {
            class: `bar ${step.state}`,
            style: { left: `${Math.min(99.4, start)}%`, width: `${Math.min(width, 100 - start)}%` },
          }),
        ),
      ),
      h(
        "td",
        { class: "number" },
        step.state === "running" ? `${duration(wall)} so far` : duration(wall),
        step.attempt > 1 ? h("span", { class: "none" }, `, ${step.attempt} attempts`) : null,
      ),
    );
  });
  return h(
    "div",
    { class: "scroll" },
    h(
      "table",
      { class: "steps" },
      h("caption", { class: "unseen" }, "Steps with their states and wall times"),
      h(
        "thead",
        { class: "unseen" },
        h(
          "tr",
          {},
          ["Step", "State", "When in the cycle", "Wall time"].map((name) => h("th", { scope: "col" }, name)),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
}
