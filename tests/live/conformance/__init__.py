"""The conformance table of Toxiproxy servers, driven through stock clients, with what passes on the wire in sight."""
