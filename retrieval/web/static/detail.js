// The side-by-side view of one answer: why it matched.
import { $, bytes, h, lost, number, percent } from "./dom.js";
import { ask } from "./api.js";
import { go, hrefOf, read, upload } from "./place.js";
import { paint } from "./stage.js";

let now = { query: null, answer: null, box: null, why: null };
let shown = []; // the answers that can be stepped through
let asking = null;
let opened = "";

function load(source) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = source;
  });
}

function repaint() {
  $("legend").hidden = !now.why || !$("heat").checked;
  paint($("stage"), { ...now, heat: $("heat").checked, points: $("points").checked });
}

export function prepare() {
  $("close").onclick = () => close();
  $("detail").addEventListener("cancel", (event) => { event.preventDefault(); close(); });
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) close(); });
  $("before").onclick = () => step(-1);
  $("after").onclick = () => step(1);
  $("detail").addEventListener("keydown", (event) => {
    if (event.target instanceof HTMLInputElement && event.target.type !== "checkbox") return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  $("heat").onchange = $("points").onchange = repaint;
  addEventListener("resize", () => { if ($("detail").open) repaint(); });
  $("askthis").onclick = (event) => {
    event.preventDefault();
    go({ view: "search", id: read().show, upload: null, box: "", show: "" });
  };
}

function close() {
  if (read().show) go({ show: "" });
}

function step(by) {
  const at = shown.findIndex((row) => String(row.id) === read().show);
  const next = shown[at + by];
  if (at >= 0 && next) go({ show: String(next.id) }, { replace: true });
}

/** Open, change or close the view as the address says. `rows`: the answers in the grid. */
export async function follow(here, rows) {
  shown = rows;
  const dialog = $("detail");
  if (!here.show || here.view !== "search") {
    asking?.abort();
    opened = "";
    if (dialog.open) dialog.close();
    return;
  }
  const key = [here.gallery, here.id, here.upload, here.box, here.show].join("|");
  const row = rows.find((candidate) => String(candidate.id) === here.show);
  const at = rows.indexOf(row);
  $("before").disabled = at <= 0;
  $("after").disabled = at < 0 || at === rows.length - 1;
  if (key === opened && dialog.open) return;
  opened = key;
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  now = { query: null, answer: null, box: null, why: null };
  if (!dialog.open) dialog.showModal();
  $("why").textContent = "Looking why …";
  $("askthis").href = hrefOf({ view: "search", gallery: here.gallery, id: here.show });
  tell(row, null);
  try {
    const picture = await ask(`/api/images/${here.show}`, { gallery: here.gallery }, { signal });
    tell(row, picture);
    const sent = here.upload === null ? null : upload(here.upload);
    const large = (id) => `/api/thumbnails/${id}?${new URLSearchParams({ ...(here.gallery && { gallery: here.gallery }), side: "1280" })}`;
    const [asked, answer] = await Promise.all([sent ? load(sent.url) : here.id ? load(large(here.id)) : null, load(large(here.show))]);
    if (signal.aborted) return;
    now.lost = lost();
    now.query = asked;
    now.answer = answer;
    now.box = await boxOn(asked, here, sent);
    repaint();
    if (!sent && !here.id) { $("why").textContent = ""; return; }
    const parameters = { id: here.show, query: sent ? null : here.id, box: here.box, gallery: here.gallery };
    const why = await ask("/api/heatmap", parameters, { body: sent?.file, signal });
    if (signal.aborted) return;
    now.why = why;
    const count = why.points?.length ?? 0;
    const sum = `the cells sum to a cosine of ${why.cosine.toFixed(4)}`;
    $("why").textContent = why.points ? `${count || "No"} ${count === 1 ? "point agrees" : "points agree"}; ${sum}` : sum;
    $("stage").setAttribute("aria-label", `The query and ${picture.name} side by side with heat-maps; ${count} matching points`);
    repaint();
    dialog.dataset.ready = here.show;
  } catch (error) {
    if (error.name !== "AbortError") $("why").textContent = error.message;
  }
}

/** The box in pixels of the image at hand, which may be smaller than the picture that it was drawn on. */
async function boxOn(image, here, sent) {
  if (!here.box || !image) return null;
  const values = here.box.split(",").map(Number);
  if (sent) return values;
  const whole = await ask(`/api/images/${here.id}`, { gallery: here.gallery });
  return values.map((value) => (value * image.naturalWidth) / whole.width);
}

function tell(row, picture) {
  const told = picture ?? row;
  $("detailname").textContent = told?.name ?? "Picture";
  const facts = [];
  const fact = (name, value, long = false) => facts.push(h("div", long ? { className: "long" } : {}, h("dt", {}, name), h("dd", {}, value)));
  if (row && row.rank) {
    fact("Answer", number(row.rank));
    if (row.probability !== null) {
      fact("Verdict", row.verdict ?? "none");
      fact("The same thing", percent(row.probability));
    }
    fact("Score (cosine)", row.score.toFixed(4));
    if (row.local !== null) fact("Local similarity", row.local.toFixed(3));
    if (row.inliers !== null) fact("Points in one pose", number(row.inliers));
  }
  if (told) {
    if (told.width) fact("Size", `${told.width} × ${told.height}`);
    if (picture) fact("File", bytes(picture.bytes));
    fact("Where", picture?.file ?? told.path, true);
  }
  $("facts").replaceChildren(...facts);
}
