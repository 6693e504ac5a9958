// A box dragged on the query, in pixels of the whole picture; numbers do the same from the keyboard.
import { $ } from "./dom.js";

const FEW = 6; // pixels on the screen below which a drag was a click
let natural = null; // size of the whole picture
let told = ""; // what is shown, so that numbers being typed are left alone
let done = () => {};

export function prepare(listener) {
  done = listener;
  const area = $("preview"), shown = $("box");
  let start = null;

  const place = (event) => {
    const edges = $("asked").getBoundingClientRect();
    return [(event.clientX - edges.left) / edges.width, (event.clientY - edges.top) / edges.height].map((v) => Math.min(1, Math.max(0, v)));
  };
  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !natural) return;
    start = { at: place(event), x: event.clientX, y: event.clientY };
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener("pointermove", (event) => {
    if (start) draw(corners(start.at, place(event)));
  });
  area.addEventListener("pointerup", (event) => {
    if (!start) return;
    const moved = Math.hypot(event.clientX - start.x, event.clientY - start.y) >= FEW;
    const [x1, y1, x2, y2] = corners(start.at, place(event));
    start = null;
    const box = [x1 * natural[0], y1 * natural[1], x2 * natural[0], y2 * natural[1]].map(Math.round);
    if (moved && box[2] > box[0] && box[3] > box[1]) done(box.join(","));
    else { shown.hidden = true; done(""); }
  });
  area.addEventListener("pointercancel", () => { start = null; });
  $("boxform").addEventListener("submit", (event) => {
    event.preventDefault();
    const values = ["x1", "y1", "x2", "y2"].map((name) => Math.round(Number($("boxform").elements[name].value)));
    if (values[2] > values[0] && values[3] > values[1]) done(values.join(","));
  });
  $("whole").addEventListener("click", () => done(""));
}

const corners = ([a, b], [c, d]) => [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];

function draw([x1, y1, x2, y2]) {
  const shown = $("box");
  shown.hidden = false;
  shown.style.left = `${100 * x1}%`;
  shown.style.top = `${100 * y1}%`;
  shown.style.width = `${100 * (x2 - x1)}%`;
  shown.style.height = `${100 * (y2 - y1)}%`;
}

/** Show the box of the address on a picture of this size. */
export function show(text, size) {
  natural = size;
  const values = text ? text.split(",").map(Number) : null;
  if (`${text}|${size}` !== told) {
    told = `${text}|${size}`;
    const fields = $("boxform").elements;
    for (const [i, name] of ["x1", "y1", "x2", "y2"].entries()) fields[name].value = values ? values[i] : size ? [0, 0, ...size][i] : "";
  }
  if (!values || !size) { $("box").hidden = true; return; }
  draw([values[0] / size[0], values[1] / size[1], values[2] / size[0], values[3] / size[1]]);
}
