"""Injectors of the kill matrix, found by entry point as any third party's are: the watchdog must find them, too."""
