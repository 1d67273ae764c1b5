"""The data side of the platform: PostgreSQL, the relay into its hot tables, and the CDC consumer into the warehouse."""
