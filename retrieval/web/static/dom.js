// Elements without markup: whatever a name holds, it stays text.

export const $ = (id) => document.getElementById(id);

/** An element with properties, listeners (onclick ...), attributes ("aria-label" ...) and children. */
export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on") || name === "className" || name === "checked" || name === "disabled" || name === "value") made[name] = value;
    else if (name === "dataset") Object.assign(made.dataset, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export const number = (value) => new Intl.NumberFormat("en").format(value);
/** Rounded down, so that no number reads as one from which on another verdict is given: see retrieval/ranking/verdicts.py. */
export const percent = (value) => (value < 0.01 ? "<\u202f1\u202f%" : value >= 0.995 && value < 1 ? ">\u202f99\u202f%" : `${Math.floor(100 * value)}\u202f%`);

export function bytes(value) {
  if (value === null || value === undefined) return "unknown";
  const units = ["bytes", "KB", "MB", "GB"];
  let i = 0;
  while (value >= 1000 && i < 3) { value /= 1000; i++; }
  return `${i ? value.toFixed(1) : value} ${units[i]}`;
}

/** A note in the page: what happened, and what to do. */
export function note(kind, title, text, ...more) {
  return h("div", { className: `note ${kind}`, role: kind === "wrong" ? "alert" : null }, h("strong", {}, title), text ? h("p", {}, text) : null, ...more);
}

/** Whether the gallery that is shown can be asked for something: "duplicates", "map", "why", "fold", "rerank" ... */
export const offers = (what) => ($("which").selectedOptions[0]?.dataset.offers ?? "").split(" ").includes(what);
/** What stands in a view that the gallery does not have. */
export const notOffered = (what) => note("quiet", "Not offered", `This gallery is kept by a server, which offers no ${what}.`);
/** What is said of a picture that cannot be shown. */
export const lost = () => (offers("files") ? "cannot be shown" : "picture not reachable");

/** A picture that says so where it cannot be shown. */
export function thumb(picture, alt) {
  if (!picture.thumbnail) return h("span", { className: "lost" }, picture.absent ?? lost());
  const image = h("img", { loading: "lazy", decoding: "async", alt, src: picture.thumbnail });
  image.onerror = () => image.replaceWith(h("span", { className: "lost" }, lost()));
  return image;
}
