"""Describe on Ray: ``python ray_driver.py SOURCE PARTS SHARD_SIZE``. Tests kill it."""

import sys

from retrieval import load_model
from retrieval.parts.on_ray import describe_on_ray

if __name__ == "__main__":
    model = load_model("efficientnet_lite0-gem", size=32, engine="torch")
    report = describe_on_ray(
        sys.argv[1],
        sys.argv[2],
        model,
        shard_size=int(sys.argv[3]),
        progress=lambda done, total: print(done, total, flush=True),
        say=lambda line: print(line, flush=True),
    )
    print("described", report.described, report.failed)
