// The search view: a query, its answers; without one, all pictures.
import { $, h, note, number, offers, percent, thumb } from "./dom.js";
import { ask } from "./api.js";
import { go, hrefOf, keepUpload, read, upload } from "./place.js";
import * as boxes from "./box.js";
import * as grid from "./grid.js";
import { listing } from "./listing.js";
import * as detail from "./detail.js";

const ORDER = ["similar", "likely", "same"];
let asked = ""; // the question that the grid answers
let answer = null;
let rows = []; // what the filter lets through
let asking = null;
let previewed = "";

export function prepare() {
  for (const id of ["file", "camera"]) {
    $(id).onchange = (event) => { const [file] = event.target.files; event.target.value = ""; if (file) take(file); };
  }
  $("clear").onclick = () => go({ upload: null, id: "", box: "", show: "" });
  boxes.prepare((text) => { if (text !== read().box) go({ box: text, show: "" }); });
  const form = $("filters");
  form.onchange = () => go(chosen(), { replace: false });
  form.elements.min.oninput = () => { $("least").textContent = form.elements.min.value; };
  form.onsubmit = (event) => event.preventDefault();
  form.onreset = () => setTimeout(() => { $("least").textContent = "0"; go(chosen()); });
  const most = Number(document.body.dataset.most);
  for (const option of [...form.elements.k.options]) if (Number(option.text) > most) option.remove();
  grid.prepare($("grid"));
  if (matchMedia("(max-width: 820px)").matches) $("filterbox").open = false; // the answers come first
  detail.prepare();
  dropping();
  $("grid").addEventListener("keydown", grid.arrows);
}

function chosen() {
  const { under, verdict, min, k, rank, rerank, fold } = $("filters").elements;
  return { under: under.value, verdict: verdict.value, min: Number(min.value) ? min.value : "", k: k.value, rank: rerank.value ? "" : rank.value, rerank: rerank.value, fold: fold.value, show: "" };
}

function take(file) {
  const most = Number(document.body.dataset.megabytes);
  if (file.size > most * 2 ** 20) {
    $("notice").replaceChildren(note("wrong", "This file is too large", `At most ${most} MB are taken.`));
    return;
  }
  go({ view: "search", upload: keepUpload(file), id: "", box: "", show: "" });
}

function dropping() {
  const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragover", (event) => { if (isFile(event)) { event.preventDefault(); $("dropping").hidden = false; } });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("dropping").hidden = true; });
  addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    $("dropping").hidden = true;
    const [file] = event.dataTransfer.files;
    if (file) take(file);
  });
  addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (file) { event.preventDefault(); take(file); }
  });
}

export async function follow(here) {
  fill(here);
  const question = JSON.stringify([here.gallery, here.upload, here.id, here.box, here.under, here.min, here.k, here.rank, here.rerank, here.fold]);
  if (question !== asked) {
    asked = question;
    await look(here);
  } else {
    filtered(here);
    grid.soon();
  }
  detail.follow(read(), rows);
}

/** The form and the query's picture as the address says. */
function fill(here) {
  const form = $("filters").elements;
  for (const name of ["verdict", "k", "rank", "rerank", "fold"]) form[name].value = here[name];
  form.min.value = here.min || 0;
  $("least").textContent = here.min || "0";
  if (here.under && ![...form.under.options].some((option) => option.value === here.under)) form.under.append(h("option", { value: here.under }, here.under));
  form.under.value = here.under;
  const verdicts = $("which").selectedOptions[0]?.dataset.verdicts === "yes"; // without a local index there are none
  form.verdict.disabled = !verdicts;
  for (const option of form.rank.options) if (option.value === "local") option.disabled = !verdicts;
  for (const name of ["rank", "rerank", "fold"]) form[name].closest("label").hidden = !offers(name);
  form.verdict.closest("label").hidden = !verdicts && !offers("files");
  const sent = here.upload === null ? null : upload(here.upload);
  const has = Boolean(sent || here.id);
  for (const id of ["invite"]) $(id).hidden = has;
  for (const id of ["preview", "hint", "clear", "boxed"]) $(id).hidden = !has;
  const image = $("asked");
  if (!has) { previewed = ""; image.removeAttribute("src"); $("unseen").hidden = true; boxes.show("", null); return; }
  const source = sent ? sent.url : `/api/thumbnails/${here.id}?${new URLSearchParams({ ...(here.gallery && { gallery: here.gallery }), side: "1280" })}`;
  if (source === previewed) { if (image.complete && image.naturalWidth) sized(here, sent); return; }
  previewed = source;
  boxes.show("", null);
  image.onload = () => { $("unseen").hidden = true; sized(read(), sent); };
  image.onerror = () => {
    $("preview").hidden = $("hint").hidden = $("boxed").hidden = true;
    $("unseen").hidden = false;
    $("unseen").textContent = sent ? "This browser cannot show that kind of picture; the search reads it by itself." : offers("files") ? "The picture cannot be shown; it can still be searched with." : "The picture is not reachable: its file is not on this machine, or has changed. It is searched with by its stored descriptor.";
  };
  image.src = source;
}

async function sized(here, sent) {
  const image = $("asked");
  let size = [image.naturalWidth, image.naturalHeight];
  if (!sent) {
    try {
      const whole = await ask(`/api/images/${here.id}`, { gallery: here.gallery });
      if (whole.width) size = [whole.width, whole.height];
    } catch { /* the size at hand will do */ }
  }
  boxes.show(read().box, size);
}

async function look(here) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const list = $("grid");
  const sent = here.upload === null ? null : upload(here.upload);
  const query = Boolean(sent || here.id);
  answer = null;
  rows = [];
  $("title").textContent = query ? "Answers" : "Pictures";
  $("status").textContent = query ? "Searching …" : "Loading …";
  $("notice").replaceChildren();
  $("more").textContent = "";
  list.setAttribute("aria-busy", "true");
  grid.clear(...Array.from({ length: 12 }, () => h("li", { className: "card skeleton", "aria-hidden": "true" })));
  try {
    if (query) {
      const parameters = { gallery: here.gallery, id: sent ? null : here.id, box: here.box, k: here.k, under: here.under, rank: here.rank, rerank: here.rerank, fold: here.fold, min_score: here.min };
      answer = await ask("/api/search", parameters, { body: sent?.file, signal });
    } else {
      answer = await ask("/api/images", { gallery: here.gallery, under: here.under, limit: listing.PAGE }, { signal });
      answer.results = answer.pictures;
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    grid.clear();
    $("status").textContent = "";
    const again = h("button", { type: "button", onclick: () => { asked = ""; follow(read()); } }, "Try again");
    $("notice").replaceChildren(note("wrong", query ? "This could not be searched" : "The pictures cannot be had", error.message, again));
    asked = "";
    return;
  } finally {
    if (!signal.aborted) list.setAttribute("aria-busy", "false");
  }
  if (signal.aborted) return;
  filtered(here, true);
}

/** Put the answers that the verdict filter lets through into the grid. */
function filtered(here, anew = false) {
  if (!answer) return;
  const query = Boolean(here.id || here.upload !== null);
  const least = ORDER.indexOf(here.verdict);
  const kept = query && least >= 0 ? answer.results.filter((row) => ORDER.indexOf(row.verdict) >= least) : answer.results;
  if (!anew && kept.length === rows.length && kept.every((row, i) => row === rows[i])) return;
  rows = kept;
  const left = answer.results.length - kept.length;
  if (!query) {
    $("status").textContent = answer.total ? `${number(answer.total)} in ${here.under || "all folders"}. Click one to search by it.` : "";
    $("notice").replaceChildren(...(answer.total ? [] : [note("quiet", "No pictures yet", here.under ? "There are none in this folder." : "Fill the gallery with: retrieve index FOLDER. They appear here while it runs.")]));
  } else {
    const sure = ["same", "likely"].map((verdict) => [verdict, kept.filter((row) => row.verdict === verdict).length]).filter(([, count]) => count);
    const told = sure.length ? `: ${sure.map(([verdict, count]) => `${number(count)} ${verdict}`).join(", ")}` : "";
    $("status").textContent = `${number(kept.length)} ${kept.length === 1 ? "picture" : "pictures"}${told}${left ? `, ${number(left)} hidden by the filter` : ""}`;
    const filtering = answer.filtered || left;
    if (!kept.length) $("notice").replaceChildren(note("quiet", "No answer", filtering ? "The filters let none through." : "The gallery has no picture to answer with.", filtering ? h("button", { type: "button", onclick: () => $("filters").reset() }, "Reset the filters") : null));
    else if (answer.found === false) $("notice").replaceChildren(note("quiet", "No match", answer.filtered ? "None of what the filters let through shows the same thing." : "No picture here is sure to show what is on the query. The nearest:"));
    else $("notice").replaceChildren();
  }
  if (query) {
    grid.show({ count: kept.length, item: (i) => kept[i], tall: () => kept.find((row) => row.copies), card });
    if (anew && here.scrolled) scrollTo(0, here.scrolled);
    return;
  }
  const { signal } = asking, places = offers("places");
  const pages = listing(answer, { gallery: here.gallery, under: here.under, places, signal, changed: grid.soon, failed: (message) => { $("more").textContent = message; } });
  grid.show(Object.assign(pages, { card }));
  if (here.scrolled) scrollTo(0, here.scrolled);
  if (places && grid.most() < answer.total) $("more").textContent = `The first ${number(grid.most())} are listed; choose a folder to see others.`;
}

function card(row) {
  const query = row.rank !== undefined;
  const open = () => (query ? go({ show: String(row.id) }) : go({ id: String(row.id), upload: null, box: "" }));
  const verdict = row.verdict ?? "other";
  const judged = query && row.probability !== null;
  const said = query ? `${judged ? `${verdict}, ${percent(row.probability)}, ` : ""}score ${row.score.toFixed(3)}` : "";
  const here = read();
  const by = { ...here, view: "search", id: String(row.id), upload: null, box: "", show: "" };
  const follows = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go({ id: String(row.id), upload: null, box: "", show: "" });
  };
  return h("li", { className: `card ${row.verdict ?? ""}`, dataset: { id: row.id } },
    h("button", { type: "button", className: "thumb", onclick: open, "aria-label": query ? `Why ${row.name} matched: ${said}` : `Search by ${row.name}` }, thumb(row, "")),
    h("div", { className: "about" },
      query ? h("div", { className: "line" },
        judged ? h("span", { className: `badge ${row.verdict ?? ""}` }, row.verdict ?? "–") : null,
        judged ? h("span", { title: "Probability that it shows the same thing" }, percent(row.probability)) : null,
        h("span", { className: "score", title: "Cosine similarity" }, row.score.toFixed(3))) : null,
      h("div", { className: "name", title: row.name }, row.name),
      h("div", { className: "folder", title: row.folder }, row.folder),
      row.copies ? h("div", { className: "folder" }, `and ${row.copies} ${row.copies === 1 ? "copy" : "copies"}`) : null,
      query ? h("a", { className: "askby", href: hrefOf(by), onclick: follows }, "Search by this") : null));
}

/** Folders for the filter. */
export function offer(folders) {
  const select = $("filters").elements.under;
  const chosenNow = select.value || read().under;
  select.replaceChildren(h("option", { value: "" }, "all folders"), ...folders.map((f) => h("option", { value: f.folder }, `${f.folder} (${number(f.pictures)})`)));
  if (chosenNow && !folders.some((f) => f.folder === chosenNow)) select.append(h("option", { value: chosenNow }, chosenNow));
  select.value = chosenNow;
}
