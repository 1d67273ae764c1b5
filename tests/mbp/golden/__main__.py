"""Write the golden sequences anew, from the engine's own integers."""

from __future__ import annotations

from tests.mbp.golden import V1, V2, path, write
from tests.mbp.golden.books import IntegerBook

for recipe in (V1, V2):
    write(recipe, IntegerBook(recipe.reserve))
    print(path(recipe).name, path(recipe).stat().st_size, "bytes")
