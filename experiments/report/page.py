"""The report's one HTML page: sections, figures and the viewer's data in one file."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.cell import ROWS
from experiments.report.parts import Section
from experiments.report.viewer import Packed

CHOICES: Mapping[str, str] = {
    "setting": "task",
    "model": "model",
    "clip": "clip",
    "layer": "layer",
    "direction": "direction",
    "anchor": "anchor token",
    "scale": "colour scale",
}
"""What the viewer lets a reader choose, and what each choice is called."""

HERE = Path(__file__).parent
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DROPPED = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
"""Elements that a page has no use for; its style sheet says what `style` said."""

ET.register_namespace("", SVG)


def render(
    sections: Sequence[Section], packed: Packed, folder: Path, *, opening: str, unfinished: str
) -> str:
    """The page, with every figure in it.

    Args:
        sections: what it holds.
        packed: what its viewer shows.
        folder: where the figures were drawn as SVG, by name.
        opening, unfinished: what is said first.
    """
    environment = Environment(
        loader=PackageLoader("experiments.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")
    drawn = [figure for section in sections for part in section.parts for figure in part.figures]
    svgs = {
        figure.name: inline_svg(
            (folder / f"{figure.name}.svg").read_text(encoding="utf-8"), f"f{k}", figure.alt
        )
        for k, figure in enumerate(drawn)
    }
    return environment.get_template("template.html").render(
        opening=opening,
        unfinished=unfinished,
        sections=sections,
        svgs=svgs,
        style=(HERE / "style.css").read_text(encoding="utf-8"),
        choices=CHOICES,
        rows_file=f"cells/CELL/{ROWS}",
        # "</" would end the script element.
        viewer_data=json.dumps(packed.data, separators=(",", ":")).replace("</", "<\\/"),
        viewer_script=(HERE / "viewer.js").read_text(encoding="utf-8"),
    )


def inline_svg(source: str, prefix: str, alt: str) -> str:
    """An <svg> element that can stand inside a page: its ids are its own, and it has a name for screen readers.

    Args:
        source: the text of an SVG file that matplotlib wrote.
        prefix: what every id in it begins with, as matplotlib gives the same ids in every figure. It stands at every
            letter of the figure, so a short one saves much of a page.
        alt: what the figure shows, in words.
    """
    root = ET.fromstring(source)
    referred = set(re.findall(r"#([^\")\s]+)", source))
    for parent in root.iter():
        for child in [child for child in parent if child.tag in DROPPED]:
            parent.remove(child)
        parent.text = parent.tail = None  # Of shapes, so nothing but line breaks.
        identity = parent.attrib.pop("id", None)
        if identity in referred:
            parent.set("id", f"{prefix}-{identity}")
        link = parent.attrib.pop(f"{{{XLINK}}}href", None)
        if link is not None:
            parent.set("href", f"#{prefix}-{link[1:]}" if link.startswith("#") else link)
        for key, value in parent.attrib.items():
            parent.set(key, re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", value))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-alt")
    title = ET.Element(f"{{{SVG}}}title", {"id": f"{prefix}-alt"})
    title.text = alt
    root.insert(0, title)
    return ET.tostring(root, encoding="unicode")
