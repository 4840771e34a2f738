"""Kinds of data sources, one module each; `open_data` finds them by name.

To add a kind, put a module of that name into this folder, or list one under the entry-point
group `igpt_keras.plugins`. It registers a function that opens a source:

```python
import numpy as np

from igpt_keras.data import ArraySplit, Source, register_source

@register_source("stripes")
def open_stripes(location: str) -> Source:
    \"\"\"Opens striped images; the location is their side in pixels.\"\"\"
    size = int(location)
    images = np.zeros((100, size, size, 3), np.uint8)
    images[:, ::2] = np.arange(100, dtype=np.uint8)[:, None, None, None]
    return Source(ArraySplit("stripes, train", images))
```

The parameters of the function declare what users can choose: `location` (the text after
`KIND:`, required unless it has a default), `split` (the split to train on; None for the usual
one), `data_dir` and `seed` (see `open_data`). A function takes those that it needs.
"""

from igpt_keras.registry import Registry

source_kinds = Registry("source kind", package=__name__)
register_source = source_kinds.register
