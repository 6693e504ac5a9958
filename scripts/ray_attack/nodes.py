"""A Ray cluster of two nodes on this machine: the second may be killed, and is replaced."""

from __future__ import annotations

import os
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

CPUS = 2  # of each node


class TwoNodes:
    """``address``: as ``--on`` takes it; ``own_address``: as Ray itself finds it in RAY_ADDRESS."""

    def __init__(self, folder: Path) -> None:
        os.environ["RAY_TMPDIR"] = str(
            folder
        )  # before ray is imported: its address file and logs lie here, not in /tmp/ray
        from ray.cluster_utils import Cluster

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": CPUS, "ray_client_server_port": port, "include_dashboard": False},
        )
        self.address = f"ray://127.0.0.1:{port}"
        self.own_address = str(self._cluster.address)
        self._second: Any = self._cluster.add_node(num_cpus=CPUS)

    def kill_second(self, rng: random.Random) -> str:
        """Its raylet alone, or all of its processes at once; another node takes its place."""
        raylet = self._raylet(self._second)
        whole = rng.random() < 0.5
        # Ray's agents outlive a raylet that was killed; its workers must not.
        victims = raylet.children(recursive=True) if whole else _agents(raylet)
        _end([raylet, *victims])
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = self._cluster.add_node(num_cpus=CPUS)
        return "all of a node" if whole else "a node's raylet"

    def stop(self) -> None:
        for node in self._cluster.list_all_nodes():  # not gracefully: nothing of it is wanted any more
            agents = _agents(self._raylet(node))
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            _end(agents)

    @staticmethod
    def _raylet(node: Any) -> psutil.Process:
        return psutil.Process(node.all_processes["raylet"][0].process.pid)


def _agents(raylet: psutil.Process) -> list[psutil.Process]:
    return [process for process in raylet.children() if "Agent" in " ".join(process.cmdline())]


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
