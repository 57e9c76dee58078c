"""The curve of time per id by rows, as a small SVG: nothing to install, readable in a repository."""

import math
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 320, 60, 50, 40, 20
COLOURS = {"zipf": "#1f6feb", "uniform": "#bf5b04"}
LABELS = {"zipf": "ids zipf(1.05)", "uniform": "ids uniform"}


def draw_sizes(result: list[dict[str, float]], out: Path, caches: dict[str, int]) -> None:
    """Write the plot; `caches` are sizes in bytes, drawn where the table's bytes reach them."""
    low, high = math.log10(result[0]["rows"]), math.log10(result[-1]["rows"])
    top = max(line[f"{name}_ns_per_id"] for line in result for name in COLOURS) * 1.1

    def x(rows: float) -> float:
        return LEFT + (math.log10(rows) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20">Nanoseconds per id of a whole training step, by rows in the table</text>',
    ]
    tick = 10 ** math.floor(math.log10(top))
    tick = tick if top / tick > 3 else tick / 4
    for n in range(int(top / tick) + 1):
        at = y(n * tick)
        parts.append(f'<line x1="{LEFT}" y1="{at:.1f}" x2="{WIDTH - RIGHT}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{n * tick:g}</text>')
    for line in result:
        parts.append(
            f'<text x="{x(line["rows"]):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{line['rows']:.0e}</text>".replace("e+0", "e")
        )
    per_row = result[-1]["table_bytes"] / result[-1]["rows"]
    for name, size in caches.items():
        rows = size / per_row
        if result[0]["rows"] <= rows <= result[-1]["rows"]:
            at = x(rows)
            parts.append(
                f'<line x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#888" '
                'stroke-dasharray="4 3"/>'
            )
            parts.append(f'<text x="{at + 4:.1f}" y="{TOP + 10}" fill="#555">{name}</text>')
    for k, (name, colour) in enumerate(COLOURS.items()):
        points = " ".join(f"{x(line['rows']):.1f},{y(line[f'{name}_ns_per_id']):.1f}" for line in result)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for point in points.split():
            px, py = point.split(",")
            parts.append(f'<circle cx="{px}" cy="{py}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{LEFT + 12}" y="{TOP + 30 + 18 * k}" fill="{colour}">{LABELS[name]}</text>')
    parts.append("</svg>")
    out.write_text("\n".join(parts) + "\n")


def cache_sizes() -> dict[str, int]:
    """The caches of the first core, by name, as the kernel tells them; none where it does not."""
    sizes: dict[str, int] = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        result: dict[str, Any] = {
            name: (folder / name).read_text().strip() for name in ("level", "type", "size")
        }
        if result["type"] != "Instruction":
            sizes[f"L{result['level']}"] = int(result["size"].rstrip("K")) << 10
    return sizes
