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

/** The cells that are chosen: terms of the cosine, or attention, the mean or of one head; null where there are none. */
function layer() {
  if (!now.why) return null;
  const { query, picture, attention } = now.why, chosen = $("layer").value;
  if (chosen === "terms" || !attention) return query && { query, picture };
  const of = (one) => {
    const weights = chosen === "mean" ? one.mean : one.of_heads?.[Number(chosen)];
    const least = weights && Math.min(...weights.flat()); // is dark, the most is bright
    return { rows: one.rows, columns: one.columns, terms: weights?.map((row) => row.map((weight) => weight - least)) };
  };
  const cells = { query: of(attention.query), picture: of(attention.picture) };
  return cells.query.terms ? cells : null;
}

function repaint() {
  const heat = $("heat").checked ? layer() : null;
  $("legend").hidden = !heat;
  const looks = $("layer").value !== "terms";
  $("legend").classList.toggle("looks", looks);
  $("cold").textContent = looks ? "looks least" : "takes away";
  $("warm").textContent = looks ? "most" : "adds most";
  paint($("stage"), { ...now, heat, points: $("points").checked });
}

/** What can be laid over the pictures, as this explanation has it. */
function layers() {
  const { query, attention } = now.why, before = $("layer").value;
  const named = [query && ["terms", "contributions to the cosine"], attention && ["mean", "attention, mean of heads"]].filter(Boolean);
  for (let i = 0; attention && i < attention.picture.heads; i++) named.push([String(i), `attention, head ${i + 1}`]);
  $("layer").replaceChildren(...named.map(([value, text]) => h("option", { value }, text)));
  if (named.some(([value]) => value === before)) $("layer").value = before;
  $("layerbox").hidden = !attention;
  $("points").parentElement.hidden = !now.why.points; // without a local index there are none
}

/** Of single heads the numbers are asked for when one is chosen. */
async function choose() {
  const { why, ask: again } = now;
  if (/^\d+$/.test($("layer").value) && why?.attention && !why.attention.picture.of_heads) {
    try {
      const more = await again({ heads: true });
      if (now.why === why) now.why = more;
    } catch (error) {
      if (error.name !== "AbortError") $("why").textContent = error.message;
    }
  }
  repaint();
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
  $("layer").onchange = choose;
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
  now = { query: null, answer: null, box: null, why: null, ask: null };
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
    now.lost = [sent || here.id ? lost() : "", lost()];
    now.query = asked;
    now.answer = answer;
    now.box = await boxOn(asked, here, sent);
    repaint();
    if (!sent && !here.id) { $("why").textContent = ""; return; }
    const parameters = { id: here.show, query: sent ? null : here.id, box: here.box, gallery: here.gallery };
    now.ask = (more) => ask("/api/heatmap", { ...parameters, ...more }, { body: sent?.file, signal });
    const why = await now.ask(/^\d+$/.test($("layer").value) ? { heads: true } : {});
    if (signal.aborted) return;
    now.why = why;
    layers();
    const count = why.points?.length ?? 0;
    const sum = why.query ? `the cells sum to a cosine of ${why.cosine.toFixed(4)}` : `one token describes each, cosine ${why.cosine.toFixed(4)}`;
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
      fact("Verdict", row.verdict ?? "other");
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
