"""A chart of saved speed benchmarks: pictures a second of each way, for each model and size.

    retrieve benchmark speed --model resnet50-gem --random-weights --images photos/ --size 512,1024 \\
      --engines batched,torch,openvino --precision fp32,bf16,int8 --no-index --save resnet50.json
    python scripts/speed_chart.py resnet50.json lite0.json --out speed.png

The dashed line is what the processor's rate of float32 matrix products would allow if nothing else took time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from retrieval.views.plots import BLACK, BLUE, GREEN, ORANGE, SKY, VERMILION

WAYS = {
    ("reference", "fp32"): ("usual loop", "#BBBBBB"),
    ("batched", "fp32"): ("usual loop, batches of 8", "#888888"),
    ("torch", "fp32"): ("torch fp32", SKY),
    ("torch", "bf16"): ("torch bf16", BLUE),
    ("openvino", "fp32"): ("OpenVINO fp32", ORANGE),
    ("openvino", "bf16"): ("OpenVINO bf16", VERMILION),
    ("openvino", "int8"): ("OpenVINO int8", GREEN),
}


def draw(reports: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    sets = [(report, size) for report in reports for size in sorted({row["size"] for row in report["rows"]})]
    figure = Figure(figsize=(2.4 * len(sets) + 1, 3.8), dpi=110, layout="constrained")
    labels: dict[str, Any] = {}
    for axes, (report, size) in zip(figure.subplots(1, len(sets), squeeze=False)[0], sets, strict=True):
        rows = {
            (r["engine"], r["precision"]): r for r in report["rows"] if r["part"] == "network" and r["size"] == size
        }
        for place, (way, (label, colour)) in enumerate(WAYS.items()):
            if way in rows:
                rate = 1000 / rows[way]["milliseconds"]
                labels[label] = axes.bar(place, rate, color=colour)
                axes.text(place, rate, f"{rate:.1f}", ha="center", va="bottom", fontsize=7)
        limit = report["about"]["matrix_rate"] / report["about"]["multiplications"][str(size)]
        labels["limit of float32 products"] = axes.axhline(limit, color=BLACK, linestyle="--", linewidth=1)
        axes.set_title(f"{report['about']['model'].partition('@')[0]}, {size} px", fontsize=9)
        axes.set_xticks([])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(0, 1.1 * max(limit, *(1000 / row["milliseconds"] for row in rows.values())))
    figure.axes[0].set_ylabel("pictures a second", fontsize=9)
    about = reports[0]["about"]
    figure.suptitle(f"{about['processor']}, {about['cores']} cores", x=0.01, ha="left", fontsize=9)
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    draw([json.loads(path.read_text("utf-8")) for path in given.reports], given.out)


if __name__ == "__main__":
    main()
