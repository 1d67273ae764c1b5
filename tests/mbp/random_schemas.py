"""Random JSON Schemas, changes to them, and values: small numbers and few names, so that they meet each other."""

from __future__ import annotations

import json
import random

NAMES = ("a", "b", "ab")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
PATTERNS = ("^a", "b$")


class Maker:
    """Makes the same things for the same seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        """Return a JSON value."""
        pick = self.random.choice
        made = self.random.randrange(9 if depth < 2 else 6)
        if made == 7:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if made == 8:
            return {name: self.value(depth + 1) for name in NAMES if pick((0, 1))}
        return (None, pick((True, False)), self.random.randrange(-2, 8), pick((0.5, 2.5, -1.5)), "ab",
                pick(("", "a", "b", "aab", "bbbb")), 3)[made]  # fmt: skip

    def schema(self, depth=0):
        """Return a schema of at most three keywords a level."""
        pick = self.random.choice
        if depth > 2 or self.random.random() < 0.1:
            return pick((True, {}, False, {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"minimum": 2}))
        made = {}
        for _ in range(self.random.randrange(1, 4)):
            made.update(self.keyword(depth + 1))
        return made

    def keyword(self, depth):
        """Return one keyword with what belongs to it."""
        pick, number = self.random.choice, self.random.randrange(5)
        few = lambda: [self.schema(depth) for _ in range(self.random.randrange(1, 4))]  # noqa: E731
        return pick((
            lambda: {"type": pick((*TYPES, ["string", "null"], ["integer", "string"], ["object", "array"]))},
            lambda: {"enum": [self.value(1) for _ in range(self.random.randrange(1, 4))]},
            lambda: {"const": self.value(1)},
            lambda: {pick(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")): number},
            lambda: {"multipleOf": pick((1, 2, 3, 0.5))},
            lambda: {pick(("min", "max")) + pick(("Length", "Items", "Properties")): number},
            lambda: {"pattern": pick(PATTERNS)},
            lambda: {"properties": {name: self.schema(depth) for name in NAMES if pick((0, 1))}},
            lambda: {"patternProperties": {pick(PATTERNS): self.schema(depth)}},
            lambda: {"additionalProperties": pick((False, self.schema(depth)))},
            lambda: {"required": self.random.sample(NAMES, self.random.randrange(3))},
            lambda: {"propertyNames": self.schema(depth)},
            lambda: {"dependencies": {pick(NAMES): pick(([pick(NAMES)], self.schema(depth)))}},
            lambda: {"items": self.schema(depth)},
            lambda: {"items": few(), "additionalItems": self.schema(depth)},
            lambda: {"contains": self.schema(depth)},
            lambda: {"uniqueItems": True},
            lambda: {pick(("anyOf", "allOf", "oneOf")): few()},
            lambda: {"not": self.schema(depth)},
            lambda: {"if": self.schema(depth), "then": self.schema(depth), "else": self.schema(depth)},
        ))()  # fmt: skip

    def changed(self, schema):
        """Return a schema with a keyword left out, added, or changed inside."""
        if not isinstance(schema, dict) or not schema or self.random.random() < 0.2:
            return self.schema(1)
        made = json.loads(json.dumps(schema))
        name = self.random.choice(list(made))
        how = self.random.randrange(3)
        if how == 0:
            del made[name]
        elif how == 1:
            made.update(self.keyword(1))
        elif isinstance(made[name], dict) and name in ("properties", "patternProperties") and made[name]:
            inner = self.random.choice(list(made[name]))
            made[name][inner] = self.changed(made[name][inner])
        elif isinstance(made[name], dict | bool) and name in ("not", "if", "then", "else", "contains", "items"):
            made[name] = self.changed(made[name])
        elif type(made[name]) is int:
            made[name] = max(1, made[name] + self.random.choice((-1, 1)))
        return made
