"""What a comparison adds to a probe of several models: names, the joint table, figures and notes."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import analysis
from analysis.compare import compare
from analysis.draw import write_figures
from analysis.tables import number
from tests.analysis.models import clip, video_model
