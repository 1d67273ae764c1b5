"""The relay: the engine's event feed into the hot tables, each event once, with a heartbeat and a sample of quotes."""
