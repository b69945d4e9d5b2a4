// What follows what: the loop, the steps of a cycle, the lineage of a model.

import { daemonNow, duration, h, number, responsive, s, shortDigest, utcDay, words } from "../dom.js";
import { badge, pathOf } from "../parts.js";

// ----------------------------------------------------------------
// The loop as a picture, with where it is now.

const AHEAD = ["ingest", "dataset", "train", "gate", "register", "package"];
const BACK = ["push", "deploy", "verify", "approve", "watch", "decide"];
/** Narrower than this the loop stands upright. */
const UPRIGHT_PX = 640;

const SIGNS = { done: "✓", failed: "✕", stuck: "✕", undo_failed: "✕", undone: "↶", skipped: "–", waiting: "‖" };

/**
 * `steps` are those of the cycle under way or of the last one; `here` is the
 * station that is lit, `waiting` whether it waits for a person there.
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
          ? "needs approval"
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
  const track =
    `M${left + bend / 2} ${top}H${right - bend / 2}a${bend} ${bend} 0 0 1 0 ${bottom - top}` +
    `H${left + bend / 2}a${bend} ${bend} 0 0 1 0 ${top - bottom}z`;
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
  const corner = (x, y) => `a${bend} ${bend} 0 0 0 ${x} ${y}`;
  const track =
    `M${left} ${top}V${bottom}${corner(bend, bend)}H${right - bend}${corner(bend, -bend)}` +
    `V${top}${corner(-bend, -bend)}H${left + bend}${corner(-bend, bend)}z`;
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

/** A bar for a step that reports its progress. */
export function progressBar(share, label) {
  return h(
    "progress",
    { class: "progress", value: share, max: 1, "aria-label": label },
    `${Math.round(100 * share)} %`,
  );
}

// ----------------------------------------------------------------
// A cycle's steps as bars one after the other, each as long as it took.

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

// ----------------------------------------------------------------
// The lineage as layers: sources, dataset, run, model, image, deployment. Every
// node is a link; on a phone the layers stand one below the other.

const LAYERS = ["source", "dataset", "run", "model", "image", "deployment"];
/** Where a kind without a layer of its own is placed. */
const BESIDE = { build: "model" };
/** More sources than this become one node that counts them. */
const MOST_SOURCES = 6;
const NODE = { width: 136, height: 50, gap: 12 };
const LINEAGE_UPRIGHT_PX = 860;

/** `choose(node)` is called with the node that was chosen. */
export function lineageGraph(lineage, choose) {
  const gathered = gather(lineage);
  return responsive((width) => drawn(gathered, width, choose, lineage.model), "graph");
}

function gather({ model, nodes, edges }) {
  const sources = nodes.filter((node) => node.kind === "source");
  if (sources.length <= MOST_SOURCES) return { nodes, edges };
  const kept = sources.slice(-(MOST_SOURCES - 1));
  const hidden = new Set(sources.slice(0, -(MOST_SOURCES - 1)).map((node) => node.id));
  const target = edges.find((edge) => hidden.has(edge.from))?.to ?? model;
  const rest = {
    id: "earlier sources",
    kind: "source",
    label: `${hidden.size} earlier`,
    attributes: { sources: [...hidden].map((id) => id.split("@")[0]) },
  };
  return {
    nodes: [rest, ...kept, ...nodes.filter((node) => node.kind !== "source")],
    edges: [{ from: rest.id, to: target }, ...edges.filter((edge) => !hidden.has(edge.from))],
  };
}

/** Two short lines that fit into a node. */
function nodeLines(node) {
  const { attributes: about } = node;
  switch (node.kind) {
    case "source":
      return [
        about?.sources ? node.label : node.id.split("@")[0].split("/").slice(-2).join("/"),
        about?.rows_accepted === undefined ? "" : `${number(about.rows_accepted)} rows`,
      ];
    case "dataset":
      return [shortDigest(node.id), about?.rows === undefined ? "" : `${number(about.rows)} rows`];
    case "run":
      return [node.id, about?.device ? `seed ${about.seed}, ${about.device}` : ""];
    case "model":
      return [node.id, about?.registered_at ? utcDay(about.registered_at) : "parent"];
    case "image":
      return [(about?.image?.tag ?? node.id).split(/[/:]/).at(-1), shortDigest(about?.image?.digest ?? node.id)];
    case "build":
      return [about?.revision ?? "build", String(about?.commit ?? "").slice(0, 12)];
    default:
      return [node.id, words(about?.state ?? "")];
  }
}

function place(nodes, width, upright) {
  const layers = LAYERS.map((kind) => nodes.filter((node) => (BESIDE[node.kind] ?? node.kind) === kind)).filter(
    (layer) => layer.length > 0,
  );
  const places = new Map();
  if (upright) {
    const across = Math.max(1, Math.floor((width + NODE.gap) / (NODE.width + NODE.gap)));
    let y = 6;
    for (const layer of layers) {
      const rows = Math.ceil(layer.length / across);
      layer.forEach((node, n) => {
        const inRow = Math.min(across, layer.length - Math.floor(n / across) * across);
        const left = (width - inRow * (NODE.width + NODE.gap) + NODE.gap) / 2;
        places.set(node.id, {
          x: left + (n % across) * (NODE.width + NODE.gap),
          y: y + Math.floor(n / across) * (NODE.height + NODE.gap),
        });
      });
      y += rows * (NODE.height + NODE.gap) + 26;
    }
    return { places, height: y - 30 };
  }
  const tallest = Math.max(...layers.map((layer) => layer.length));
  const height = tallest * (NODE.height + NODE.gap) + NODE.gap;
  const column = layers.length > 1 ? (width - NODE.width - 2) / (layers.length - 1) : 0;
  layers.forEach((layer, n) => {
    const top = (height - layer.length * (NODE.height + NODE.gap) + NODE.gap) / 2;
    layer.forEach((node, row) => places.set(node.id, { x: 1 + n * column, y: top + row * (NODE.height + NODE.gap) }));
  });
  return { places, height };
}

function drawn({ nodes, edges }, width, choose, model) {
  const upright = width < LINEAGE_UPRIGHT_PX;
  const { places, height } = place(nodes, width, upright);
  return s(
    "svg",
    {
      class: "lineage",
      width,
      height,
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": `Lineage of ${model}: ${nodes.length} parts, each a button`,
    },
    s(
      "defs",
      {},
      s(
        "marker",
        { id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        s("path", { class: "arrow", d: "M0 0L8 4L0 8z" }),
      ),
    ),
    edges.map((edge) => edgeOf(places.get(edge.from), places.get(edge.to), upright)),
    nodes.map((node) => nodeOf(node, places.get(node.id), choose, node.id === model)),
  );
}

function edgeOf(from, to, upright) {
  if (!from || !to) return null;
  const sameLayer = upright ? Math.abs(from.y - to.y) < 1 : Math.abs(from.x - to.x) < 1;
  let path;
  if (sameLayer && !upright) {
    const x = from.x + NODE.width / 2;
    path = from.y < to.y ? `M${x} ${from.y + NODE.height}V${to.y - 1}` : `M${x} ${from.y}V${to.y + NODE.height + 1}`;
  } else if (upright) {
    const [x1, y1, x2, y2] = sameLayer
      ? [
          from.x < to.x ? from.x + NODE.width : from.x,
          from.y + NODE.height / 2,
          from.x < to.x ? to.x - 1 : to.x + NODE.width + 1,
          to.y + NODE.height / 2,
        ]
      : [from.x + NODE.width / 2, from.y + NODE.height, to.x + NODE.width / 2, to.y - 1];
    path = sameLayer ? `M${x1} ${y1}H${x2}` : `M${x1} ${y1}C${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2} ${x2} ${y2}`;
  } else {
    const [x1, y1, x2, y2] = [from.x + NODE.width, from.y + NODE.height / 2, to.x - 1, to.y + NODE.height / 2];
    path = `M${x1} ${y1}C${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2} ${x2} ${y2}`;
  }
  return s("path", { class: "edge", d: path, "marker-end": "url(#tip)" });
}

function nodeOf(node, at, choose, self) {
  const [first, second] = nodeLines(node);
  const fit = (text) => (text.length > 17 ? `${text.slice(0, 16)}…` : text);
  const go = (event) => {
    event.preventDefault();
    choose(node);
  };
  const path = pathOf(node.id);
  return s(
    "a",
    {
      class: `node ${node.kind} ${self ? "self" : ""}`,
      href: path ?? "#",
      "aria-label": `${words(node.kind)}: ${node.label}`,
      transform: `translate(${at.x} ${at.y})`,
      on: { click: go },
    },
    s("title", {}, node.label),
    s("rect", { width: NODE.width, height: NODE.height, rx: 7 }),
    s("text", { class: "kind", x: 9, y: 14 }, words(node.kind)),
    s("text", { class: "first", x: 9, y: 29 }, fit(first)),
    s("text", { class: "second", x: 9, y: 43 }, fit(second)),
  );
}

/** What a chosen node shows. */
export function nodePanel(node, facts) {
  const path = pathOf(node.id);
  return h(
    "div",
    { class: "node-about" },
    h("h3", {}, `${words(node.kind)}: `, path ? h("a", { href: path }, node.id) : node.id.split("@")[0]),
    h("p", { class: "note" }, node.label),
    facts,
  );
}
