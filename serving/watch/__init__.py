"""What people and Prometheus see: metrics, alerts, the live page."""
