"""Draw how good samples are against what they cost, for every sampler: docs/results/samplers/.

    python tools/compare_samplers.py

Left, a mixture of eight modes in six dimensions whose noise is known exactly, so that all error is the sampler's; right, a
network that was trained on samples of it. Some minutes on one core.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perdure.core.distances import random_directions, sliced_wasserstein
from perdure.core.files import write_atomic
from perdure.nets.denoiser import Denoiser, denoising_loss, random_times
from perdure.nets.diffusion import Linear, Predict, Sampler, perturbed
from perdure.nets.mixture import Mixture
from perdure.nets.moving_average import MovingAverage
from perdure.report.drawing import Picture
from perdure.report.figures import COLOURS, MARKERS, STYLE, encode

PLACE = Path("docs/results/samplers")

SAMPLERS = {
    "DPM-Solver++(2M), log-SNR": ("dpm++", "log-snr"), "DPM-Solver++(2M), time": ("dpm++", "time"),
    "DDIM, log-SNR": ("ddim", "log-snr"), "DDIM, time": ("ddim", "time"), "DDPM, time": ("ddpm", "time"),
    "DPM-Solver-3, time (released)": ("dpm-3", "time"),
}  # fmt: skip
EVALUATIONS = (3, 5, 7, 10, 15, 20, 30, 50, 100)

MODES, SIZE, DEVIATION, DRAWN = 8, 6, 0.08, 3000
RADIUS = 4.1
"""Deviations within which 99 % of true samples lie."""

UPDATES, BATCH, WIDTHS = 6000, 512, (256, 128, 64)

SCHEDULE = Linear()


def trained(mixture: Mixture, g: torch.Generator) -> Denoiser:
    """A denoiser of the mixture's samples, with the average of its weights."""
    data = mixture.samples(20_000, g).float()
    torch.manual_seed(0)
    net, average = Denoiser(SIZE, 0, WIDTHS), MovingAverage(0.001)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, UPDATES)
    for _ in range(UPDATES):
        rows = data[torch.randint(len(data), (BATCH,))]
        noise, t = torch.randn_like(rows), random_times(BATCH, SCHEDULE)
        optimizer.zero_grad()
        denoising_loss(net(perturbed(rows, noise, t, SCHEDULE), t), noise).mean().backward()
        optimizer.step()
        scheduler.step()
        average.follow(dict(net.named_parameters()))
    net.load_state_dict(net.state_dict() | average.view())
    return net.eval()


def measure() -> list[dict[str, object]]:
    """A row per prediction, sampler and number of evaluations."""
    g = torch.Generator().manual_seed(0)
    mixture, directions = Mixture.random(MODES, SIZE, DEVIATION, g), random_directions(200, SIZE, g)
    reference, noise = mixture.samples(DRAWN, g), torch.randn(DRAWN, SIZE, generator=g, dtype=torch.float64)
    net = trained(mixture, g)
    rows: list[dict[str, object]] = [{
        "prediction": "true samples", "sampler": "", "evaluations": "",
        "distance": round(sliced_wasserstein(mixture.samples(DRAWN, g), reference, directions), 4),
        "inside": round(mixture.inside(mixture.samples(DRAWN, g), RADIUS), 3),
    }]
    for label, (name, grid) in SAMPLERS.items():
        for evaluations in EVALUATIONS:
            sampler = Sampler(name, evaluations, grid)
            exact: Predict = mixture.noise(SCHEDULE)
            for kind, predict, start in (("exact", exact, noise),
                                         ("learned", net.prepared(None, sampler.times(SCHEDULE), DRAWN), noise.float())):
                samples = sampler.draw(predict, start, SCHEDULE, g=torch.Generator().manual_seed(1))
                rows.append({"prediction": kind, "sampler": label, "evaluations": evaluations,
                             "distance": round(sliced_wasserstein(samples, reference, directions), 4),
                             "inside": round(mixture.inside(samples, RADIUS), 3)})  # fmt: skip
        print(f"{label} done", flush=True)
    return rows


def draw(rows: list[dict[str, object]]) -> Picture:
    """Distance above, share of samples in a mode below; the exact mixture left, the trained network right."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 6.2), layout="constrained")
        grid = figure.subplots(2, 2, sharex=True, sharey="row")
        for column, kind in enumerate(("exact", "learned")):
            for line, quantity in enumerate(("distance", "inside")):
                _panel(grid[line, column], [row for row in rows if row["prediction"] == kind], quantity, float(rows[0][quantity]))
            grid[0, column].set_title("the noise is known exactly" if kind == "exact" else "a trained network predicts it")
            grid[1, column].set_xlabel("evaluations of the network per sample")
        grid[0, 0].set_ylabel("sliced Wasserstein distance\nto true samples (lower is better)")
        grid[1, 0].set_ylabel("share of samples in a mode\n(higher is better)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return Picture("quality", figure, "", "")


def _panel(axes: Axes, rows: list[dict[str, object]], quantity: str, best: float) -> None:
    for label, colour, marker in zip(SAMPLERS, COLOURS, MARKERS, strict=False):
        mine = [row for row in rows if row["sampler"] == label]
        width = 2.2 if label == next(iter(SAMPLERS)) else 1.2
        axes.plot([row["evaluations"] for row in mine], [row[quantity] for row in mine], color=colour, marker=marker,
                  markersize=4, linewidth=width, label=label)
    axes.axhline(best, color="#777777", linestyle="--", linewidth=1, label="other true samples")
    axes.set_xscale("log")
    axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
    axes.minorticks_off()
    if quantity == "distance":
        axes.set_yscale("log")
        axes.set_ylim(0.006, 1.0)  # the released sampler leaves it below 7 evaluations
        axes.yaxis.set_major_formatter("{x:g}")


def main() -> None:
    rows = measure()
    PLACE.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(PLACE / "quality.csv", out.getvalue().encode())
    write_atomic(PLACE / "quality.png", encode(draw(rows), "png"))
    print(f"{PLACE}/quality.png and quality.csv")


if __name__ == "__main__":
    main()
