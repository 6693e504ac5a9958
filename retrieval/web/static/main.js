// Which view is shown, as the address says.
import { $, offers } from "./dom.js";
import { ask } from "./api.js";
import * as place from "./place.js";
import * as search from "./search.js";
import * as gallery from "./gallery.js";
import * as duplicates from "./duplicates.js";
import * as map from "./map.js";

const VIEWS = ["search", "gallery", "duplicates", "map"];
const TITLES = { search: "Search", gallery: "Gallery", duplicates: "Duplicates", map: "Map" };

function follow(here) {
  for (const view of VIEWS) $(view).hidden = view !== here.view;
  for (const link of document.querySelectorAll("a[data-view]")) {
    const current = link.dataset.view === here.view && link.parentElement.tagName === "NAV";
    if (current) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[here.view]} – retrieval`;
  $("which").value = here.gallery || $("which").options[0].text;
  for (const link of document.querySelectorAll("nav a[data-view]")) link.hidden = ["duplicates", "map"].includes(link.dataset.view) && !offers(link.dataset.view);
  if (here.view === "search") search.follow(here); else if ($("detail").open) $("detail").close();
  gallery.follow(here);
  duplicates.follow(here);
  map.follow(here);
}

async function folders() {
  try {
    const { galleries } = await ask("/api/stats");
    const here = place.read();
    search.offer((galleries.find((one) => one.gallery === here.gallery) ?? galleries[0]).folders);
  } catch { /* the filter stays as it is */ }
}

for (const link of document.querySelectorAll("a[data-view]")) {
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const view = link.dataset.view;
    const plain = { view, id: "", upload: null, box: "", show: "", under: "", verdict: "", min: "", rank: "", rerank: "", fold: "", level: "", k: "20" };
    place.go(view === "search" && place.read().view === "search" ? plain : { ...plain, view });
    if (view !== "search") $(view).focus({ preventScroll: true });
  });
}
$("which").addEventListener("change", () => {
  const names = [...$("which").options].map((option) => option.text);
  place.go({ gallery: $("which").value === names[0] ? "" : $("which").value, id: "", upload: null, box: "", show: "", under: "" });
  folders();
});
search.prepare();
place.onChange(follow);
follow(place.read());
folders();
document.documentElement.dataset.ready = "yes";
