// Elements without markup in strings: text only ever becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    } else if (name === "style") {
      // Through the object model: the page's policy forbids style attributes.
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    } else if (name === "data") {
      for (const [key, text] of Object.entries(value)) element.dataset[key] = text;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    if (Array.isArray(child)) append(element, child);
    else element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** An HTML element: `h("p", { class: "note" }, "text", otherElement)`. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Tells screen readers something that others see happen. */
export function announce(text) {
  const announcer = document.getElementById("announcer");
  announcer.textContent = "";
  // Emptied first, so that the same text again is read again.
  requestAnimationFrame(() => (announcer.textContent = text));
}

let minted = 0;
/** An id that nothing else on the page has. */
export function mint(prefix) {
  minted += 1;
  return `${prefix}-${minted}`;
}

const MOUNTED = "delayd:mounted";

/** Draws again whenever the space changes: `draw(width)` answers a node. */
export function responsive(draw, className = "") {
  const frame = h("div", { class: `frame ${className}` });
  let drawn = 0;
  const fit = (width) => {
    if (width <= 0 || width === drawn) return;
    drawn = width;
    frame.replaceChildren(draw(width));
  };
  const observer = new ResizeObserver(() => {
    if (!frame.isConnected) observer.disconnect();
    // Later, as a new height within the observer's turn would be an error of its own.
    else requestAnimationFrame(() => fit(Math.floor(frame.clientWidth)));
  });
  observer.observe(frame);
  frame.addEventListener(MOUNTED, () => fit(Math.floor(frame.clientWidth)));
  return frame;
}

/** Draws what has just come into the page at once, so that nothing flickers. */
export function mounted(root) {
  root.querySelectorAll(".frame").forEach((frame) => frame.dispatchEvent(new Event(MOUNTED)));
}
