// What is shown, kept in the address: it can be shared, and Back works. Photos of one's own live as long as the page.

const DEFAULTS = { k: "20" };
const NAMES = ["gallery", "id", "box", "under", "verdict", "min", "k", "rank", "rerank", "fold", "show", "level"];
const VIEWS = { "/": "search", "/gallery": "gallery", "/duplicates": "duplicates", "/map": "map" };
const uploads = new Map();
let last = 0;
let changed = () => {};

export function read() {
  const query = new URLSearchParams(location.search);
  const here = { view: VIEWS[location.pathname] ?? "search", upload: history.state?.upload ?? null, scrolled: history.state?.scrolled ?? 0 };
  for (const name of NAMES) here[name] = query.get(name) ?? DEFAULTS[name] ?? "";
  if (here.upload !== null && !uploads.has(here.upload)) here.upload = null; // of before the page was loaded anew
  return here;
}

export function hrefOf(here) {
  const path = Object.keys(VIEWS).find((key) => VIEWS[key] === here.view) ?? "/";
  const query = new URLSearchParams();
  for (const name of NAMES) if (here[name] && here[name] !== DEFAULTS[name]) query.set(name, here[name]);
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

export function go(changes, { replace = false } = {}) {
  const next = { ...read(), scrolled: 0, ...changes };
  const state = { upload: next.upload };
  if (!replace) history.replaceState({ ...history.state, scrolled: scrollY }, ""); // Back leads there again
  if (replace) history.replaceState(state, "", hrefOf(next)); else history.pushState(state, "", hrefOf(next));
  changed(next);
}

export function keepUpload(file) {
  last += 1;
  uploads.set(last, { file, url: URL.createObjectURL(file) });
  for (const key of uploads.keys()) {
    if (uploads.size <= 20) break;
    URL.revokeObjectURL(uploads.get(key).url);
    uploads.delete(key);
  }
  return last;
}

export const upload = (key) => uploads.get(key) ?? null;

export function onChange(listener) {
  changed = listener;
  addEventListener("popstate", () => listener(read()));
}
