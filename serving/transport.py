"""What client and server agree on about requests."""

# Room for a batch of photographs. gRPC's own default is 4 MiB.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
# Eight images of 2048 × 2048 pixels, the largest that an export accepts by default. Decoding
# them takes about a second.
MAX_REQUEST_PIXELS = 1 << 25
