// A map of the gallery: pictures near each other have like descriptors. Wheel, pinch or keys zoom; thumbnails come when near.
import { $, h, note, notOffered, number, offers } from "./dom.js";
import { ask } from "./api.js";
import { go } from "./place.js";

const images = new Map();
let pictures = [];
let shown = null;
let view = { x: 0, y: 0, zoom: 1 };
let canvas = null;

export async function follow(here) {
  if (here.view !== "map") return;
  if (shown === here.gallery) { draw(); return; }
  shown = here.gallery;
  const page = $("map");
  if (!offers("map")) { page.replaceChildren(h("h1", {}, "Map"), notOffered("map")); return; }
  page.replaceChildren(h("h1", {}, "Map"), h("p", { className: "soft", role: "status" }, "Laying out the map …"));
  try {
    const told = await ask("/api/map", { gallery: here.gallery, count: 1000 });
    pictures = told.pictures;
    view = { x: 0, y: 0, zoom: 1 };
    if (!pictures.length) { page.replaceChildren(h("h1", {}, "Map"), note("quiet", "No pictures yet", "Fill the gallery with: retrieve index FOLDER.")); return; }
    canvas = h("canvas", { className: "plane", tabindex: "0", role: "application", "aria-label": `Map of ${pictures.length} pictures. Plus and minus zoom, arrows move, Enter searches by the picture in the middle.` });
    const zoom = (by) => () => { view.zoom = Math.min(60, Math.max(0.8, view.zoom * by)); draw(); };
    page.replaceChildren(
      h("div", { className: "said" }, h("h1", {}, "Map"), h("p", {}, `${number(pictures.length)} of ${number(told.total)} pictures, laid out so that those near each other are alike: of the ten that are most like one, ${Math.round(100 * told.neighbours)} % are among the ten nearest here. Click one to search by it.`)),
      h("div", { className: "row" }, h("button", { type: "button", "aria-label": "Zoom in", onclick: zoom(1.5) }, "+"), h("button", { type: "button", "aria-label": "Zoom out", onclick: zoom(1 / 1.5) }, "−"), h("button", { type: "button", onclick: () => { view = { x: 0, y: 0, zoom: 1 }; draw(); } }, "All")),
      canvas);
    listen(canvas, zoom);
    draw();
  } catch (error) {
    shown = null;
    page.replaceChildren(h("h1", {}, "Map"), note("wrong", "The map cannot be had", error.message));
  }
}

const scale = () => 0.46 * view.zoom * Math.min(canvas.clientWidth, canvas.clientHeight);
const place = (one) => [canvas.clientWidth / 2 + (one.x - view.x) * scale() * (canvas.clientWidth > canvas.clientHeight ? 1.6 : 1), canvas.clientHeight / 2 - (one.y - view.y) * scale()];
const side = () => Math.min(110, 26 * Math.sqrt(view.zoom) * (pictures.length < 150 ? 1.8 : 1));

function draw() {
  if (!canvas?.isConnected || !canvas.clientWidth) return;
  const dense = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * dense;
  canvas.height = canvas.clientHeight * dense;
  const context = canvas.getContext("2d");
  context.scale(dense, dense);
  const size = side();
  for (const one of pictures) {
    const [x, y] = place(one);
    if (x < -size || y < -size || x > canvas.clientWidth + size || y > canvas.clientHeight + size) continue;
    const image = near(one);
    if (image?.complete && image.naturalWidth) {
      const w = size * Math.min(1, image.naturalWidth / image.naturalHeight), t = (w * image.naturalHeight) / image.naturalWidth;
      context.drawImage(image, x - w / 2, y - t / 2, w, t);
    } else {
      context.fillStyle = "#7f93b8";
      context.beginPath();
      context.arc(x, y, 3, 0, 7);
      context.fill();
    }
  }
}

function near(one) {
  if (!one.thumbnail) return null;
  if (!images.has(one.thumbnail)) {
    if (images.size > 3000) images.clear();
    const image = new Image();
    image.onload = () => requestAnimationFrame(draw);
    image.src = one.thumbnail;
    images.set(one.thumbnail, image);
  }
  return images.get(one.thumbnail);
}

function at(x, y) {
  let best = null, least = side() / 1.5;
  for (const one of pictures) {
    const [px, py] = place(one), far = Math.hypot(px - x, py - y);
    if (far < least) { least = far; best = one; }
  }
  return best;
}

function listen(plane, zoom) {
  const touching = new Map();
  let moved = 0;
  const open = (one) => { if (one) go({ view: "search", id: String(one.id), upload: null, box: "", show: "" }); };
  plane.onpointerdown = (event) => { touching.set(event.pointerId, [event.offsetX, event.offsetY]); moved = 0; plane.setPointerCapture(event.pointerId); };
  plane.onpointermove = (event) => {
    const from = touching.get(event.pointerId);
    if (!from) { plane.style.cursor = at(event.offsetX, event.offsetY) ? "pointer" : "grab"; return; }
    const others = [...touching.entries()].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
    if (others.length) {
      const before = Math.hypot(from[0] - others[0][0], from[1] - others[0][1]), now = Math.hypot(event.offsetX - others[0][0], event.offsetY - others[0][1]);
      if (before > 5) view.zoom = Math.min(60, Math.max(0.8, (view.zoom * now) / before));
    } else {
      view.x -= (event.offsetX - from[0]) / scale();
      view.y += (event.offsetY - from[1]) / scale();
    }
    moved += Math.hypot(event.offsetX - from[0], event.offsetY - from[1]);
    touching.set(event.pointerId, [event.offsetX, event.offsetY]);
    draw();
  };
  plane.onpointerup = (event) => { touching.delete(event.pointerId); if (moved < 5) open(at(event.offsetX, event.offsetY)); };
  plane.onpointercancel = (event) => touching.delete(event.pointerId);
  plane.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2)(); }, { passive: false });
  plane.onkeydown = (event) => {
    const step = 0.15 / view.zoom;
    const keys = { "+": zoom(1.5), "=": zoom(1.5), "-": zoom(1 / 1.5), ArrowLeft: () => { view.x -= step; }, ArrowRight: () => { view.x += step; }, ArrowUp: () => { view.y += step; }, ArrowDown: () => { view.y -= step; }, Enter: () => open(nearest()) };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    if (event.key !== "Enter") draw();
  };
  new ResizeObserver(draw).observe(plane);
}

const nearest = () => pictures.reduce((best, one) => (Math.hypot(one.x - view.x, one.y - view.y) < Math.hypot(best.x - view.x, best.y - view.y) ? one : best), pictures[0]);
