"""Matplotlib's SVG made fit to stand inside a page: ids of its own, a name for readers who do not see it."""

import re
import xml.etree.ElementTree as ET

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DROPPED = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
"""Children of defs and of the root that a page has no use for; its style sheet says what `style` said."""

ET.register_namespace("", SVG)


def inline_svg(source: str, prefix: str, alt: str) -> str:
    """An <svg> element for HTML.

    Args:
        source: an SVG file's text.
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
