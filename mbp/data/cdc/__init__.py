"""The CDC consumer: what is committed to the hot tables comes to the warehouse, once, in order, and with its time."""
