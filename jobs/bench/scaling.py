"""Parts of `python -m jobs.bench.flow` over archives that do not exist (jobs/bench/synthetic.py): how fast the flow is
with models of different speed, whether its steering finds the best number of decoders, and how it scales with nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jobs.bench import synthetic

Result = dict[str, Any]


def model_time(folder: Path, quick: bool) -> list[Result]:
    """Windows per second with one replica that takes a fixed time for a window; "limit": what its sleep allows;
    "driver limit": what one core could do if it did nothing but the driver's work."""
    results = []
    for number, seconds in enumerate((0.0, 0.001, 0.1) if quick else (0.0, 0.0003, 0.001, 0.01, 0.1, 1.0)):
        windows = int(min(20_000, 10 / seconds)) if seconds else 20_000 if quick else 100_000
        videos = max(1, windows // 300)
        model, settings = ("sleeping", {"seconds": seconds}) if seconds else ("nothing", {})
        length = windows / videos * synthetic.WINDOW_S
        ran = synthetic.run(folder / f"model{number}", videos, length, model=model, settings=settings)
        results.append(
            {
                "model_s": seconds,
                "windows": ran.windows,
                "windows_per_s": ran.steady_per_s,
                "limit_per_s": 1 / seconds if seconds else float("inf"),
                "driver_cpu_us_per_window": ran.driver_us,
                "driver_limit_per_s": 1e6 / max(ran.driver_us, 1e-9),
            }
        )
    return results


def steering(folder: Path, quick: bool) -> list[Result]:
    """Steered against every fixed number of decoders, with a slow and a fast model; decoding sleeps 20 ms a window."""
    results = []
    for name, model_s, windows in (("slow model", 0.02, 1500), ("fast model", 0.004, 3000)):
        rates: dict[str, float] = {}
        for decoders in (1, 3, 6) if quick else (1, 2, 3, 4, 6, 8):
            rates[str(decoders)] = _steered(folder / f"{name}{decoders}", model_s, windows // 3, decoders).steady_per_s
        steered = _steered(folder / f"{name}steered", model_s, windows, None)
        best = max(rates, key=rates.__getitem__)
        results.append(
            {
                "model": name,
                **{f"fixed_{n}": rate for n, rate in rates.items()},
                "steered": steered.steady_per_s,
                "steered_decoders": steered.decoders,
                "ratio_to_best": steered.steady_per_s / rates[best],
            }
        )
    return results


def _steered(log: Path, model_s: float, windows: int, decoders: int | None) -> synthetic.Ran:
    return synthetic.run(
        log,
        windows // 30,
        30 * synthetic.WINDOW_S,
        model="sleeping",
        settings={"seconds": model_s},
        decode_s=0.02,
        decoders=decoders,
        most_decoders=8,
    )


def nodes(folder: Path, quick: bool) -> list[Result]:
    """One replica per simulated node (raylets on this machine) whose model sleeps 50 ms a window, beside the same job
    in Ray Data as its documentation shows it: read, map_batches with a class of so many actors, write Parquet."""
    import ray
    from ray.cluster_utils import Cluster

    from workers.cluster import be_patient

    be_patient()
    results = []
    for count in (1, 2) if quick else (1, 2, 3, 4):
        cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "object_store_memory": 200 << 20, "include_dashboard": False},
        )
        try:
            for _ in range(count - 1):
                cluster.add_node(num_cpus=2, object_store_memory=200 << 20)
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            windows = 200 * count
            ran = synthetic.run(
                folder / f"nodes{count}",
                windows // 20,
                20 * synthetic.WINDOW_S,
                model="sleeping",
                settings={"seconds": 0.05},
                replicas=count,
                most_decoders=count,
            )
            data_s = ray_data(folder / f"data{count}", windows, 0.05, count)
            results.append(
                {
                    "nodes": count,
                    "windows": windows,
                    "flow_per_s": ran.windows / ran.seconds,
                    "flow_steady_per_s": ran.steady_per_s,
                    "limit_per_s": count / 0.05,
                    "ray_data_per_s": windows / data_s,
                }
            )
        finally:
            ray.shutdown()
            cluster.shutdown()
    return results


def ray_data(out: Path, windows: int, model_s: float, actors: int) -> float:
    """Seconds that the same work takes in Ray Data: `flat_map` makes the windows, a stateful class watches them."""
    import numpy as np
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False

    def decode(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for window in range(20):
            yield {
                "video": row["id"],
                "window": window,
                "pixels": np.full((1, synthetic.HEIGHT, synthetic.WIDTH, 3), 128, np.uint8),
            }

    class Watch:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            time.sleep(model_s * len(batch["window"]))
            return {"video": batch["video"], "window": batch["window"]}

    began = time.perf_counter()
    found = ray.data.range(windows // 20, override_num_blocks=max(1, windows // 20))
    decoded = found.flat_map(lambda row: list(decode(row)), num_cpus=0.5)
    watch: Callable[..., Any] = Watch
    decoded.map_batches(
        watch, batch_size=8, compute=ray.data.ActorPoolStrategy(size=actors), num_cpus=0.5
    ).write_parquet(str(out))
    return time.perf_counter() - began
