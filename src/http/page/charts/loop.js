// The loop as a picture, with where it is now.

import { h, responsive, s } from "../dom.js";
import { duration, words } from "../format.js";
import { wallOf } from "./steps.js";

const AHEAD = ["ingest", "dataset", "train", "gate", "register", "package"];
const BACK = ["push", "deploy", "verify", "approve", "watch", "decide"];
/** Narrower than this the loop stands upright. */
const UPRIGHT_PX = 640;

const SIGNS = { done: "✓", failed: "✕", stuck: "✕", undo_failed: "✕", undone: "↶", skipped: "–", waiting: "‖" };

/**
 * `steps` are those of the cycle under way or of the last one; `here` is the
 * station that is lit, `waiting` whether a person is waited for there.
 */
export function loopPicture({ steps, here, waiting, open, label }) {
  const byName = new Map(steps.map((step) => [step.name, step]));
  const ahead = byName.has("build") ? AHEAD.toSpliced(5, 0, "build") : AHEAD;
  const station = (name) => {
    const step = byName.get(name);
    const lit = name === here;
    const state =
      lit && waiting ? "waiting" : lit ? "now" : ((open || step?.state !== "done" ? step?.state : "past") ?? "idle");
    const under =
      name === "watch" || name === "decide"
        ? lit
          ? "now"
          : ""
        : lit && waiting
          ? "waits for you"
          : step && step.state !== "skipped"
            ? step.state === "running" || step.wall_ms === null
              ? words(step.state)
              : duration(wallOf(step))
            : "";
    return { name, state, lit, under };
  };
  const loop = { ahead: ahead.map(station), back: BACK.map(station) };
  return responsive((width) => (width < UPRIGHT_PX ? upright(loop, width, label) : lying(loop, width, label)), "loop");
}

function lying({ ahead, back }, width, label) {
  const height = 196;
  const [left, right, top, bottom, bend] = [56, width - 56, 26, 126, 50];
  const places = [
    ...ahead.map((station, n) => ({
      ...station,
      x: left + bend / 2 + ((right - left - bend) * n) / (ahead.length - 1),
      y: top,
      below: true,
    })),
    ...back.map((station, n) => ({
      ...station,
      x: right - bend / 2 - ((right - left - bend) * n) / (back.length - 1),
      y: bottom,
      below: true,
    })),
  ];
  const track = `M${left + bend / 2} ${top}H${right - bend / 2}a${bend} ${bend} 0 0 1 0 ${bottom - top}H${left + bend / 2}a${bend} ${bend} 0 0 1 0 ${top - bottom}z`;
  const middle = (a, b) => (places[a].x + places[b].x) / 2;
  const arrows = [
    [middle(0, 1), top, 0],
    [middle(3, 4), top, 0],
    [right - bend / 2 + (bottom - top) / 2, (top + bottom) / 2, 90],
    [middle(ahead.length + 1, ahead.length + 2), bottom, 180],
    [middle(ahead.length + 4, ahead.length + 5), bottom, 180],
    [left + bend / 2 - (bottom - top) / 2, (top + bottom) / 2, 270],
  ];
  return picture(width, height, track, arrows, places, label);
}

function upright({ ahead, back }, width, label) {
  const rows = Math.max(ahead.length, back.length);
  const step = 66;
  const height = 60 + step * (rows - 1) + 60;
  const [left, right, top, bottom] = [34, Math.round(width / 2) + 18, 44, height - 54];
  const y = (n, count) => top + ((bottom - top) * n) / (count - 1);
  const places = [
    ...ahead.map((station, n) => ({ ...station, x: left, y: y(n, ahead.length) })),
    ...back.map((station, n) => ({ ...station, x: right, y: y(back.length - 1 - n, back.length) })),
  ];
  const bend = 30;
  const track = `M${left} ${top}V${bottom}a${bend} ${bend} 0 0 0 ${bend} ${bend}H${right - bend}a${bend} ${bend} 0 0 0 ${bend} ${-bend}V${top}a${bend} ${bend} 0 0 0 ${-bend} ${-bend}H${left + bend}a${bend} ${bend} 0 0 0 ${-bend} ${bend}z`;
  const arrows = [
    [left, (places[1].y + places[2].y) / 2, 90],
    [(left + right) / 2, bottom + bend, 0],
    [right, (places[ahead.length + 1].y + places[ahead.length + 2].y) / 2, 270],
    [(left + right) / 2, top - bend, 180],
  ];
  return picture(width, height, track, arrows, places, label);
}

function picture(width, height, track, arrows, places, label) {
  return s(
    "svg",
    { class: "loop-picture", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    s("path", { class: "track", d: track }),
    arrows.map(([x, y, turn]) =>
      s("path", { class: "arrow", d: "M-4 -5L4 0L-4 5z", transform: `translate(${x} ${y}) rotate(${turn})` }),
    ),
    places.map(stationAt),
  );
}

function stationAt({ name, state, lit, under, x, y, below }) {
  const text = below
    ? [
        s("text", { class: "name centre", x, y: y + 36 }, name),
        under ? s("text", { class: "under centre", x, y: y + 52 }, under) : null,
      ]
    : [
        s("text", { class: "name", x: x + 24, y: y + (under ? -1 : 5) }, name),
        under ? s("text", { class: "under", x: x + 24, y: y + 15 }, under) : null,
      ];
  const mark = state === "past" ? "✓" : SIGNS[state];
  return s(
    "g",
    { class: `station ${state}`, "data-station": name, "data-lit": lit ? "true" : null },
    lit ? s("circle", { class: "halo", cx: x, cy: y, r: 21 }) : null,
    s("circle", { class: "body", cx: x, cy: y, r: 15 }),
    state === "now"
      ? s("circle", { class: "core", cx: x, cy: y, r: 6 })
      : mark
        ? s("text", { class: "sign centre", x, y: y + 5 }, mark)
        : null,
    text,
  );
}

/** A bar for a step that tells how far it is. */
export function progressBar(share, label) {
  return h(
    "progress",
    { class: "progress", value: share, max: 1, "aria-label": label },
    `${Math.round(100 * share)} %`,
  );
}
