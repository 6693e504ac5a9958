// All pictures of a gallery, a page at a time: the pages in sight where they can be asked for by place, else one after the other.
import { ask } from "./api.js";

const PAGE = 100;
const KEPT = 60; // pages in memory
const SETTLE = 60; // milliseconds: a scroll bar that is dragged passes many pages

/** `first`: the answer to the first question (limit PAGE); `places`: whether pages can be asked for by place; `changed()` is called
 * when there is more, `failed(message)` when there is not. */
export function listing(first, { gallery, under, places, signal, changed, failed }) {
  const pages = new Map([[0, first.pictures]]);
  let { next } = first;
  let known = first.pictures.length;
  let timer = 0, busy = false, from = 0, to = 0;

  async function load() {
    timer = 0;
    if (busy || signal.aborted) return;
    const parameters = { gallery, under, limit: PAGE };
    let page;
    if (places) {
      page = Math.floor(from / PAGE);
      while (pages.has(page) && page * PAGE < to) page += 1;
      if (page * PAGE >= Math.min(to, first.total)) return;
      parameters.offset = page * PAGE;
    } else {
      if (next === null || to < known) return;
      page = pages.size;
      parameters.after = next;
    }
    busy = true;
    try {
      const told = await ask("/api/images", parameters, { signal });
      pages.delete(page);
      pages.set(page, told.pictures);
      next = told.next;
      known += places ? 0 : told.pictures.length;
      if (places) for (const old of [...pages.keys()].slice(0, Math.max(0, pages.size - KEPT))) if (old) pages.delete(old); // the first tells the height of rows
    } catch (error) {
      if (error.name !== "AbortError") failed(error.message);
      return;
    } finally {
      busy = false;
    }
    changed();
    load();
  }

  return {
    get count() { return places ? first.total : known; },
    item: (i) => pages.get(Math.floor(i / PAGE))?.[i % PAGE],
    need(begin, end) {
      from = begin;
      to = end;
      if (!timer) timer = setTimeout(load, places ? SETTLE : 0);
    },
  };
}

listing.PAGE = PAGE;
