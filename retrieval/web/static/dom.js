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
export const percent = (value) => (value >= 0.995 ? "> 99 %" : value < 0.005 ? "< 1 %" : `${Math.round(100 * value)} %`);

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

/** A picture that says so where it cannot be shown. */
export function thumb(picture, alt) {
  if (!picture.thumbnail) return h("span", { className: "lost" }, "added by a program: no picture is kept");
  const image = h("img", { loading: "lazy", decoding: "async", alt, src: picture.thumbnail });
  image.onerror = () => image.replaceWith(h("span", { className: "lost" }, "cannot be shown"));
  return image;
}
