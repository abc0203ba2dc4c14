"""Matplotlib's SVG made fit to stand inside a page: ids of its own, a name for readers who do not see it."""

import re
import xml.etree.ElementTree as ET

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
DROPPED = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")
"""Children of defs and of the root that a page has no use for; its style sheet says what `style` said."""

ET.register_namespace("", SVG)


def inline_svg(source: str, name: str, alt: str) -> str:
    """An <svg> element for HTML.

    Args:
        source: an SVG file's text.
        name: what every id in it begins with, as matplotlib gives the same ids in every figure.
        alt: what the figure shows, in words.
    """
    root = ET.fromstring(source)
    referred = set(re.findall(r"#([^\")\s]+)", source))
    for parent in root.iter():
        for child in [child for child in parent if child.tag in DROPPED]:
            parent.remove(child)
        identity = parent.attrib.pop("id", None)
        if identity in referred:
            parent.set("id", f"{name}-{identity}")
        link = parent.attrib.pop(f"{{{XLINK}}}href", None)
        if link is not None:
            parent.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else link)
        for key, value in parent.attrib.items():
            parent.set(key, re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", value))
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-alt")
    title = ET.Element(f"{{{SVG}}}title", {"id": f"{name}-alt"})
    title.text = alt
    root.insert(0, title)
    return ET.tostring(root, encoding="unicode")
