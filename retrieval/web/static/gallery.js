// What the gallery holds, growing while it is being indexed.
import { $, h, note, number, offers } from "./dom.js";
import { ask } from "./api.js";
import { go, hrefOf, read } from "./place.js";

const EVERY = 3000; // milliseconds
let timer = 0;
let first = null;
let drawn = "";

export async function follow(here) {
  clearTimeout(timer);
  if (here.view !== "gallery") { first = null; drawn = ""; return; }
  const page = $("gallery");
  if (!page.childElementCount) page.append(h("p", { className: "soft" }, "Loading …"));
  try {
    const { galleries } = await ask("/api/stats");
    const told = galleries.find((one) => one.gallery === here.gallery) ?? galleries[0];
    if (read().view !== "gallery") return;
    first ??= { gallery: told.gallery, pictures: told.pictures };
    if (first.gallery !== told.gallery) first = { gallery: told.gallery, pictures: told.pictures };
    const state = JSON.stringify(told);
    if (state !== drawn) { drawn = state; page.replaceChildren(...draw(told)); }
  } catch (error) {
    drawn = "";
    page.replaceChildren(note("wrong", "The counts cannot be had", error.message));
  }
  timer = setTimeout(() => follow(read()), EVERY);
}

const tile = (value, name) => h("div", { className: "tile" }, h("b", {}, value), h("span", {}, name));

function draw(told) {
  const grown = told.pictures - first.pictures;
  const tiles = [tile(number(told.pictures), "pictures can be searched")];
  if (told.pending) tiles.push(tile(number(told.pending), "wait to be described"));
  if (grown > 0) tiles.push(tile(`+${number(grown)}`, "since you came here"));
  if (told.unreadable !== null) tiles.push(tile(number(told.unreadable), "cannot be read"));
  tiles.push(tile(number(told.folders.length), told.folders.length === 1 ? "folder" : "folders"));
  const under = (folder) => ({ href: hrefOf({ view: "search", gallery: read().gallery, under: folder }), onclick: (event) => { event.preventDefault(); go({ view: "search", under: folder, id: "", upload: null, box: "", show: "" }); } });
  const parts = [h("h1", {}, `Gallery ${told.gallery}`), h("div", { className: "tiles" }, tiles), h("p", { className: "soft" }, `Model ${told.model}. ${told.verdicts ? "Answers come with verdicts." : "No local index, so answers come without verdicts."}${offers("files") ? "" : " It is kept by a server: pictures are shown where their files lie on this machine, unchanged."}`)];
  if (!told.pictures) parts.push(note("quiet", "No pictures yet", "Fill the gallery with: retrieve index FOLDER. The counts grow here while it runs."));
  if (told.folders.length) parts.push(h("section", { className: "panel" }, h("h2", {}, "Folders"), h("ul", { className: "folders" }, told.folders.map((f) => h("li", {}, h("a", under(f.folder), f.folder), ` ${number(f.pictures)}`)))));
  if (told.unreadable) {
    const rows = told.unreadable_pictures.map((one) => h("tr", {}, h("td", {}, one.path), h("td", {}, one.reason)));
    parts.push(h("section", { className: "panel" }, h("h2", {}, "What cannot be read, and why"), h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Picture"), h("th", { scope: "col" }, "Reason"))), h("tbody", {}, rows)), told.unreadable > rows.length ? h("p", { className: "soft" }, `and ${number(told.unreadable - rows.length)} more`) : null));
  }
  return parts;
}
