"""What tests of the commands share."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn without a layout, and an empty file stands for each: the rest is half of a report's time."""

    def sketch(figure: Figure, stem: Path) -> Path:
        figure.set_layout_engine("none")
        figure.draw_without_rendering()
        stem.with_suffix(".png").touch()
        return stem.with_suffix(".png")

    monkeypatch.setattr("analysis.draw.save_figure", sketch)
