"""What client and server agree on about the connection."""

# Room for a batch of photographs. gRPC's own default is 4 MiB.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
