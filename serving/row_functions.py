"""How an export completes an image row by row: names that the exporter and the server share.

The functions are attributes of `tf.saved_model.load(folder).rows`. They are no signatures, so
TensorFlow Serving does not see them. Each maps tensors by name to tensors by name. Shapes: N
completions of one image, R its side, n tokens, G sequences with guidance (N or none).

| function | inputs | outputs |
| --- | --- | --- |
| `view` | `image_bytes` string | `image` uint8 [R, R, 3], `pixels` uint8 [R, R, 3], as known pixels come back |
| `begin` | `image` uint8 [R, R, 3], whose unknown pixels the caller has filled, `known` bool [R, R], `num_completions` int32; of a class-conditional model also `labels` int32, -1 for no class, and `guidance_scale` float32 | a state |
| `decode_row` | a state, `known`, `seed` int64 [N], `temperature` float32 [N], `top_k` int32 [N], `top_p` float32 [N] | the next state, `num_rows` int32, `pixels` uint8 [N, r, R, 3], `entropy` float32 [N, r, R], `log_likelihood` float32 [N] |

`decode_row` decodes a row of tokens. Then the first `num_rows` rows of pixels are final. `pixels` and
`entropy` are those of the last r of them, which became final in this call; there may be none. The
values of `pixels` where a pixel is known mean nothing. The entropy of a pixel is the mean of its
tokens'. A state is `position` int32, `tokens` int32 [n, N], `log_probs` and `entropies` float32
[n, N], and `keys_0`, `values_0`, … [(N + G) · H, positions, D] of each layer. Of a class-conditional
model it is also `labels` int32 [N], `guidance_scale` float32 [N] and `guided` int32 [G].
"""  # noqa: E501

ROWS = "rows"
VIEW = "view"
BEGIN = "begin"
DECODE_ROW = "decode_row"
# The inputs of `begin` that only a class-conditional model has.
CONDITION = {"labels", "guidance_scale"}
# The inputs of each function; `decode_row` takes a state besides.
ROW_FUNCTIONS = {
    VIEW: {"image_bytes"},
    BEGIN: {"image", "known", "num_completions"},
    DECODE_ROW: {"known", "seed", "temperature", "top_k", "top_p"},
}
