// Groups of duplicates: which to keep is marked here, and a list of the others is exported. Nothing is deleted.
import { $, bytes, h, note, notOffered, number, offers, thumb } from "./dom.js";
import { ask } from "./api.js";
import { go, read } from "./place.js";

const AT_ONCE = 100;
const RELATIONS = { exact: "same content", copy: "altered", scene: "other shot" };
let groups = [];
let total = 0;
let judging = false; // which need not be kept is still being looked at
let kept = new Map(); // id -> whether it is kept
let timer = 0;
let shown = "";

export function follow(here) {
  clearTimeout(timer);
  if (here.view !== "duplicates") { shown = ""; return; }
  const wanted = `${here.gallery}|${here.level || "copies"}`;
  if (wanted === shown) return;
  shown = wanted;
  groups = [];
  kept = new Map();
  if (!offers("duplicates")) { $("duplicates").replaceChildren(h("h1", {}, "Duplicates"), notOffered("search for duplicates")); return; }
  $("duplicates").replaceChildren(...head(), h("p", { className: "soft", role: "status" }, "Looking for duplicates …"));
  load();
}

async function load() {
  const here = read(), wanted = shown;
  let told;
  try {
    told = await ask("/api/duplicates", { gallery: here.gallery, level: here.level || "copies", first: groups.length, count: AT_ONCE });
  } catch (error) {
    $("duplicates").replaceChildren(...head(), note("wrong", "The search failed", error.message, h("button", { type: "button", onclick: () => { shown = ""; follow(read()); } }, "Try again")));
    return;
  }
  if (wanted !== shown) return;
  if (told.state === "running") {
    const bar = told.of ? h("progress", { max: told.of, value: told.done, "aria-label": told.stage }) : h("progress", { "aria-label": "working" });
    $("duplicates").replaceChildren(...head(), h("p", { role: "status" }, `Comparing pictures${told.stage ? `: ${told.stage}` : ""} …`), bar);
    timer = setTimeout(load, 700);
    return;
  }
  if (told.state === "failed") { $("duplicates").replaceChildren(...head(), note("wrong", "The search failed", told.message)); return; }
  groups.push(...told.groups);
  total = told.total;
  judging = told.judging;
  if (judging) timer = setTimeout(judged, 1500);
  for (const group of told.groups) for (const member of group.members) kept.set(member.id, member.best || Boolean(member.kept));
  draw();
}

// Once it is known which copies need not be kept, the list is read anew.
async function judged() {
  const here = read(), wanted = shown;
  const told = await ask("/api/duplicates", { gallery: here.gallery, level: here.level || "copies", first: 0, count: 1 }).catch(() => null);
  if (wanted !== shown) return;
  if (told === null || told.judging) { timer = setTimeout(judged, 1500); return; }
  groups = [];
  kept = new Map();
  load();
}

function head() {
  const level = read().level || "copies";
  const option = (value, text) => h("option", { value, selected: value === level }, text);
  const select = h("select", { onchange: (event) => go({ level: event.target.value === "copies" ? "" : event.target.value }) }, option("exact", "exact copies"), option("copies", "altered copies too"), option("scenes", "shots of one scene too"));
  return [h("h1", {}, "Duplicates"), h("div", { className: "bar" }, h("label", { className: "row" }, "Find ", select), h("span", { id: "tally", role: "status", className: "soft" }), h("button", { type: "button", id: "export", className: "primary", disabled: true, onclick: exported }, "Export the list"))];
}

function draw() {
  const page = $("duplicates");
  if (!groups.length) { page.replaceChildren(...head(), note("", "No duplicates", "No two pictures here are the same.")); return; }
  page.replaceChildren(...head(), h("p", { className: "soft" }, "Marked to be kept: the best of each group, by resolution, sharpness and format, and whatever shows anything that the best does not. Nothing is deleted: the list names the files that are not kept."), h("div", { className: "groups" }, groups.map(panel)));
  if (groups.length < total) page.append(h("button", { type: "button", onclick: (event) => { event.target.disabled = true; load(); } }, `Show more (${number(total - groups.length)} groups)`));
  tally();
}

function panel(group, index) {
  const names = { exact: "Same content", copies: "Altered copies", scenes: "One scene" };
  return h("section", { className: `panel group ${group.members.length > 4 ? "many" : ""}`, "aria-label": `Group ${index + 1}` }, h("h2", {}, `${names[group.kind]} · ${group.members.length} pictures`), h("ul", { className: "members" }, group.members.map((one) => member(group, one))));
}

function member(group, one) {
  const item = h("li", { className: `member ${kept.get(one.id) ? "kept" : ""}` });
  const box = h("input", { type: "checkbox", checked: kept.get(one.id), disabled: judging });
  box.onchange = () => {
    if (!box.checked && !group.members.some((other) => other.id !== one.id && kept.get(other.id))) {
      box.checked = true; // one of a group always stays
      $("tally").textContent = "One picture of a group is always kept.";
      return;
    }
    kept.set(one.id, box.checked);
    item.classList.toggle("kept", box.checked);
    tally();
  };
  const view = h("button", { type: "button", className: "thumb", "aria-label": `Search by ${one.name}`, onclick: () => go({ view: "search", id: String(one.id), upload: null, box: "", show: "" }) }, thumb(one, ""));
  item.append(view, h("div", { className: "about" },
    h("label", {}, box, "keep", one.best ? h("span", { className: "badge same" }, "best") : h("span", { className: "badge" }, RELATIONS[one.relation])),
    h("div", { className: "name", title: one.name }, one.name), h("div", { className: "folder", title: one.folder }, one.folder),
    h("div", { className: "soft" }, `${one.width ? `${one.width} × ${one.height}, ` : ""}${bytes(one.bytes)}${one.verified ? "" : ", by descriptor alone"}`), one.kept ? h("div", { className: "soft" }, `kept: ${one.kept}`) : null));
  return item;
}

// A name with a line break would be two names in the list.
const left = () => groups.flatMap((group) => group.members).filter((one) => !kept.get(one.id) && one.thumbnail && !(one.file ?? one.path).includes("\n"));

function tally() {
  const gone = left();
  const size = gone.reduce((sum, one) => sum + (one.bytes ?? 0), 0);
  if (judging) { $("tally").textContent = `${number(total)} ${total === 1 ? "group" : "groups"}; looking which files need not be kept …`; $("export").disabled = true; return; }
  $("tally").textContent = `${number(total)} ${total === 1 ? "group" : "groups"}; ${number(gone.length)} files need not be kept (${bytes(size)})`;
  $("export").disabled = !gone.length;
}

function exported() {
  const lines = left().map((one) => one.file ?? one.path);
  const url = URL.createObjectURL(new Blob([lines.map((line) => `${line}\n`).join("")], { type: "text/plain" }));
  h("a", { href: url, download: "not-kept.txt" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
