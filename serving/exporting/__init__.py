"""Export of models as SavedModels that TensorFlow Serving runs, from image files to results.

| signature | inputs | outputs |
| --- | --- | --- |
| `complete` | `image_bytes` string [B], `keep_rows` int32 [B], `temperature` float32 [B], `top_k` int32 [B], `top_p` float32 [B], `seed` int64 [B] | `png_bytes` string [B], `pixels` uint8 [B, R, R, 3], `tokens` int32 [B, n], `log_likelihood` float32 [B] |
| `sample` | `temperature`, `top_k`, `top_p`, `seed` | as `complete` |
| `classify` | `inputs` string [B], tf.Examples with `image/encoded` | `classes` string [B, C], `scores` float32 [B, C] |
| `classify_images` | `image_bytes` | `classes`, `scores`, `logits` float32 [B, C] |
| `features` | `image_bytes` | `features` float32 [B, d] |
| `score` | `image_bytes` | `log_likelihood` float32 [B], `bits_per_pixel` float32 [B] |

Of a class-conditional model, `complete` and `sample` also take `labels` int32 [B], -1 for no class, and
`guidance_scale` float32 [B], and `score` takes `labels`. `classify` and `classify_images` then tell
log p(x | class), and `class_labels` finds `labels` int32 [B] of `class_names` string [B].

`serving_default` is the first of `complete`, `classify_images` and `features` that the models
have. `docs/export.md` describes the signatures in detail.
"""  # noqa: E501

from serving.exporting.saved_model import MAX_PIXELS, export

__all__ = ["MAX_PIXELS", "export"]
