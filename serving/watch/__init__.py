"""Metrics, alerts and the live page."""
