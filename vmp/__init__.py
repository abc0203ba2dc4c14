"""Selective scans and video state space models."""
