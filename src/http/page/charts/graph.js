// The lineage as layers: sources, dataset, run, model, image, deployment. Every
// node is a link; on a phone the layers stand one below the other.

import { h, responsive, s } from "../dom.js";
import { number, shortDigest, utcDay, words } from "../format.js";
import { pathOf } from "../parts.js";

const LAYERS = ["source", "dataset", "run", "model", "image", "deployment"];
/** Where a kind stands that has no layer of its own. */
const BESIDE = { build: "model" };
/** More sources than this become one node that counts them. */
const MOST_SOURCES = 6;
const NODE = { width: 136, height: 50, gap: 12 };
const UPRIGHT_PX = 860;

/** `choose(node)` hears which node was asked about. */
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
function lines(node) {
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
  const upright = width < UPRIGHT_PX;
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
  const [first, second] = lines(node);
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

/** What a node that was asked about shows. */
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
