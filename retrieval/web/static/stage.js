// Query and answer side by side (one above the other on a phone), the terms of their cells as colours, and lines between points.

const STOPS = [0, 0.35, 0.7, 1];
const WARM = [[40, 20, 90, 0.5], [190, 40, 90, 0.42], [250, 130, 30, 0.5], [255, 235, 120, 0.62]];
const COLD = [[40, 20, 90, 0.5], [40, 80, 170, 0.5], [40, 140, 220, 0.55], [150, 220, 255, 0.62]];
const GAP = 12, MOST_POINTS = 60;

function colour(strength) {
  const table = strength >= 0 ? WARM : COLD;
  const at = Math.min(1, Math.abs(strength));
  let i = 0;
  while (i < 2 && at > STOPS[i + 1]) i++;
  const part = (at - STOPS[i]) / (STOPS[i + 1] - STOPS[i]);
  return table[i].map((value, channel) => value + part * (table[i + 1][channel] - value));
}

/** The cells as a tiny picture, a pixel a cell; the browser smooths it. */
function cells({ rows, columns, terms }) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const largest = Math.max(...terms.flat().map(Math.abs)) || 1;
  terms.flat().forEach((term, i) => {
    const [red, green, blue, alpha] = colour(Math.sign(term) * Math.abs(term / largest) ** 0.8);
    image.data.set([red, green, blue, 255 * alpha], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** A place without its picture says why. */
function nothing(context, [x, y, w, h], text) {
  const style = getComputedStyle(document.documentElement);
  context.fillStyle = style.getPropertyValue("--shade");
  context.fillRect(x, y, w, h);
  context.fillStyle = style.getPropertyValue("--soft");
  context.font = "15px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(text, x + w / 2, y + h / 2, w);
}

/** `query` and `answer`: images, or null where they are `lost`; `box`: the part of the query that asked, or null; `why`: of the server, or null; `heat`: cells to lay over both, or null. */
export function paint(canvas, { query, answer, box, why, heat, points, lost = ["", ""] }) {
  const wide = canvas.clientWidth || 800;
  const stacked = wide < 560;
  const cut = box ?? [0, 0, query?.naturalWidth ?? 4, query?.naturalHeight ?? 3];
  const ratio = (w, h) => (w && h ? w / h : 4 / 3);
  const a = ratio(cut[2] - cut[0], cut[3] - cut[1]), b = ratio(answer?.naturalWidth, answer?.naturalHeight);
  let first, second, height;
  if (stacked) {
    const most = innerHeight * 0.36;
    const one = Math.min(wide, most * a), two = Math.min(wide, most * b);
    first = [(wide - one) / 2, 0, one, one / a];
    second = [(wide - two) / 2, one / a + GAP, two, two / b];
    height = one / a + GAP + two / b;
  } else {
    height = Math.min((wide - GAP) / (a + b), innerHeight * 0.56);
    const left = (wide - GAP - height * (a + b)) / 2;
    first = [left, 0, height * a, height];
    second = [left + height * a + GAP, 0, height * b, height];
  }
  const dense = devicePixelRatio || 1;
  canvas.width = Math.round(wide * dense);
  canvas.height = Math.round(height * dense);
  const context = canvas.getContext("2d");
  context.scale(dense, dense);
  context.imageSmoothingQuality = "high";
  if (query) context.drawImage(query, cut[0], cut[1], cut[2] - cut[0], cut[3] - cut[1], ...first); else nothing(context, first, lost[0]);
  if (answer) context.drawImage(answer, ...second); else nothing(context, second, lost[1]);
  if (heat) {
    for (const [grid, [x, y, w, h]] of [[heat.query, first], [heat.picture, second]]) {
      context.drawImage(cells(grid), x, y, w, h);
    }
  }
  if (why?.points && points) {
    context.lineWidth = 1.5;
    why.points.slice(0, MOST_POINTS).forEach(([x1, y1, x2, y2], i) => {
      const from = [first[0] + x1 * first[2], first[1] + y1 * first[3]], to = [second[0] + x2 * second[2], second[1] + y2 * second[3]];
      context.strokeStyle = `hsl(${(47 * i) % 360} 95% 62%)`;
      context.globalAlpha = 0.75;
      context.beginPath();
      context.moveTo(...from);
      context.lineTo(...to);
      context.stroke();
      context.globalAlpha = 1;
      for (const place of [from, to]) {
        context.beginPath();
        context.arc(...place, 4, 0, 7);
        context.stroke();
      }
    });
  }
}
