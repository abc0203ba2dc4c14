"""Probes of implicit attention in state space models."""
