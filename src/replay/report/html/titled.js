// A chart with its title and what it shows.

import { h } from "../../../http/page/dom.js";

export function titled(title, caption, ...chart) {
  return h("div", { class: "titled" }, h("h3", {}, title), h("p", { class: "note" }, caption), chart);
}
