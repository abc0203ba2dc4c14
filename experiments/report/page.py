"""The report's one HTML page: sections, figures and the viewer's data in one file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from experiments.cell import ROWS
from experiments.report.illustration import Section
from experiments.report.svg import inline_svg
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
"""What the viewer lets choose, and what each is called."""

HERE = Path(__file__).parent


def render(
    sections: Sequence[Section], packed: Packed, folder: Path, *, opening: str, unfinished: str
) -> str:
    """The page, with every figure in it.

    Args:
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
    drawn = [figure for section in sections for block in section.blocks for figure in block.figures]
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
