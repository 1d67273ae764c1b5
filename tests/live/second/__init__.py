"""A platform of somebody else: a small shop with Prometheus, Alertmanager and a webhook, behind one bearer token."""
