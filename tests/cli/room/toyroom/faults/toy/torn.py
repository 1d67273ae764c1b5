"""A fault whose tool is not installed."""

import no_such_tool

injector = no_such_tool.injector
