"""Draws docs/rooms.svg: the rooms of the code and what imports what, from the import graph itself."""

from __future__ import annotations

from pathlib import Path

from import_graph import FILES, ROOMS, parse, relative_imports, room_of

DOCS = Path(__file__).resolve().parent
WIDTH, ROW, BOX, MARGIN = 900, 92, (150, 40), 20
INK, PAPER, ROOM, BAND = "#1b2a38", "#ffffff", "#dceaf5", "#f1f1ee"


def import_graph() -> dict[str, set[str]]:
    """Each room and module of the top, with the rooms it imports."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        imported = {name for name, _ in relative_imports(parse(file), file)}
        graph.setdefault(room_of(file), set()).update(imported - {room_of(file)})
    for name in ("__init__", "data", "inferers"):  # the package itself, and names of 0.3.2
        graph.pop(name)
    return {room: below & graph.keys() for room, below in graph.items()}


def tiers(graph: dict[str, set[str]], rooms: list[str]) -> tuple[list[str], list[list[str]]]:
    """The floor (the single modules below all folders), and the rooms above it by height.

    Args:
        graph: see `import_graph`.
        rooms: all rooms, from the floor up.
    """
    packages = {room for room in rooms if (DOCS.parent / "bundle" / "scripts" / room).is_dir()}
    floor = rooms[: next(place for place, room in enumerate(rooms) if room in packages)]
    height = dict.fromkeys(floor, 0)
    for room in (room for room in rooms if room not in floor):
        height[room] = 1 + max((height[below] for below in graph[room]), default=0)
    return floor, [[room for room in rooms if height[room] == h] for h in range(1, max(height.values()) + 1)]


def arrows(graph: dict[str, set[str]], rooms: list[str]) -> list[tuple[str, str]]:
    """Imports between `rooms`, without those that a way over another room says already."""
    below: dict[str, set[str]] = {}

    def reach(room: str) -> set[str]:
        if room not in below:
            direct = graph[room] & set(rooms)
            below[room] = direct.union(*(reach(one) for one in direct))
        return below[room]

    return [
        (room, one)
        for room in rooms
        for one in sorted(graph[room] & set(rooms))
        if not any(one in reach(other) for other in graph[room] & set(rooms) - {one})
    ]


def draw() -> str:
    """The picture as SVG."""
    graph = import_graph()
    floor, middle = tiers(graph, [room for room in ROOMS if room in graph])
    first = MARGIN
    places = {
        room: ((n + 1) * WIDTH / (len(row) + 1), first + ROW * (len(middle) - 1 - level) + BOX[1] / 2)
        for level, row in enumerate(middle)
        for n, room in enumerate(row)
    }
    floor_y = first + ROW * len(middle) - 12
    shapes = [
        _arrow(f"{room} imports {one}", places[room], places[one])
        for room, one in arrows(graph, [r for row in middle for r in row])
    ]
    shapes += [_box(room, *places[room]) for row in middle for room in row]
    shapes.append(_band(floor_y, "the floor, for all", [", ".join(floor)]))
    height = floor_y + 46 + 18 + MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="15" fill="{INK}" role="img" aria-label="rooms of bundle/scripts and their imports">\n'
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 Z" fill="{INK}"/></marker></defs>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="{PAPER}"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _band(y: float, title: str, lines: list[str]) -> str:
    text = "".join(
        f'<text x="{MARGIN + 14}" y="{y + 44 + 18 * n:g}" font-size="14">{line}</text>' for n, line in enumerate(lines)
    )
    width, height = WIDTH - 2 * MARGIN, 36 + 18 * len(lines)
    return (
        f'<rect x="{MARGIN}" y="{y:g}" width="{width}" height="{height}" rx="6" fill="{BAND}" stroke="{INK}"/>'
        f'<text x="{MARGIN + 14}" y="{y + 22:g}" font-weight="bold">{title}</text>{text}'
    )


def _box(room: str, x: float, y: float) -> str:
    return (
        f'<rect x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" width="{BOX[0]}" height="{BOX[1]}" rx="6" fill="{ROOM}" '
        f'stroke="{INK}"/><text x="{x:g}" y="{y + 5:g}" text-anchor="middle" font-weight="bold">{room}</text>'
    )


def _arrow(words: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    """From the lower side of the importing room to the upper side of the imported one."""
    (x0, y0), (x1, y1) = start, end
    y0, y1 = y0 + BOX[1] / 2, y1 - BOX[1] / 2
    x0, x1 = x0 + (x1 - x0) * 0.08, x1 - (x1 - x0) * 0.08
    return (
        f'<path d="M{x0:g},{y0:g} L{x1:g},{y1:g}" stroke="{INK}" stroke-width="1.3" marker-end="url(#tip)">'
        f"<title>{words}</title></path>"
    )


def main() -> None:
    """Write the picture."""
    (DOCS / "rooms.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
