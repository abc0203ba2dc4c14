"""Relevance: what a whole model's prediction rests on, by several rankings, and how faithful each is to the model."""

from analysis.relevance.measure import Relevance
from analysis.relevance.rankings import RANKINGS, relevance

__all__ = ["RANKINGS", "Relevance", "relevance"]
