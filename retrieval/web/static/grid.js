// A grid of any number of cards, of which only those near the window are in the document; the others are room above and below.
// All rows are of one height, so that where a card lies is known before it is made.
import { h } from "./dom.js";

const OVER = 2; // rows beyond the window, so that arrow keys find the next one
const TALLEST = 16e6; // pixels: beyond about twice as many browsers lose places
const SAMPLE = 12; // cards by which the height of a row is told

let list = null;
let source = null; // count, item(i) or undefined while it is not there, card(row), need(from, to), height: what rows are told by
let cards = new Map(); // place -> element
let columns = 1, height = 0, pitch = 0, width = 0;
let waiting = 0, wanted = -1;

export function prepare(element) {
  list = element;
  addEventListener("scroll", soon, { passive: true });
  addEventListener("resize", soon);
  new ResizeObserver(() => { if (list.clientWidth !== width) { pitch = 0; soon(); } }).observe(list);
}

/** Show other cards. */
export function show(given) {
  clear();
  source = given;
  render();
}

/** Nothing, or these elements. */
export function clear(...instead) {
  source = null;
  cards.clear();
  pitch = 0;
  wanted = -1;
  list.style.padding = list.style.gridAutoRows = "";
  list.replaceChildren(...instead);
}

/** The source has more, or the view was hidden before. */
export function soon() {
  waiting ||= requestAnimationFrame(render);
}

/** How many of all can be shown. */
export const most = () => Math.min(source?.count ?? 0, Math.floor(TALLEST / (pitch || 300)) * columns);

function measure() {
  width = list.clientWidth;
  cards.clear();
  list.style.padding = list.style.gridAutoRows = "";
  const rows = [];
  for (let i = 0; i < source.count && rows.length < SAMPLE; i++) if (source.item(i)) rows.push(source.item(i)); else break;
  const tall = source.tall?.();
  list.replaceChildren(...(tall ? [...rows, tall] : rows).map((row) => source.card(row)));
  const style = getComputedStyle(list);
  columns = style.gridTemplateColumns.split(" ").length;
  height = Math.ceil(Math.max(0, ...[...list.children].map((one) => one.getBoundingClientRect().height)));
  pitch = height ? height + parseFloat(style.rowGap) : 0;
  list.style.gridAutoRows = `${height}px`;
  list.replaceChildren();
}

function make(i, row) {
  const made = row ? source.card(row) : h("li", { className: "card skeleton", "aria-hidden": "true" });
  made.shows = row;
  made.dataset.i = i;
  if (row) { made.setAttribute("aria-setsize", source.count); made.setAttribute("aria-posinset", i + 1); }
  return made;
}

/** Its picture need not come any more. */
function drop(i) {
  const gone = cards.get(i), image = gone.querySelector("img");
  if (gone.contains(document.activeElement)) wanted = i; // has the focus again when it is back
  if (image && !image.complete) image.removeAttribute("src");
  gone.remove();
  cards.delete(i);
}

function render() {
  waiting = 0;
  if (!source || !list.offsetParent) return;
  if (!pitch) measure();
  if (!pitch) return;
  const count = most(), rows = Math.ceil(count / columns);
  const { top } = list.getBoundingClientRect();
  const first = Math.min(Math.max(0, Math.floor(-top / pitch) - OVER), Math.max(0, rows - 1));
  const last = Math.max(first, Math.min(rows, Math.ceil((innerHeight - top) / pitch) + OVER));
  const from = first * columns, to = Math.min(count, last * columns);
  for (const i of [...cards.keys()]) if (i < from || i >= to || cards.get(i).shows !== source.item(i)) drop(i);
  list.style.paddingTop = `${first * pitch}px`;
  list.style.paddingBottom = `${(rows - last) * pitch}px`;
  let at = list.firstElementChild;
  for (let i = from; i < to; i++) {
    const known = cards.get(i);
    if (known) { at = known.nextElementSibling; continue; }
    const made = make(i, source.item(i));
    cards.set(i, made);
    list.insertBefore(made, at);
  }
  if (wanted >= from && wanted < to && document.activeElement === document.body) focus(wanted);
  source.need?.(from, to);
}

/** Give the focus to the card at a place, which comes into the window. */
export function focus(i) {
  if (!source || i < 0 || i >= most()) return false;
  if (!cards.has(i)) {
    scrollBy(0, list.getBoundingClientRect().top + Math.floor(i / columns) * pitch - innerHeight / 2);
    render();
  }
  const thumb = cards.get(i)?.querySelector(".thumb");
  wanted = thumb ? -1 : i; // not loaded yet
  thumb?.focus();
  return true;
}

/** Arrow keys go through the grid as through a table. */
export function arrows(event) {
  const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  if (by === undefined || !event.target.classList.contains("thumb")) return;
  if (focus(Number(event.target.closest("li").dataset.i) + by)) event.preventDefault();
}
