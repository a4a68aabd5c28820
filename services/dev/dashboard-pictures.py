"""Draws the rows of deploy/monitoring/dashboard.json, as a Prometheus has them, into docs/pictures.

Usage: dashboard-pictures.py URL START END. One SVG for each row. `make dashboard-pictures` runs it on a cluster under load.
"""

import json
import math
import pathlib
import re
import sys
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("svg")
# Texts stay texts, which is small; ids are the same for the same picture.
matplotlib.rcParams.update(
    {"svg.fonttype": "none", "svg.hashsalt": "chatfn", "font.sans-serif": ["DejaVu Sans"], "font.size": 8, "axes.titlesize": 9}
)
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import EngFormatter, FuncFormatter, PercentFormatter  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
COLUMNS = 4
# Prometheus scrapes each second here.
RATE_INTERVAL = "10s"
STEP = 2
FONT = "; font-family: 'DejaVu Sans', sans-serif"
SCALED = {"s": "s", "bytes": "B", "Bps": "B/s"}
PLAIN = {"ops": "/s", "evps": "/s", "reqps": "/s", "short": ""}


def ranges(url, query, start, end):
    """What a query gives: for each series its labels, times in seconds after the start, and values."""
    parameters = {"query": query.replace("$__rate_interval", RATE_INTERVAL), "start": start, "end": end, "step": STEP}
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{urllib.parse.urlencode(parameters)}") as answer:
        result = json.load(answer)["data"]["result"]
    for series in result:
        points = [(at - start, float(value)) for at, value in series["values"]]
        points = [(at, value) for at, value in points if not math.isnan(value)]
        yield series["metric"], [at for at, _ in points], [value for _, value in points]


def legend(template, labels):
    text = re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), template)
    # Of ports of this one run nobody has anything.
    return re.sub(r"127\.0\.0\.1:\d+", "", text).strip() or "all"


def formatter(unit):
    if unit == "percentunit":
        return PercentFormatter(1)
    if unit in SCALED:
        return EngFormatter(unit=SCALED[unit], sep="")
    return FuncFormatter(lambda value, _: f"{value:g}{PLAIN[unit]}")


def draw(axes, panel, url, start, end):
    lines = []
    for target in panel["targets"]:
        for labels, times, values in ranges(url, target["expr"], start, end):
            if values:
                lines.append((legend(target["legendFormat"], labels), times, values))
    if not lines:
        sys.exit(f"{panel['title']} shows nothing")
    # Where there are many, those that are never anything but 0 would hide the others.
    if len(lines) > 4:
        lines = [line for line in lines if any(line[2])] or lines[:1]
    for name, times, values in lines:
        axes.plot(times, values, label=name, linewidth=1)
    axes.set_title(panel["title"], loc="left")
    axes.set_xlim(0, end - start)
    # Room for the legend above the lines.
    highest = max(max(values) for _, _, values in lines) or 1
    axes.set_ylim(0, highest * (1.1 + 0.12 * len(lines)))
    axes.yaxis.set_major_formatter(formatter(panel["fieldConfig"]["defaults"]["unit"]))
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(3))
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False, loc="upper left", labelspacing=0.2)


def smaller(tag):
    """A tag without what no eye sees: digits behind the point but one, turns by nothing, names of groups, line breaks."""
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", re.sub(r"\s+", " ", tag))
    tag = re.sub(r'^<g id="[^"]*"', "<g", tag).replace(FONT, "")
    if tag.startswith("<svg "):
        tag = tag.replace("<svg ", '<svg font-family="DejaVu Sans, sans-serif" ')
    return re.sub(r"(\d+\.\d)\d+", r"\1", tag)


def main():
    url, start, end = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rows = {}
    for panel in json.loads((REPOSITORY / "deploy/monitoring/dashboard.json").read_text())["panels"]:
        if panel["type"] == "row":
            panels = rows.setdefault(panel["title"], [])
        else:
            panels.append(panel)
    folder = REPOSITORY / "docs/pictures"
    folder.mkdir(exist_ok=True)
    for title, panels in rows.items():
        lines = math.ceil(len(panels) / COLUMNS)
        figure, grid = plt.subplots(lines, COLUMNS, figsize=(12, 2 * lines), layout="constrained", squeeze=False)
        places = list(grid.flat)
        for axes, panel in zip(places, panels):
            draw(axes, panel, url, start, end)
        for axes in places[len(panels):]:
            axes.remove()
        figure.suptitle(f"{title} (seconds since the start)", x=0.01, ha="left")
        path = folder / f"{title.lower().replace(' ', '-')}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        text = re.sub(r"<[^>]*>", lambda tag: smaller(tag[0]), path.read_text())
        path.write_text(re.sub(r"\n\s+", "\n", text))
        print(f"{path.relative_to(REPOSITORY)}: {len(text) / 1000:.0f} kB")
        plt.close(figure)


main()
