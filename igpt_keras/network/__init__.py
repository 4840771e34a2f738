"""The network: configuration, attention, layers, backbone and losses."""
